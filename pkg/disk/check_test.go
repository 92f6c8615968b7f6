package disk_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// qcow2 builds a valid version 3 header (1 GiB, 64 KiB clusters, tables inside the file), then lets edit spoil it.
func qcow2(edit func(b []byte)) []byte {
	b := make([]byte, 4<<16)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<30)
	be.PutUint32(b[36:], 2)
	be.PutUint64(b[40:], 3<<16)
	be.PutUint64(b[48:], 1<<16)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	if edit != nil {
		edit(b)
	}
	return b
}

func TestCheckRefusesHostileHeaders(t *testing.T) {
	be := binary.BigEndian
	cases := []struct {
		name, format, code string
		image              []byte
	}{
		{"good", "qcow2", "", qcow2(nil)},
		{"dirty is fine", "qcow2", "", qcow2(func(b []byte) { be.PutUint64(b[72:], 1) })},
		{"version 2", "qcow2", "", qcow2(func(b []byte) { be.PutUint32(b[4:], 2); clear(b[72:112]) })},
		{"backing file", "qcow2", disk.CodeBackingFile, qcow2(func(b []byte) { be.PutUint64(b[8:], 512); be.PutUint32(b[16:], 11); copy(b[512:], "/etc/shadow") })},
		{"backing format only", "qcow2", disk.CodeBackingFile, qcow2(func(b []byte) { be.PutUint32(b[104:], 0xE2792ACA); be.PutUint32(b[108:], 3) })},
		{"data file bit", "qcow2", disk.CodeDataFile, qcow2(func(b []byte) { be.PutUint64(b[72:], 4) })},
		{"data file name behind another extension", "qcow2", disk.CodeDataFile, qcow2(func(b []byte) {
			be.PutUint32(b[104:], 0x6803f857)
			be.PutUint32(b[108:], 3)
			be.PutUint32(b[120:], 0x44415441)
		})},
		{"encrypted", "qcow2", disk.CodeEncrypted, qcow2(func(b []byte) { be.PutUint32(b[32:], 2) })},
		{"encryption header", "qcow2", disk.CodeEncrypted, qcow2(func(b []byte) { be.PutUint32(b[104:], 0x0537be77) })},
		{"unknown feature", "qcow2", disk.CodeUnknownFeature, qcow2(func(b []byte) { be.PutUint64(b[72:], 1<<63) })},
		{"unknown compression", "qcow2", disk.CodeUnknownFeature, qcow2(func(b []byte) { be.PutUint64(b[72:], 8); be.PutUint32(b[100:], 112); b[104] = 9 })},
		{"marked corrupt", "qcow2", disk.CodeCorrupt, qcow2(func(b []byte) { be.PutUint64(b[72:], 2) })},
		{"huge disk", "qcow2", disk.CodeSize, qcow2(func(b []byte) { be.PutUint64(b[24:], 1<<62) })},
		{"negative disk", "qcow2", disk.CodeSize, qcow2(func(b []byte) { be.PutUint64(b[24:], 1<<63) })},
		{"cluster bits", "qcow2", disk.CodeCorrupt, qcow2(func(b []byte) { be.PutUint32(b[20:], 63) })},
		{"huge L1", "qcow2", disk.CodeSize, qcow2(func(b []byte) { be.PutUint32(b[36:], 1<<31) })},
		{"short L1", "qcow2", disk.CodeCorrupt, qcow2(func(b []byte) { be.PutUint32(b[36:], 1) })},
		{"L1 off the cluster", "qcow2", disk.CodeCorrupt, qcow2(func(b []byte) { be.PutUint64(b[40:], 77) })},
		{"L1 behind the end", "qcow2", disk.CodeTruncated, qcow2(func(b []byte) { be.PutUint64(b[40:], 1<<40) })},
		{"L1 wraps around", "qcow2", disk.CodeTruncated, qcow2(func(b []byte) { be.PutUint64(b[40:], 0xffffffffffff0000) })},
		{"huge refcount table", "qcow2", disk.CodeSize, qcow2(func(b []byte) { be.PutUint32(b[56:], 1<<30) })},
		{"wide refcounts", "qcow2", disk.CodeCorrupt, qcow2(func(b []byte) { be.PutUint32(b[96:], 7) })},
		{"many snapshots", "qcow2", disk.CodeSize, qcow2(func(b []byte) { be.PutUint32(b[60:], 65536) })},
		{"cut header", "qcow2", disk.CodeTruncated, qcow2(nil)[:80]},
		{"cut tables", "qcow2", disk.CodeTruncated, qcow2(nil)[:2<<16]},
		{"version 9", "qcow2", disk.CodeUnsupported, qcow2(func(b []byte) { be.PutUint32(b[4:], 9) })},
		{"raw", "raw", "", make([]byte, 4096)},
		{"qcow2 announced as raw", "raw", disk.CodeFormat, qcow2(nil)},
		{"raw announced as qcow2", "qcow2", disk.CodeFormat, make([]byte, 4096)},
		{"vmdk descriptor announced as raw", "raw", disk.CodeFormat, append([]byte("# Disk DescriptorFile\n"), make([]byte, 2000)...)},
		{"vmdk", "vmdk", disk.CodeUnsupported, make([]byte, 4096)},
		{"empty", "raw", disk.CodeTruncated, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h, err := disk.Check(bytes.NewReader(c.image), int64(len(c.image)), c.format, disk.Limits{})
			if c.code == "" {
				if err != nil || h.VirtualSize == 0 {
					t.Fatalf("refused: %v (header %+v)", err, h)
				}
				return
			}
			if errs.CodeOf(err) != c.code {
				t.Fatalf("got %q (%v), want %q", errs.CodeOf(err), err, c.code)
			}
		})
	}
}

