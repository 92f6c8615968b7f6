package disk_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// TestGrowLast: sfdisk made the tables, and sfdisk is satisfied with them afterwards.
func TestGrowLast(t *testing.T) {
	if testing.Short() {
		t.Skip("runs sfdisk")
	}
	const from, to = 64 << 20, 192 << 20
	for name, c := range map[string]struct {
		script string
		root   int // index among the partitions
		wrong  string
	}{
		"gpt":             {"label: gpt\n1MiB,1MiB,21686148-6449-6E6F-744E-656564454649\nstart=2MiB, size=60MiB, type=L, attrs=\"LegacyBIOSBootable\"", 1, ""},
		"mbr":             {"label: dos\n1MiB,10MiB,L\n11MiB,,L,*", 1, ""},
		"not the last":    {"label: gpt\n1MiB,10MiB,L\n11MiB,10MiB,L", 0, "partition 2 lies behind it"},
		"a logical one":   {"label: dos\n1MiB,40MiB,E\n2MiB,10MiB,L", 0, "is a logical one"},
		"without a table": {"", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(from); err != nil {
				t.Fatal(err)
			}
			before := disk.Partition{Type: disk.TypeWhole, Length: from}
			if c.script != "" {
				sfdisk(t, c.script, path)
				parts, err := disk.Partitions(f, from)
				if err != nil {
					t.Fatal(err)
				}
				before = parts[c.root]
			}
			if err := f.Truncate(to); err != nil {
				t.Fatal(err)
			}
			grown, err := disk.GrowLast(f, from, to, before)
			if c.wrong != "" {
				if errs.CodeOf(err) != disk.CodePartitions || !strings.Contains(err.Error(), c.wrong) {
					t.Error(err)
				}
				return
			}
			if err != nil || grown.Start != before.Start || grown.Start+grown.Length < to-2<<20 || grown.Start+grown.Length > to {
				t.Fatalf("%+v %v", grown, err)
			}
			if c.script == "" {
				return
			}
			parts, err := disk.Partitions(f, to)
			if err != nil || parts[c.root] != grown {
				t.Errorf("%+v %v", parts, err)
			}
			out, err := exec.CommandContext(t.Context(), "/usr/sbin/sfdisk", "--dump", path).CombinedOutput()
			if err != nil || strings.Contains(string(out), "corrupt") || name == "gpt" && !strings.Contains(string(out), "LegacyBIOSBootable") {
				t.Errorf("%v %s", err, out)
			}
			if _, err := f.WriteAt(make([]byte, 512), 512); err != nil { // the copy alone must do
				t.Fatal(err)
			}
			if parts, err = disk.Partitions(f, to); name == "gpt" && (err != nil || parts[c.root] != grown) {
				t.Errorf("from the copy: %+v %v", parts, err)
			}
		})
	}
}

func sfdisk(t *testing.T, script, path string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/sbin/sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader(script + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("sfdisk: %v %s", err, out.String())
	}
	return out.String()
}
