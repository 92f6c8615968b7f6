package disk_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func randomRaw(t *testing.T, dir string, size int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "src.raw")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

func TestConvertThereAndBack(t *testing.T) {
	if testing.Short() {
		t.Skip("needs qemu-img")
	}
	for name, convert := range map[string]func(ctx context.Context, src, dst disk.Image, progress func(done, total int64)) error{
		"to keep": disk.Convert, "scratch": disk.ConvertScratch,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, data := randomRaw(t, dir, 16<<20)
			q, back := disk.Image{Path: filepath.Join(dir, "a.qcow2"), Format: disk.Qcow2}, disk.Image{Path: filepath.Join(dir, "b.raw"), Format: disk.Raw}
			var last int64
			if err := convert(t.Context(), disk.Image{Path: path, Format: disk.Raw}, q, func(done, total int64) {
				if done < last || total != 16<<20 {
					t.Errorf("progress went from %d to %d of %d", last, done, total)
				}
				last = done
			}); err != nil {
				t.Fatal(err)
			}
			if last != 16<<20 {
				t.Fatalf("progress ended at %d", last)
			}
			if err := convert(t.Context(), q, back, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(back.Path); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("the disk changed on the way (%v)", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
				t.Fatalf("in the folder: %v, %v", left, err)
			}
		})
	}
}

func TestConvertFailsCleanly(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path, _ := randomRaw(t, dir, 16<<20)
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	small, err := s.MountTmpfs(t.Context(), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	raw := disk.Image{Path: path, Format: disk.Raw}
	err = disk.Convert(t.Context(), raw, disk.Image{Path: filepath.Join(small.HostPath(), "x"), Format: disk.Qcow2}, nil)
	if errs.CodeOf(err) != disk.CodeFull || errs.KindOf(err) != errs.TooLarge {
		t.Fatalf("on a full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := t.TempDir()
	if err := disk.Convert(ctx, raw, disk.Image{Path: filepath.Join(out, "x"), Format: disk.Qcow2}, nil); !errs.Is(err, errs.Cancelled) {
		t.Fatalf("cancelled: %v", err)
	}
	if err := disk.Convert(t.Context(), disk.Image{Path: path, Format: disk.Qcow2}, disk.Image{Path: filepath.Join(out, "x"), Format: disk.Raw}, nil); errs.CodeOf(err) != disk.CodeFormat {
		t.Fatalf("wrong format: %v", err)
	}
	for _, d := range []string{out, small.HostPath()} {
		if left, _ := os.ReadDir(d); len(left) != 0 {
			t.Fatalf("left behind: %v", left)
		}
	}
}