func TestCheckNamesAnUnsupportedFormat(t *testing.T) {
	_, err := disk.Check(bytes.NewReader(nil), 0, "vmdk", disk.Limits{})
	if err == nil || !strings.Contains(err.Error(), `"vmdk" is not supported`) {
		t.Fatal(err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(qcow2(nil)[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := disk.Check(bytes.NewReader(b), int64(len(b)), "qcow2", disk.Limits{VirtualBytes: 1 << 40})
		if err == nil && (h.VirtualSize < 0 || h.VirtualSize > 1<<40) {
			t.Fatalf("accepted %+v", h)
		}
	})
}

// TestCheckAgreesWithQemu holds the parser against files that qemu-img writes.
func TestCheckAgreesWithQemu(t *testing.T) {
	if testing.Short() {
		t.Skip("needs qemu-img")
	}
	dir := t.TempDir()
	cases := []struct {
		name, code string
		args       []string
	}{
		{"plain", "", []string{"-f", "qcow2"}},
		{"compat 0.10", "", []string{"-f", "qcow2", "-o", "compat=0.10"}},
		{"zstd", "", []string{"-f", "qcow2", "-o", "compression_type=zstd"}},
		{"extended L2", "", []string{"-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k"}},
		{"luks", disk.CodeEncrypted, []string{"-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"}},
		{"data file", disk.CodeDataFile, []string{"-f", "qcow2", "-o", "data_file=" + filepath.Join(dir, "data.raw")}},
		{"backing", disk.CodeBackingFile, []string{"-f", "qcow2", "-b", filepath.Join(dir, "plain"), "-F", "qcow2"}},
	}
	for _, c := range cases {
		path := filepath.Join(dir, c.name)
		out, err := exec.CommandContext(t.Context(), "qemu-img", append(append([]string{"create", "-q"}, c.args...), path, "3G")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", c.name, err, out)
		}
		h, err := disk.CheckFile(disk.Image{Path: path, Format: "qcow2"}, disk.Limits{})
		if c.code != "" {
			if errs.CodeOf(err) != c.code {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || h.VirtualSize != 3<<30 || h.Zstd != (c.name == "zstd") || h.ExtendedL2 != (c.name == "extended L2") {
			t.Errorf("%s: %+v %v", c.name, h, err)
		}
		if err := os.Truncate(path, 66000); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.CheckFile(disk.Image{Path: path, Format: "qcow2"}, disk.Limits{}); errs.CodeOf(err) != disk.CodeTruncated {
			t.Errorf("%s, cut off: %v", c.name, err)
		}
		os.Remove(path)
		if c.name == "plain" { // the backing case needs it again
			exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", path, "3G").Run()
		}
	}
}
