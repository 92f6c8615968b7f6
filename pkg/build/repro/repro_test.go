package repro_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build/repro"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/disk/stable"
)

const start, length = 2 << 20, 12 << 20

// image makes a disk with one ext4 partition and gives its path.
func image(t *testing.T, format string, files map[string]string) string {
	t.Helper()
	dir, tree := t.TempDir(), t.TempDir()
	for name, text := range files {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600),
			os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0))); err != nil {
			t.Fatal(err)
		}
	}
	raw := filepath.Join(dir, "raw")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	const size = start + length + 2<<20
	id := "11111111-2222-3333-4444-555555555555"
	err = errors.Join(f.Truncate(size), disk.WriteGPT(f, size, id, []disk.Partition{{Index: 1, Type: disk.TypeRootAMD64, UUID: id, Name: "root", Start: start, Length: length}}), f.Close())
	if err == nil {
		err = stable.Ext4{Image: raw, Offset: start, Length: length, UUID: id, Label: "root", Epoch: time.Unix(1.5e9, 0)}.Write(t.Context(), tree, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	if format == disk.Raw {
		return raw
	}
	out := filepath.Join(dir, "qcow2")
	if said, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, out).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, said)
	}
	return out
}

func open(t *testing.T, path, format string) *repro.Disk {
	t.Helper()
	d, err := repro.Open(path, format)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func told(t *testing.T, a, b *repro.Disk) string {
	t.Helper()
	found, err := repro.Compare(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range found {
		out = append(out, d.String())
	}
	return strings.Join(out, "\n")
}

func TestCompareNamesWhatDiffers(t *testing.T) {
	if testing.Short() {
		t.Skip("runs mke2fs, debugfs and qemu-img; not in -short")
	}
	same := map[string]string{"etc/a": "one", "etc/b": "two", "c": "three"}
	first := image(t, disk.Raw, same)
	a := open(t, first, disk.Raw)
	if got := told(t, a, open(t, image(t, disk.Qcow2, same), disk.Qcow2)); got != "" {
		t.Errorf("the same disk in two formats differs:\n%s", got)
	}
	b := open(t, image(t, disk.Raw, map[string]string{"etc/a": "0ne", "etc/bb": "two", "c": "longer"}), disk.Raw)
	want := "partition 1 (root): /c: content, 5 bytes and 6 bytes\npartition 1 (root): /etc/a: content\n" +
		"partition 1 (root): /etc/b: only in the first\npartition 1 (root): /etc/bb: only in the second"
	if got := told(t, a, b); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	for _, c := range []struct {
		at   int64
		want string
	}{
		{10, "boot sector: 1 blocks differ"}, {1 << 20, "partition table: 1 blocks differ"},
		{start + length - 100, "partition 1 (root): 1 blocks differ, no file does"},
	} {
		other := filepath.Join(t.TempDir(), "other")
		data, err := os.ReadFile(first)
		if err != nil {
			t.Fatal(err)
		}
		data[c.at] ^= 1
		if err := os.WriteFile(other, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := told(t, a, open(t, other, disk.Raw)); got != c.want {
			t.Errorf("a byte at %d: %q, not %q", c.at, got, c.want)
		}
	}
	if _, err := repro.Open(filepath.Join(t.TempDir(), "none"), disk.Raw); err == nil {
		t.Error("a disk that is not there opens")
	}
}
