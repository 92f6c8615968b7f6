package disk_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const (
	guidA = "11111111-2222-3333-4444-0123456789AB"
	guidB = "AABBCCDD-1122-3344-5566-778899AABBCC"
)

type memDisk []byte

func (m memDisk) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

func gptDisk(t *testing.T) (memDisk, []disk.Partition) {
	t.Helper()
	m := make(memDisk, 16<<20)
	want := []disk.Partition{
		{Index: 1, Type: disk.TypeLinux, UUID: guidA, Name: "root", Start: 4 << 20, Length: 8 << 20},
		{Index: 14, Type: disk.TypeBIOSBoot, UUID: guidB, Name: "bios", Start: 1 << 20, Length: 3 << 20},
	}
	if err := disk.WriteGPT(m, int64(len(m)), guidB, want); err != nil {
		t.Fatal(err)
	}
	return m, want
}

func TestGPTRoundTripAndDamage(t *testing.T) {
	m, want := gptDisk(t)
	read := func() ([]disk.Partition, error) { return disk.Partitions(bytes.NewReader(m), int64(len(m))) }
	if got, err := read(); err != nil || cmp.Diff(want, got) != "" {
		t.Fatalf("%v\n%s", err, cmp.Diff(want, got))
	}
	m[512+24]++ // first header damaged: the copy at the end serves
	if got, err := read(); err != nil || cmp.Diff(want, got) != "" {
		t.Fatalf("from the copy: %v\n%s", err, cmp.Diff(want, got))
	}
	m[len(m)-512+24]++
	if _, err := read(); errs.CodeOf(err) != disk.CodePartitions {
		t.Fatalf("both damaged: %v", err)
	}
	m, _ = gptDisk(t)
	m[1024+40]++ // an entry that its checksum does not cover any more, in the first table only
	if got, err := read(); err != nil || cmp.Diff(want, got) != "" {
		t.Fatalf("entry damaged: %v", err)
	}
}

func TestDiskWithoutTable(t *testing.T) {
	b := make([]byte, 8<<20)
	if _, err := disk.Partitions(bytes.NewReader(b), int64(len(b))); errs.CodeOf(err) != disk.CodePartitions {
		t.Fatal(err)
	}
	b[1024+56], b[1024+57], b[1024+96] = 0x53, 0xef, 0x40
	parts, err := disk.Partitions(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(parts) != 1 || parts[0].Type != disk.TypeWhole || parts[0].Length != 8<<20 {
		t.Fatal(parts, err)
	}
	root, err := disk.FindRoot(bytes.NewReader(b), parts)
	if err != nil || root != parts[0] {
		t.Fatal(root, err)
	}
}

// chain is a disk with an extended partition from sector 2048 whose records point to where next says, from there.
func chain(next func(record int) uint32) []byte {
	m := make([]byte, 8<<20)
	put := func(sector, entry int, kind byte, start, length uint32) {
		b := m[sector*512:]
		b[510], b[511] = 0x55, 0xaa
		b[446+16*entry+4] = kind
		binary.LittleEndian.PutUint32(b[446+16*entry+8:], start)
		binary.LittleEndian.PutUint32(b[446+16*entry+12:], length)
	}
	put(0, 0, 0x0f, 2048, 8192)
	for k := range 200 {
		put(2048+8*k, 0, 0x83, 1, 4)
		put(2048+8*k, 1, 0x05, next(k), 8)
	}
	return m
}

// TestHostileChains: logical partitions that never end, that lead out of the disk, and a record that is none.
func TestHostileChains(t *testing.T) {
	for name, next := range map[string]func(int) uint32{
		"to itself": func(int) uint32 { return 0 }, "back and forth": func(k int) uint32 { return uint32(8 * (1 - k%2)) },
		"too many": func(k int) uint32 { return uint32(8 * (k + 1)) }, "out of the disk": func(int) uint32 { return 1 << 31 }, "to no record": func(int) uint32 { return 4096 },
	} {
		m := chain(next)
		parts, err := disk.Partitions(bytes.NewReader(m), int64(len(m)))
		if code := errs.CodeOf(err); parts != nil || code != disk.CodePartitions && code != disk.CodeTruncated {
			t.Errorf("%s: %v %v", name, parts, err)
		}
	}
}

// TestLabelsOfLVM: the label may lie in any of the first four sectors.
func TestLabelsOfLVM(t *testing.T) {
	for sector := range 4 {
		b := make([]byte, 1<<20)
		copy(b[sector*512:], "LABELONE")
		copy(b[sector*512+24:], "LVM2 001")
		if kind := disk.Filesystem(bytes.NewReader(b), 0, int64(len(b))); kind != "LVM2_member" {
			t.Errorf("sector %d: %q", sector, kind)
		}
	}
}

func FuzzPartitions(f *testing.F) {
	m := make(memDisk, 64<<10)
	parts := []disk.Partition{{Index: 1, Type: disk.TypeLinux, UUID: guidA, Start: 32 << 10, Length: 4 << 10}}
	if err := disk.WriteGPT(m, int64(len(m)), guidB, parts); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(m))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := disk.Partitions(bytes.NewReader(b), int64(len(b)))
		for _, p := range parts {
			if err == nil && (p.Start < 0 || p.Length < 0 || p.Start+p.Length > int64(len(b))) {
				t.Fatalf("outside the disk: %+v of %d", p, len(b))
			}
		}
	})
}

// TestTablesOfSfdisk holds reader and writer against util-linux.
func TestTablesOfSfdisk(t *testing.T) {
	if testing.Short() {
		t.Skip("needs sfdisk and mke2fs")
	}
	dir := t.TempDir()
	run := func(stdin string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	mbr := filepath.Join(dir, "mbr")
	run("", "truncate", "-s", "64M", mbr)
	run("label: dos\n2048,8192,83,*\n,16384,82\n,,5\n,8192,83\n,,83\n", "sfdisk", "-q", mbr)
	f, err := os.Open(mbr)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, err := disk.Partitions(f, 64<<20)
	var got []string
	for _, p := range parts {
		got = append(got, p.Type)
	}
	if want := []string{"0x83", "0x82", "0x83", "0x83"}; err != nil || cmp.Diff(want, got) != "" || parts[2].Index != 5 {
		t.Fatal(parts, err)
	}
	run("", "mke2fs", "-q", "-t", "ext4", "-E", "offset="+itoa(parts[3].Start), mbr, itoa(parts[3].Length/1024)+"k")
	if root, err := disk.FindRoot(f, parts); err != nil || root != parts[3] {
		t.Fatal(root, err)
	}
	ours := filepath.Join(dir, "gpt")
	m, want := gptDisk(t)
	if err := os.WriteFile(ours, m, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run("", "sfdisk", "--verify", ours); !strings.Contains(out, "No errors detected") {
		t.Fatal(out)
	}
	if out := run("", "sfdisk", "-d", ours); !strings.Contains(out, want[0].UUID) || !strings.Contains(out, `name="bios"`) {
		t.Fatal(out)
	}
}
