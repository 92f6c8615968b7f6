package offline_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

const (
	partStart  = 1 << 20
	partLength = 1800 << 20
	rootUUID   = "1c9d2f53-7a3e-4a57-8f3b-2b7a5d1e0c11"
	deleted    = "bytes of a file that was deleted before the upgrade"
	include    = "linux-image-cloud-amd64,initramfs-tools,grub-pc,openssl,ca-certificates,openssh-server,e2fsprogs,systemd-sysv,udev,dbus,libxml2,curl,vim-tiny"
)

// debian gives a raw Debian image made from bookworm main alone, so that security fixes are pending
// on every day. It is made once and kept: callers only read it.
func debian(t *testing.T) string {
	t.Helper()
	needRoot(t)
	fixture.Do(func() { fixturePath, errFixture = makeDebian(t.Context()) })
	if errFixture != nil {
		t.Fatal(errFixture)
	}
	return fixturePath
}

var (
	fixture     sync.Once
	fixturePath string
	errFixture  error
)

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root and the machine's Debian mirror")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
}

func makeDebian(ctx context.Context) (string, error) {
	return kept(ctx, "bookworm", include+rootUUID+deleted+"4", func(ctx context.Context, m deb.Mirrors, tree, image string) error {
		return run(ctx, [][]string{
			{"mmdebstrap", "--variant=minbase", "--include=" + include, "--aptopt=Apt::Install-Recommends \"false\"", "bookworm", tree, "deb " + m.Main + " bookworm main"},
			{"sh", "-c", `set -e; cd "$0"; rm -f etc/ssh/ssh_host_* etc/hostname etc/resolv.conf; : >etc/machine-id
			ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
			echo "UUID=$1 / ext4 errors=remount-ro 0 1" >etc/fstab
			mkdir -p boot/grub; echo "# made by the fixture" >boot/grub/grub.cfg; echo "# changed by its owner" >>etc/ssh/sshd_config
			echo "deb http://mirror.example.org/own bookworm main" >etc/apt/sources.list`, tree, rootUUID},
			{"truncate", "-s", "1801M", image},
			{"/usr/sbin/mke2fs", "-q", "-t", "ext4", "-U", rootUUID, "-d", tree, "-E", "offset=1048576", image, "1800M"},
		}, func() error { return finishDisk(image, partLength) })
	})
}

// kept makes an image once, under a name that tells what it was made from, and keeps it for a week.
func kept(ctx context.Context, name, of string, build func(ctx context.Context, m deb.Mirrors, tree, image string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "kiln-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(of))
	image := filepath.Join(dir, name+"-"+hex.EncodeToString(key[:6])+".raw")
	if st, err := os.Stat(image); err == nil && time.Since(st.ModTime()) < 7*24*time.Hour {
		return image, nil
	}
	tree, err := os.MkdirTemp(dir, "tree-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		return "", err
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	if err := build(ctx, mirrors, tree, image+".part"); err != nil {
		return "", err
	}
	return image, os.Rename(image+".part", image)
}

// run runs commands one after the other, and then what comes after them.
func run(ctx context.Context, commands [][]string, then func() error) error {
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.New(args[0] + ": " + err.Error() + "\n" + string(out))
		}
	}
	return then()
}

// finishDisk writes an MBR, and a text into a free block as a deleted file would leave it.
func finishDisk(path string, length int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	entry := make([]byte, 66)
	entry[0], entry[4], entry[64], entry[65] = 0x80, 0x83, 0x55, 0xaa
	binary.LittleEndian.PutUint32(entry[8:], partStart/512)
	binary.LittleEndian.PutUint32(entry[12:], uint32(length/512))
	if _, err := f.WriteAt(entry, 446); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(deleted), partStart+length-3*4096)
	return err
}

// suites are those that have fixes, through the machine's own mirrors.
func suites(t *testing.T) []upgrade.Suite {
	t.Helper()
	m, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	return []upgrade.Suite{
		{Mirror: m.Main, Suite: "bookworm", Components: []string{"main"}},
		{Mirror: m.Main, Suite: "bookworm-updates", Components: []string{"main"}},
		{Mirror: m.Security, Suite: "bookworm-security", Components: []string{"main"}},
	}
}

// proxy keeps its packages between test runs. All tests of the process have one, because they run at the same time
// and a second one on its folder would sweep away what the first one fetches.
func proxy(t *testing.T) *mirror.Proxy {
	t.Helper()
	m, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	shared.Do(func() {
		cache := os.Getenv("KILN_TEST_MIRROR_CACHE")
		if cache == "" {
			if cache, errShared = os.UserCacheDir(); errShared != nil {
				return
			}
			cache = filepath.Join(cache, "kiln-test")
		}
		sharedProxy, errShared = mirror.New(mirror.Config{Upstreams: []string{m.Main, m.Security}, Dir: filepath.Join(cache, "mirror")})
	})
	if errShared != nil {
		t.Fatal(errShared)
	}
	return sharedProxy
}

var (
	shared      sync.Once
	sharedProxy *mirror.Proxy
	errShared   error
)

// left names what an upgrade left below its work folder, and mounts and loop devices that use it.
func left(t *testing.T, work string) []string {
	t.Helper()
	var found []string
	entries, err := os.ReadDir(work)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return append(found, leftInKernel(t, work)...)
}

func leftInKernel(t *testing.T, work string) []string {
	t.Helper()
	var found []string
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loops {
		if text, err := os.ReadFile(l); err == nil && strings.Contains(string(text), work) {
			found = append(found, l)
		}
	}
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(mounts, "/proc/self/mountinfo") {
		if text, err := os.ReadFile(m); err == nil && strings.Contains(string(text), work) {
			found = append(found, m)
		}
	}
	return found
}
