package offline_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// tinyLength is that of the root partition: the system and some 100 MiB.
const tinyLength = 288 << 20

// tinyScript makes a tree small and gives it a kernel that only the gate looks at.
const tinyScript = `set -e; cd "$0"
rm -rf usr/share/doc usr/share/locale usr/share/i18n usr/share/man usr/share/info usr/share/zoneinfo usr/lib/x86_64-linux-gnu/gconv var/lib/apt/lists/* var/cache/apt/*.bin
rm -f etc/hostname etc/resolv.conf; : >etc/machine-id
echo "UUID=$1 / ext4 errors=remount-ro 0 1" >etc/fstab
mkdir -p boot/grub; echo kernel >boot/vmlinuz-6.1.0-1; echo initrd >boot/initrd.img-6.1.0-1
echo "linux /boot/vmlinuz-6.1.0-1 root=UUID=$1 ro" >boot/grub/grub.cfg
echo "deb http://mirror.example.org/own bookworm main" >etc/apt/sources.list
`

// tiny gives a raw disk with no more than dpkg, apt and ucf, made once and kept: callers only read it.
func tiny(t *testing.T) string {
	t.Helper()
	needRoot(t)
	tinyOnce.Do(func() {
		tinyPath, errTiny = kept(t.Context(), "tiny", tinyScript+rootUUID+strconv.Itoa(tinyLength)+"1", func(ctx context.Context, m deb.Mirrors, tree, image string) error {
			return run(ctx, [][]string{
				{"mmdebstrap", "--variant=apt", "--include=ucf", "--aptopt=Apt::Install-Recommends \"false\"", "bookworm", tree, "deb " + m.Main + " bookworm main"},
				{"sh", "-c", tinyScript, tree, rootUUID},
				{"truncate", "-s", strconv.Itoa(tinyLength + partStart), image},
				{"/usr/sbin/mke2fs", "-q", "-t", "ext4", "-U", rootUUID, "-d", tree, "-E", "offset=1048576", image, strconv.Itoa(tinyLength / 1024)},
			}, func() error { return finishDisk(image, tinyLength) })
		})
	})
	if errTiny != nil {
		t.Fatal(errTiny)
	}
	return tinyPath
}

var (
	tinyOnce sync.Once
	tinyPath string
	errTiny  error
)

// shop is a repository with its proxy.
type shop struct {
	*aptrepo.Repository
	proxy *mirror.Proxy
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{Repository: aptrepo.New(t)}
	var err error
	if s.proxy, err = mirror.New(mirror.Config{Upstreams: []string{aptrepo.Base}, Dir: t.TempDir(), Transport: s.Repository}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.proxy.Close)
	return s
}

// sell publishes packages in the suite that all tests take fixes from.
func (s *shop) sell(packages ...aptrepo.Package) {
	for _, p := range packages {
		s.Add("bookworm", p)
	}
	s.Publish("bookworm", "")
}

// attempt is one upgrade of a small image.
type attempt struct {
	report upgrade.Report
	err    error
	log    bytes.Buffer
	output string // raw
	steps  []string
}

// upgradeIt upgrades an image from the shop, and checks what holds for every upgrade, good or bad: the original is as
// it was, nothing is mounted, looped or running, no file is left, and there is an output only where there is no error.
func (s *shop) upgradeIt(t *testing.T, image string, change func(*upgrade.Request, *offline.Config)) *attempt {
	t.Helper()
	was := digest.File(t, image)
	work := t.TempDir()
	a := &attempt{output: filepath.Join(t.TempDir(), "new.raw")}
	cfg := offline.Config{Proxy: s.proxy, Keyring: s.Keyring, Timeout: 2 * time.Minute}
	req := upgrade.Request{
		Original: image, OriginalFormat: "raw", WorkDir: work, Output: a.output, OutputFormat: "raw", Log: &a.log,
		Suites:   []upgrade.Suite{{Mirror: aptrepo.Base, Suite: "bookworm", Components: []string{"main"}}},
		Progress: func(step string, _, _ int64, _ string) { a.steps = append(a.steps, step) },
	}
	if change != nil {
		change(&req, &cfg)
	}
	a.report, a.err = offline.New(cfg).Upgrade(t.Context(), req)
	a.settled(t, image, was, work)
	return a
}

