package offline

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// The rules below decide about bytes that apt and packages write; the tests through Upgrade cannot
// bring every form of them about.

func TestParsePlan(t *testing.T) {
	p := parsePlan(`Reading package lists...
The following NEW packages will be installed:
  linux-image-2
The following packages have been kept back:
  held-a held-b
  held-c
The following packages will be upgraded:
  openssl
1 upgraded, 1 newly installed, 0 to remove and 3 not upgraded.
Need to get 2,345 kB of archives.
After this operation, 41.5 MB of additional disk space will be used.
'http://mirror.example.org/pool/openssl_3.0-1%3a_amd64.deb' openssl_1%3a3.0-1_amd64.deb 1434 SHA256:aa
'http://mirror.example.org/pool/l.deb' linux-image-2_2_amd64.deb 66
`)
	if diff := cmp.Diff([]string{"held-a", "held-b", "held-c"}, p.held); diff != "" {
		t.Error(diff)
	}
	if p.nothing || p.grows != 41500000 || len(p.uris) != 1 || p.uris["openssl_1%3a3.0-1_amd64.deb"] != "http://mirror.example.org/pool/openssl_3.0-1%3a_amd64.deb" {
		t.Errorf("%+v", p)
	}
	none := parsePlan("0 upgraded, 0 newly installed, 0 to remove and 2 not upgraded.\nAfter this operation, 1,024 kB disk space will be freed.\n")
	if !none.nothing || none.grows != -1024000 {
		t.Errorf("%+v", none)
	}
}

// TestSettingsThatCount: which of apt's settings make another record, and where dpkg looks for programs.
func TestSettingsThatCount(t *testing.T) {
	p := plan{settings: `APT::NeverAutoRemove:: "^postgresql-15$";
Acquire::http::Proxy "http://proxy.example.org/";
DPkg::Post-Invoke:: "/usr/lib/hook";
DPkg::Path "/usr/sbin:/usr/bin";
`}
	if diff := cmp.Diff([]string{"DPkg::Post-Invoke:: \"/usr/lib/hook\";\n", "DPkg::Path \"/usr/sbin:/usr/bin\";\n"}, p.counting()); diff != "" {
		t.Error(diff)
	}
	if got := p.setting("DPkg::Path"); got != "/usr/sbin:/usr/bin" {
		t.Error(got)
	}
	if got := p.setting("DPkg::Pat"); got != "" {
		t.Error(got)
	}
}

