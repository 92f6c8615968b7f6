package baddays

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/deb"
)

// debian gives a small Debian disk (qcow2) made from bookworm main alone: no kernel, and security fixes are pending
// in it on every day. It is kept for a week, because it is only read.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "kiln-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "baddays.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "baddays-bookworm-apt-1.qcow2")
	if info, err := os.Stat(disk); err == nil && time.Since(info.ModTime()) < 7*24*time.Hour {
		return disk
	}
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	tree, raw := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "disk.raw")
	tool(t, "mmdebstrap", "-q", "--variant=apt", "--include=openssl", "bookworm", tree, "deb "+mirrors.Main+" bookworm main")
	if err := os.WriteFile(filepath.Join(tree, "etc/machine-id"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "600M")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk+".part")
	if err := os.Rename(disk+".part", disk); err != nil {
		t.Fatal(err)
	}
	return disk
}