// settled checks what holds for every upgrade: was is the sum of the image before.
func (a *attempt) settled(t *testing.T, image, was, work string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); len(leftInKernel(t, work)) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond) // programs that look at all disks (mkfs.btrfs) keep a loop device for a moment
	}
	if found := left(t, work); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	if _, err := os.Stat(a.output); (err == nil) != (a.err == nil && !a.report.Unchanged) {
		t.Errorf("output: %v, upgrade: %v", err, a.err)
	}
	if digest.File(t, image) != was {
		t.Error("the original was changed")
	}
}

// good fails the test where the upgrade failed.
func (a *attempt) good(t *testing.T) *attempt {
	t.Helper()
	if a.err != nil {
		t.Fatalf("%v\n%s", a.err, a.log.Bytes()[max(0, a.log.Len()-4000):])
	}
	return a
}

// installed is an image that has packages as dpkg would have installed them, and what edit makes of it.
func installed(t *testing.T, packages []aptrepo.Package, edit func(*os.Root) error) string {
	t.Helper()
	return editedPart(t, tiny(t), tinyLength, func(root *os.Root) error {
		for _, p := range packages {
			if err := install(root, p); err != nil {
				return err
			}
		}
		if edit == nil {
			return nil
		}
		return edit(root)
	})
}

// install writes a package's files, lists and status without running dpkg. Its fields may hold a Status.
func install(root *os.Root, p aptrepo.Package) error {
	arch := p.Architecture
	if arch == "" {
		arch = "amd64"
	}
	var list, sums strings.Builder
	list.WriteString("/.\n")
	for name, text := range p.Files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			list.WriteString("/" + dir + "\n")
		}
		list.WriteString("/" + name + "\n")
		if err := errors.Join(root.MkdirAll(path.Dir(name), 0o755), root.WriteFile(name, []byte(text), 0o644)); err != nil {
			return err
		}
		if mode, ok := p.Modes[name]; ok {
			if err := chmod(root, name, mode); err != nil {
				return err
			}
		}
	}
	for _, name := range p.Conffiles {
		sum := md5.Sum([]byte(p.Files[strings.TrimPrefix(name, "/")]))
		sums.WriteString("\n " + name + " " + hex.EncodeToString(sum[:]))
	}
	stanza := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: a <a@example.org>\n%s", p.Name, p.Version, arch, p.Fields)
	if !strings.Contains(stanza, "Status:") {
		stanza += "Status: install ok installed\n"
	}
	if sums.Len() > 0 {
		stanza += "Conffiles:" + sums.String() + "\n"
	}
	err := errors.Join(appendTo(root, "var/lib/dpkg/status", stanza+"Description: test\n text\n\n"), root.WriteFile("var/lib/dpkg/info/"+p.Name+".list", []byte(list.String()), 0o644),
		root.WriteFile("var/lib/dpkg/info/"+p.Name+".md5sums", nil, 0o644))
	for name, text := range p.Scripts {
		file := "var/lib/dpkg/info/" + p.Name + "." + name
		err = errors.Join(err, root.WriteFile(file, []byte(text), 0o755), root.Chmod(file, 0o755))
	}
	return err
}

func chmod(root *os.Root, name string, mode int64) error {
	bits := os.FileMode(mode & 0o777)
	if mode&0o4000 != 0 {
		bits |= os.ModeSetuid
	}
	if mode&0o2000 != 0 {
		bits |= os.ModeSetgid
	}
	return root.Chmod(name, bits)
}

func appendTo(root *os.Root, name, text string) error {
	old, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return root.WriteFile(name, append(old, text...), 0o644)
}

// inside lets look see the files of a raw image, mounted to be read only.
func inside(t *testing.T, image string, look func(*os.Root)) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := disk.Partitions(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	part, err := disk.FindRoot(f, parts)
	if err != nil {
		t.Fatal(err)
	}
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountRaw(t.Context(), image, part.Start, part.Length, disk.Filesystem(f, part.Start, part.Length), "ro")
	if err != nil {
		t.Fatal(err)
	}
	root, err := m.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	look(root)
}

// text is a file of an image; "" where there is none.
func text(t *testing.T, root *os.Root, name string) string {
	t.Helper()
	data, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return string(data)
}

// versionIn is a package's version by the facts of an image.
func versionIn(t *testing.T, image, name string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, st.Size(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range facts.Packages {
		if p.Name == name {
			return p.Version
		}
	}
	return ""
}

// freeBytes is the room in a mounted file system.
func freeBytes(t *testing.T, root *os.Root) int64 {
	t.Helper()
	dir, err := root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}