// TestPackagesOfThePlan: what dpkg has afterwards is held against what apt announced.
func TestPackagesOfThePlan(t *testing.T) {
	p := parsePlan(`The following packages will be REMOVED:
  gone gone-foreign:i386
The following packages will be upgraded:
  a moved
2 upgraded, 1 newly installed, 2 to remove and 0 not upgraded.
'http://mirror.example.org/a' a_1%3a2-1_amd64.deb 10 
'http://mirror.example.org/m' moved_2_all.deb 10 
'http://mirror.example.org/n' new_1%5f2_amd64.deb 10 
`)
	pkg := func(name, version, arch string) deb.Package {
		return deb.Package{Name: name, Version: version, Architecture: arch}
	}
	before := []deb.Package{pkg("a", "1", "amd64"), pkg("moved", "1", "amd64"), pkg("gone", "1", "amd64"), pkg("gone-foreign", "1", "i386"), pkg("gone-foreign", "1", "amd64")}
	good := []deb.Package{pkg("a", "1:2-1", "amd64"), pkg("moved", "2", "all"), pkg("gone-foreign", "1", "amd64"), pkg("new", "1_2", "amd64")}
	if err := p.check(before, good); err != nil {
		t.Error(err)
	}
	for want, after := range map[string][]deb.Package{
		"new:amd64 1_2 is not installed":     good[:3],
		"a:amd64 is 1 instead of 1:2-1":      append([]deb.Package{before[0]}, good[1:]...),
		"gone:amd64 1 was not planned":       append([]deb.Package{before[2]}, good...),
		"x:amd64 9 was not planned":          append([]deb.Package{pkg("x", "9", "amd64")}, good...),
		"moved:amd64 1 was not planned":      append([]deb.Package{before[1]}, good...),
		"gone-foreign:i386 1 was not planne": append([]deb.Package{before[3]}, good...),
	} {
		if err := p.check(before, after); errs.CodeOf(err) != CodeGate || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// FuzzParsePlan: apt prints what packages and mirrors say.
func FuzzParsePlan(f *testing.F) {
	f.Add("'http://m/a' a_1%3a2_amd64.deb 10 SHA256:x\nThe following packages will be REMOVED:\n  gone\nAfter this operation, 1.5 GB disk space will be freed.\n")
	f.Fuzz(func(t *testing.T, text string) {
		p := parsePlan(text)
		if err := p.check(nil, p.packages); len(p.packages) == 0 && err != nil {
			t.Error(err)
		}
	})
}

func TestWantedInitrds(t *testing.T) {
	kernels := []string{"6.1.0-9", "6.1.0-10"}
	for name, c := range map[string]struct{ asked, initrds, want []string }{
		"nothing asked":            {nil, kernels, nil},
		"asked without a kernel":   {[]string{"-u"}, kernels, []string{"6.1.0-10"}},
		"asked many times":         {[]string{"-c -k 6.1.0-10 -b /boot", "-u", "-u -v"}, []string{"6.1.0-9"}, []string{"6.1.0-10"}},
		"an old one by name":       {[]string{"-u -k 6.1.0-9"}, kernels, []string{"6.1.0-9"}},
		"all":                      {[]string{"-u -k all"}, kernels, kernels},
		"a kernel that is gone":    {[]string{"-c -k 5.0"}, kernels, nil},
		"a hostile name":           {[]string{"-c -k $(id)"}, kernels, nil},
		"a kernel without initrd":  {nil, []string{"6.1.0-9"}, []string{"6.1.0-10"}},
		"an image without initrds": {nil, nil, nil},
	} {
		if diff := cmp.Diff(c.want, wanted(c.asked, kernels, c.initrds)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestClosedCVEsOfSignedPackages(t *testing.T) {
	from := deb.Package{Version: "6.1.176-1", SourceVersion: "6.1.176+1"}
	entries := []deb.Entry{
		{Source: "linux-signed-amd64", Version: "6.1.176+2", Text: "* Sign kernel from linux 6.1.176-2"},
		{Source: "linux", Version: "6.1.176-2", Text: "CVE-2026-2000"},
		{Source: "linux", Version: "6.1.176-1", Text: "CVE-2026-1000"},
	}
	if diff := cmp.Diff([]string{"CVE-2026-2000"}, closed(entries, "linux-signed-amd64", from)); diff != "" {
		t.Error(diff)
	}
	if got := closed(entries[1:], "linux", deb.Package{}); len(got) != 1 {
		t.Errorf("a new package closes %v", got)
	}
}

func TestCheckMenu(t *testing.T) {
	const uuid = "1c9d2f53-7a3e-4a57-8f3b-2b7a5d1e0c11"
	good := "menuentry x {\n\tlinux\t/boot/vmlinuz-6.1.0-10 root=UUID=" + uuid + " ro quiet\n\tinitrd /boot/initrd.img-6.1.0-10\n}\n"
	for name, c := range map[string]struct {
		menu string
		ok   bool
	}{
		"good":          {good, true},
		"by partition":  {"linux /vmlinuz-6.1.0-10 root=PARTUUID=123\n", true},
		"a loop device": {good + "linux /boot/vmlinuz-6.1.0-9 root=/dev/loop0p2\n", false},
		"another disk":  {"linux /boot/vmlinuz-6.1.0-10 root=UUID=other\n", false},
		"old kernel":    {"linux /boot/vmlinuz-6.1.0-9 root=UUID=" + uuid + "\n", false},
		"longer name":   {"linux /boot/vmlinuz-6.1.0-10-rt root=UUID=" + uuid + "\n", false},
		"no root":       {"linux /boot/vmlinuz-6.1.0-10 quiet\n", false},
		"empty":         {"", false},
	} {
		if err := checkMenu(c.menu, "6.1.0-10", uuid); (err == nil) != c.ok || err != nil && errs.CodeOf(err) != CodeGate {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLayouts(t *testing.T) {
	const esp, boot = disk.TypeEFI, "BC13C2FF-59E6-4262-A352-B275FD6F7172"
	for name, c := range map[string]struct {
		fstab, partition, installed, refused string
	}{
		"one file system":      {fstab: "UUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n"},
		"no fstab":             {},
		"boot":                 {fstab: "UUID=2 /boot ext4 defaults 0 2", refused: "/boot of"},
		"boot, hidden":         {fstab: "# /boot was on /dev/vda2\n\tLABEL=b\t//boot/./\text2\tnoauto", refused: "/boot of"},
		"usr":                  {fstab: "/dev/vg/usr /usr ext4 ro 0 2", refused: "/usr of"},
		"var, bound":           {fstab: "/data/var /var none bind 0 0", refused: "/var of"},
		"a database":           {fstab: "/dev/vdb /var/lib/mysql xfs defaults 0 2", refused: "/var/lib/mysql of"},
		"comment":              {fstab: "#UUID=2 /boot ext4 defaults 0 2"},
		"what users keep":      {fstab: "a /home ext4\nb /srv xfs\nc /usr/local ext4\nd /var/log ext4\ne /mnt/usr ext4\nf /variable ext4"},
		"memory":               {fstab: "tmpfs /var/cache tmpfs size=1g 0 0"},
		"boot by its type":     {partition: boot, refused: "/boot of"},
		"EFI":                  {fstab: "UUID=12-34 /boot/efi vfat", partition: esp, installed: "grub-efi-amd64", refused: "grub-efi-amd64 keeps"},
		"EFI without fstab":    {partition: esp, installed: "grub-efi-amd64-signed", refused: "grub-efi-amd64-signed keeps"},
		"EFI of an MBR":        {partition: "0xef", installed: "systemd-boot", refused: "systemd-boot keeps"},
		"EFI, tools only":      {partition: esp, installed: "grub-efi-amd64-bin"},
		"EFI, boots from BIOS": {fstab: "UUID=12-34 /boot/efi vfat", partition: esp, installed: "grub-pc"},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if c.fstab != "" {
			if err := os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte(c.fstab), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		r := &run{root: disk.Partition{Start: 1 << 20}, parts: []disk.Partition{{Start: 1 << 20, Type: boot}, {Start: 1 << 30, Type: c.partition}},
			before: []deb.Package{{Name: "dash"}, {Name: c.installed}}}
		err = r.checkLayout(root)
		if c.refused == "" && err != nil || c.refused != "" && (errs.CodeOf(err) != CodeLayout || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", name, err)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestIdentityComesBack(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/machine-id", "")
	write("etc/ssh/ssh_host_rsa_key", "mine")
	if err := os.Symlink("../run/resolv.conf", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	kept, err := keepIdentity(root)
	if err != nil {
		t.Fatal(err)
	}
	write("etc/machine-id", "0123456789abcdef0123456789abcdef")
	write("etc/resolv.conf", "nameserver 192.0.2.1")
	write("etc/ssh/ssh_host_ed25519_key", "new")
	write("etc/hostname", "builder")
	if err := os.Remove(filepath.Join(dir, "etc/ssh/ssh_host_rsa_key")); err != nil {
		t.Fatal(err)
	}
	if err := kept.restore(root); err != nil {
		t.Fatal(err)
	}
	if again, err := keepIdentity(root); err != nil || !cmp.Equal(kept, again, cmp.AllowUnexported(keptFile{})) {
		t.Errorf("%v\n%s", err, cmp.Diff(kept, again, cmp.AllowUnexported(keptFile{})))
	}
}

func TestIdentityRefusesPipes(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "etc/machine-id"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := keepIdentity(root); errs.CodeOf(err) != CodePackages {
		t.Error(err)
	}
	if _, err := readFile(root, "etc/machine-id", 10); err == nil {
		t.Error("a pipe was read")
	}
}
