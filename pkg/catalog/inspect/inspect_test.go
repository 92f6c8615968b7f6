package inspect_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const rootUUID = "6a1f1c6e-3b1e-4f1e-9d5c-0123456789ab"

const status = `Package: dpkg
Essential: yes
Status: install ok installed
Architecture: amd64
Version: 1.21.22

Package: cloud-init
Status: install ok installed
Architecture: all
Version: 22.4.2-1

Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.0.15-1~deb12u1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
`

// debianTree is a small stand-in for a Debian root.
func debianTree() map[string]string {
	return map[string]string{
		"usr/lib/os-release":                  "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\nVERSION_CODENAME=bookworm\n",
		"etc/os-release":                      "->../usr/lib/os-release",
		"etc/machine-id":                      "",
		"var/lib/dpkg/status":                 status,
		"boot/vmlinuz-6.1.0-9-cloud-amd64":    "k",
		"boot/vmlinuz-6.1.0-10-cloud-amd64":   "k",
		"boot/initrd.img-6.1.0-9-cloud-amd64": "i",
		"boot/grub/grub.cfg":                  "menuentry",
	}
}

func debianFacts() *catalog.Facts {
	return &catalog.Facts{
		OS:           catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm", PrettyName: "Debian GNU/Linux 12 (bookworm)"},
		Architecture: "amd64", DiskFormat: "raw", VirtualSize: 32 << 20, MinDiskGiB: 1, PartitionTable: "none",
		FileSystem: "ext4", RootUUID: rootUUID, BootLoader: "grub", CloudInit: true, MachineID: "empty",
		Kernels: []string{"6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"}, Initrds: []string{"6.1.0-9-cloud-amd64"},
		PackageKind: "deb", Packages: []catalog.Package{
			{Name: "dpkg", Version: "1.21.22", Architecture: "amd64", Source: "dpkg"},
			{Name: "cloud-init", Version: "22.4.2-1", Architecture: "all", Source: "cloud-init"},
			{Name: "libssl3", Version: "3.0.15-1~deb12u1", Architecture: "amd64", Source: "openssl"},
		},
		Firmware: "none", Services: []string{}, Users: []catalog.User{}, Setuid: []catalog.Setuid{},
		ConffilesChanged: []catalog.Conffile{}, Skipped: []string{}, Mounts: []string{}, EtcUnowned: 1, // machine-id
		Partitions: []catalog.Partition{{Type: "whole", FileSystem: "ext4", Size: 32 << 20, Root: true}},
	}
}

