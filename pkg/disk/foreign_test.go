package disk_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// madeBy makes a small disk in a format of another hypervisor by qemu-img, and gives the raw bytes, too.
func madeBy(t *testing.T, format string, options ...string) (path string, raw []byte) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		if testing.Short() {
			t.Skip("needs qemu-img")
		}
		t.Fatal(err)
	}
	dir := t.TempDir()
	raw = make([]byte, 4<<20)
	copy(raw[1<<20:], bytes.Repeat([]byte("kiln"), 5000))
	if err := os.WriteFile(filepath.Join(dir, "raw"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "disk")
	args := append([]string{"convert", "-f", "raw", "-O", format}, options...)
	if out, err := exec.CommandContext(t.Context(), "qemu-img", append(args, filepath.Join(dir, "raw"), path)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path, raw
}

func TestConvertForeign(t *testing.T) {
	for name, c := range map[string]struct {
		format  string
		options []string
	}{
		"vmdk": {"vmdk", nil}, "vmdk, compressed": {"vmdk", []string{"-o", "subformat=streamOptimized"}},
		"vdi": {"vdi", nil}, "vhdx": {"vhdx", nil}, "vhd": {"vpc", []string{"-o", "force_size=on"}}, "vhd, fixed": {"vpc", []string{"-o", "subformat=fixed,force_size=on"}},
	} {
		t.Run(name, func(t *testing.T) {
			path, raw := madeBy(t, c.format, c.options...)
			out := filepath.Join(t.TempDir(), "out")
			if err := disk.ConvertForeign(t.Context(), disk.Image{Path: path, Format: c.format}, out, disk.Limits{}, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes came out of %d, %v", len(got), len(raw), err)
			}
		})
	}
}

// What reaches outside the file, is another format, or would not fit, is refused, and leaves nothing.
func TestConvertForeignRefuses(t *testing.T) {
	text := "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8192 FLAT \"/etc/passwd\" 0\n"
	edited := func(edit func(b []byte) []byte, options ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path, _ := madeBy(t, "vmdk", options...)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, edit(b), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	written := func(b []byte) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	parent := func(b []byte) []byte {
		return bytes.Replace(b, []byte("# The Disk Data Base"), []byte("parentFileNameHint=\""), 1)
	}
	for name, c := range map[string]struct {
		format string
		make   func(t *testing.T) string
		limits disk.Limits
		code   string
	}{
		"a description":        {"vmdk", written([]byte(text + string(make([]byte, 1024)))), disk.Limits{}, disk.CodeDataFile},
		"no capacity":          {"vmdk", edited(func(b []byte) []byte { clear(b[12:20]); return b }), disk.Limits{}, disk.CodeDataFile},
		"a parent":             {"vmdk", edited(parent), disk.Limits{}, disk.CodeBackingFile},
		"a parent, compressed": {"vmdk", edited(parent, "-o", "subformat=streamOptimized"), disk.Limits{}, disk.CodeBackingFile},
		"a footer's own": {"vmdk", edited(func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b[56:], ^uint64(0))
			return append(b, make([]byte, 1536)...)
		}), disk.Limits{}, disk.CodeDataFile},
		"a description beyond the end": {"vmdk", edited(func(b []byte) []byte { binary.LittleEndian.PutUint64(b[28:], 1<<40); return b }), disk.Limits{}, disk.CodeCorrupt},
		"qcow2 as vmdk":                {"vmdk", written(append([]byte("QFI\xfb"), make([]byte, 4096)...)), disk.Limits{}, disk.CodeFormat},
		"raw as vhd":                   {"vpc", written(make([]byte, 4096)), disk.Limits{}, disk.CodeFormat},
		"raw as vdi":                   {"vdi", written(make([]byte, 4096)), disk.Limits{}, disk.CodeFormat},
		"nothing":                      {"vdi", written(nil), disk.Limits{}, disk.CodeTruncated},
		"garbage":                      {"vhdx", written(append([]byte("vhdxfile"), make([]byte, 1<<20)...)), disk.Limits{}, disk.CodeCorrupt},
		"not one of these":             {"qcow2", written(make([]byte, 4096)), disk.Limits{}, disk.CodeUnsupported},
		"too large":                    {"vmdk", edited(func(b []byte) []byte { return b }), disk.Limits{VirtualBytes: 1 << 20}, disk.CodeSize},
		"more than is free":            {"vhdx", huge, disk.Limits{VirtualBytes: 1 << 62}, disk.CodeFull},
	} {
		t.Run(name, func(t *testing.T) {
			path, dir := c.make(t), t.TempDir()
			err := disk.ConvertForeign(t.Context(), disk.Image{Path: path, Format: c.format}, filepath.Join(dir, "out"), c.limits, nil)
			if errs.CodeOf(err) != c.code {
				t.Errorf("%v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// huge makes a disk of 32 TiB in a small file.
func huge(t *testing.T) string {
	t.Helper()
	path, _ := madeBy(t, "vhdx")
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=268435456", path, "32T").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}
