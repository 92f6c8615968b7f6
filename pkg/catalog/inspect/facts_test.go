package inspect_test

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// memory is a disk that is written to.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

const diskUUID = "6A1F1C6E-3B1E-4F1E-9D5C-0123456789AB"

// part is what lies on a partition.
type part struct {
	kind string
	data []byte
}

// gptDisk lays partitions behind each other.
func gptDisk(t *testing.T, bootCode bool, parts ...part) []byte {
	t.Helper()
	at := int64(1 << 20)
	var table []disk.Partition
	for i, p := range parts {
		length := int64(len(p.data))
		table = append(table, disk.Partition{Index: i + 1, Type: p.kind, Start: at, Length: length, Name: "p", UUID: diskUUID})
		at += length
	}
	m := make(memory, at+1<<20)
	for i, p := range parts {
		copy(m[table[i].Start:], p.data)
	}
	if bootCode {
		copy(m, "\xebboot code")
	}
	if err := disk.WriteGPT(m, int64(len(m)), diskUUID, table); err != nil {
		t.Fatal(err)
	}
	return m
}

func fat() []byte {
	b := make([]byte, 1<<20)
	copy(b[82:], "FAT32   ")
	return b
}

func swap() []byte {
	b := make([]byte, 1<<20)
	copy(b[4086:], "SWAPSPACE2")
	return b
}

func TestFirmware(t *testing.T) {
	root := part{disk.TypeLinux, makeDisk(t, "ext4", debianTree())}
	bios, efi := part{disk.TypeBIOSBoot, make([]byte, 1<<20)}, part{disk.TypeEFI, fat()}
	for name, c := range map[string]struct {
		disk []byte
		want string
	}{
		"bios": {gptDisk(t, true, bios, root), "bios"}, "uefi": {gptDisk(t, false, efi, root), "uefi"},
		"both":                         {gptDisk(t, true, bios, efi, root), "both"},
		"no boot code":                 {gptDisk(t, false, bios, root), "none"},
		"boot code without a place":    {gptDisk(t, true, root), "none"},
		"an EFI partition without FAT": {gptDisk(t, false, part{disk.TypeEFI, make([]byte, 1<<20)}, root), "none"},
	} {
		facts, err := read(t, c.disk, "raw")
		if err != nil || facts.Firmware != c.want {
			t.Errorf("%s: %+v %v, want %s", name, facts, err, c.want)
		}
	}
}

// TestFurtherPartitions: the root is found beside a larger /srv, a swap and an EFI system partition, and the list says what is where.
func TestFurtherPartitions(t *testing.T) {
	srv := diskOf(t, t.TempDir(), "ext4", "48m")
	data := gptDisk(t, true, part{disk.TypeBIOSBoot, make([]byte, 1<<20)}, part{disk.TypeEFI, fat()},
		part{disk.TypeLinux, srv}, part{"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", swap()}, part{disk.TypeLinux, makeDisk(t, "ext4", debianTree())})
	facts, err := read(t, data, "raw")
	if err != nil {
		t.Fatal(err)
	}
	if facts.OS.ID != "debian" || facts.RootUUID != rootUUID || len(facts.Kernels) != 2 {
		t.Errorf("%+v", facts)
	}
	type short struct {
		Number int
		FS     string
		Root   bool
	}
	var got []short
	for _, p := range facts.Partitions {
		got = append(got, short{p.Number, p.FileSystem, p.Root})
	}
	if diff := cmp.Diff([]short{{1, "", false}, {2, "vfat", false}, {3, "ext4", false}, {4, "swap", false}, {5, "ext4", true}}, got); diff != "" {
		t.Error(diff)
	}
	files, err := inspect.Manifest(t.Context(), bytes.NewReader(data), int64(len(data)), "raw")
	if err != nil || !slices.ContainsFunc(files, func(f catalog.File) bool { return f.Path == "/boot/grub/grub.cfg" && f.SHA256 != "" }) {
		t.Errorf("%d files, %v", len(files), err)
	}
	_, err = read(t, gptDisk(t, true, part{disk.TypeLinux, srv}), "raw")
	if errs.CodeOf(err) != inspect.CodeNoSystem {
		t.Errorf("a disk with data only: %v", err)
	}
}

const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: openssl

Files: *
License: Apache-2.0

Files: debian/*
License: GPL-2+ with OpenSSL exception or Expat

License: Apache-2.0
 Text of License: which is no field
`

func TestSystemFacts(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release": "ID=debian\n", "var/lib/dpkg/status": status, "etc/machine-id": "uninitialized\n",
		"etc/passwd":               "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nops:x:1000:1000::/home/ops:/bin/sh\nopen::1001:1001::/:\nbroken line\nsync:x:4:65534:sync:/bin:/bin/sync\n",
		"etc/shadow":               "root:!:19000:0:::::\nops:$y$j9T$abc:19000::::::\n",
		"boot/grub/grub.cfg":       "menuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6.1 root=UUID=1 ro  quiet\n}\nmenuentry 'old' {\n\tlinux /boot/vmlinuz-6.0 single\n}\n",
		"usr/lib/systemd/system/a": "", "usr/lib/systemd/system/preset.service": "", "lib/systemd/system/off.service": "",
		"usr/lib/systemd/system-preset/90.preset": "# text\nenable preset.service\nenable missing.service\nenable *\ndisable off.service\n",
		"etc/systemd/system-preset/10.preset":     "disable never.service\nenable off.service\n",
		"usr/share/doc/libssl3/copyright":         copyright,
		"usr/share/doc/dpkg/copyright":            "This package is free software.\nLicense: GPL-2\n",
	} {
		write(t, root, name, text, 0o644)
	}
	write(t, root, "usr/bin/passwd", "p", 0o755)
	for name, target := range map[string]string{
		"etc/systemd/system/multi-user.target.wants/ssh.service":  "/lib/systemd/system/ssh.service",
		"etc/systemd/system/sockets.target.requires/x.socket":     "/lib/systemd/system/x.socket",
		"etc/systemd/system/multi-user.target.wants/dead.service": "/lib/systemd/system/dead.service",
		"etc/systemd/system/dead.service":                         "/dev/null",
		"etc/systemd/system/alias.service":                        "/lib/systemd/system/ssh.service",
	} {
		link(t, root, target, name)
	}
	facts, err := read(t, diskOf(t, root, "ext4", "32m"), "raw")
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		[]string{"off.service", "preset.service", "ssh.service", "x.socket"},
		[]catalog.User{{Name: "root", Shell: "/bin/bash", Password: "locked"}, {Name: "ops", UID: 1000, Shell: "/bin/sh", Password: "set"}, {Name: "open", UID: 1001, Password: "none"}},
		"root=UUID=1 ro quiet", []string(nil), []string{"Apache-2.0", "Expat", "GPL-2+"},
	}
	if diff := cmp.Diff(want, []any{facts.Services, facts.Users, facts.CommandLine, facts.Packages[0].Licenses, facts.Packages[2].Licenses}); diff != "" {
		t.Error(diff)
	}
}

func TestSetuid(t *testing.T) {
	facts, err := read(t, diskOf(t, richTree(t), "ext4", "64m"), "raw")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range facts.Setuid {
		got = append(got, s.Mode+" "+s.Path)
	}
	if diff := cmp.Diff([]string{"4755 /usr/bin/sudo", "2755 /usr/bin/wall"}, got); diff != "" {
		t.Error(diff)
	}
}