// makeDisk makes a file system of a tree; values beginning with "->" are symbolic links.
func makeDisk(t testing.TB, kind string, tree map[string]string, args ...string) []byte {
	t.Helper()
	root := t.TempDir()
	for name, text := range tree {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "disk")
	args = append(append([]string{"-q", "-t", kind, "-U", rootUUID, "-d", root}, args...), image, "32m")
	run(t, "mke2fs", args...)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if cmd.Err != nil {
		cmd = exec.CommandContext(t.Context(), "/usr/sbin/"+name, args...)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func read(t *testing.T, data []byte, format string) (*catalog.Facts, error) {
	t.Helper()
	return inspect.Read(t.Context(), bytes.NewReader(data), int64(len(data)), format)
}

func TestFacts(t *testing.T) {
	disks := map[string]struct {
		kind string
		args []string
	}{
		"ext4": {"ext4", nil}, "ext4 small blocks": {"ext4", []string{"-b", "1024"}}, "ext3": {"ext3", nil}, "ext2": {"ext2", nil},
		"ext4 without 64bit": {"ext4", []string{"-O", "^64bit,^metadata_csum"}},
	}
	for name, d := range disks {
		t.Run(name, func(t *testing.T) {
			facts, err := read(t, makeDisk(t, d.kind, debianTree(), d.args...), "raw")
			if err != nil {
				t.Fatal(err)
			}
			want := debianFacts()
			want.FileSystem, want.Partitions[0].FileSystem = d.kind, d.kind
			if diff := cmp.Diff(want, facts, cmpopts.IgnoreFields(catalog.Facts{}, "UsedBytes")); diff != "" {
				t.Error(diff)
			}
			if facts.UsedBytes < 100<<10 || facts.UsedBytes > 8<<20 {
				t.Errorf("%d bytes used", facts.UsedBytes)
			}
		})
	}
}

func TestFactsBehindPartitionTable(t *testing.T) {
	fsys := makeDisk(t, "ext4", debianTree())
	disk := make([]byte, 1<<20+len(fsys))
	copy(disk[1<<20:], fsys)
	disk[446+4] = 0x83
	binary.LittleEndian.PutUint32(disk[446+8:], 2048)
	binary.LittleEndian.PutUint32(disk[446+12:], uint32(len(fsys)/512))
	disk[510], disk[511] = 0x55, 0xaa
	facts, err := read(t, disk, "raw")
	if err != nil {
		t.Fatal(err)
	}
	if facts.PartitionTable != "mbr" || len(facts.Packages) != 3 || facts.VirtualSize != int64(len(disk)) {
		t.Errorf("%+v", facts)
	}
}

func TestFactsOfQcow2(t *testing.T) {
	if testing.Short() {
		t.Skip("needs qemu-img")
	}
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, makeDisk(t, "ext4", debianTree()), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"plain": nil, "compressed": {"-c"}, "zstd": {"-c", "-o", "compression_type=zstd"}, "old": {"-o", "compat=0.10"},
		"extended": {"-o", "extended_l2=on,cluster_size=64k"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "q")
			run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, out)...)
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := read(t, data, "qcow2")
			if err != nil {
				t.Fatal(err)
			}
			want := debianFacts()
			want.DiskFormat = "qcow2"
			if diff := cmp.Diff(want, facts, cmpopts.IgnoreFields(catalog.Facts{}, "UsedBytes")); diff != "" {
				t.Error(diff)
			}
			if _, err := read(t, data, "raw"); !errs.Is(err, errs.Invalid) {
				t.Errorf("a qcow2 announced as raw: %v", err)
			}
		})
	}
}

func TestMachineID(t *testing.T) {
	for want, text := range map[string]string{"set": "0123456789abcdef0123456789abcdef\n", "uninitialized": "uninitialized\n", "empty": "\n", "missing": ""} {
		tree := debianTree()
		tree["etc/machine-id"] = text
		if want == "missing" {
			delete(tree, "etc/machine-id")
		}
		facts, err := read(t, makeDisk(t, "ext4", tree), "raw")
		if err != nil || facts.MachineID != want {
			t.Errorf("%v %v, want %s", facts, err, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	tree := func(edit func(map[string]string)) []byte {
		all := debianTree()
		edit(all)
		return makeDisk(t, "ext4", all)
	}
	cases := map[string]struct {
		data   []byte
		format string
		code   string
	}{
		"no system": {tree(func(m map[string]string) { delete(m, "etc/os-release"); delete(m, "usr/lib/os-release") }), "raw", inspect.CodeNoSystem},
		"a loop of links": {tree(func(m map[string]string) {
			m["etc/os-release"] = "->/etc/a"
			m["etc/a"] = "->os-release"
		}), "raw", inspect.CodeUnreadable},
		"a link into itself": {tree(func(m map[string]string) {
			m["etc/os-release"] = "->x/x/x/x/x/x/x/x/x"
			m["etc/x"] = "->x/x/x/x/x/x/x/x"
		}), "raw", inspect.CodeUnreadable},
		"a huge os-release": {tree(func(m map[string]string) { m["usr/lib/os-release"] = strings.Repeat("x", 1<<20) }), "raw", inspect.CodeUnreadable},
		"broken status":     {tree(func(m map[string]string) { m["var/lib/dpkg/status"] = "no field\n" }), "raw", "kiln.advisory.control_malformed"},
		"empty disk":        {make([]byte, 1<<20), "raw", "kiln.disk.partitions"},
		"no qcow2":          {make([]byte, 1<<20), "qcow2", "kiln.disk.format"},
		"nothing":           {nil, "raw", "kiln.disk.truncated"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			facts, err := read(t, c.data, c.format)
			if facts != nil || errs.CodeOf(err) != c.code || !errs.Is(err, errs.Invalid) {
				t.Errorf("facts %v, error %v, want %s", facts, err, c.code)
			}
		})
	}
}

func TestLinksStayInside(t *testing.T) {
	tree := debianTree()
	tree["etc/os-release"] = "->../../../../../../usr/lib/os-release"
	tree["deep/link"] = "->/etc/../etc/./os-release"
	data := makeDisk(t, "ext4", tree)
	fsys, err := ext4.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := fsys.ReadFile("deep/link", 1<<16)
	if err != nil || !strings.Contains(string(text), "bookworm") {
		t.Errorf("%q %v", text, err)
	}
	for _, name := range []string{"/etc", "/missing", "/etc/machine-id/x"} {
		if _, err := fsys.ReadFile(name, 10); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestBigFilesAndDirectories(t *testing.T) {
	tree := map[string]string{}
	for i := range 3000 {
		tree["many/"+strings.Repeat("n", 20)+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))] = ""
	}
	r := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 5<<20+17)
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	tree["big"] = string(big)
	for _, kind := range []string{"ext4", "ext2"} {
		data := makeDisk(t, kind, tree)
		fsys, err := ext4.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := fsys.ReadFile("/big", 6<<20)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes, %v", kind, len(got), err)
		}
		if _, err := fsys.ReadFile("/big", 5<<20); !errors.Is(err, ext4.ErrCorrupt) {
			t.Errorf("%s: above the limit: %v", kind, err)
		}
		names, err := fsys.ReadDir("/many")
		if err != nil || len(names) != 3000 {
			t.Errorf("%s: %d names, %v", kind, len(names), err)
		}
	}
}

// TestDamage flips bytes where the metadata is. Whatever comes out, it must come out: no panic below
// the boundary (ext4 is called directly), no endless loop, no huge memory.
func TestDamage(t *testing.T) {
	good := makeDisk(t, "ext4", debianTree(), "-b", "1024")
	r := rand.New(rand.NewPCG(3, 4))
	begin := time.Now()
	for range 3000 {
		data := bytes.Clone(good[:2<<20])
		for range 1 + r.IntN(40) {
			data[1024+r.IntN(1<<20)] = byte(r.Uint32())
		}
		disk := overlay{head: data, rest: good}
		fsys, err := ext4.Open(disk, int64(len(good)))
		if err != nil {
			continue
		}
		for _, name := range []string{"/etc/os-release", "/var/lib/dpkg/status", "/boot/grub/grub.cfg"} {
			_, _ = fsys.ReadFile(name, 64<<20)
		}
		_, _ = fsys.ReadDir("/boot")
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("3000 damaged disks took %s", took)
	}
}

type overlay struct{ head, rest []byte }

func (o overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(o.rest)) {
		return 0, io.EOF
	}
	n := copy(p, o.rest[off:])
	if off < int64(len(o.head)) {
		copy(p[:n], o.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestCancel(t *testing.T) {
	data := makeDisk(t, "ext4", debianTree())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inspect.Read(ctx, bytes.NewReader(data), int64(len(data)), "raw"); err == nil {
		t.Error("read on after a cancel")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(makeDisk(f, "ext4", map[string]string{"etc/os-release": "ID=x"}, "-b", "1024")[:1<<20], "raw")
	f.Fuzz(func(t *testing.T, data []byte, format string) {
		facts, err := inspect.Read(t.Context(), bytes.NewReader(data), int64(len(data)), format)
		if (facts == nil) == (err == nil) {
			t.Errorf("facts %v, error %v", facts, err)
		}
	})
}
