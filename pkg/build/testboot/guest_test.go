package testboot_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// guestStart and guestLength are where the root file system lies on a guest's disk; something else is around it.
const (
	guestStart  = 1 << 20
	guestLength = 32 << 20
)

// guest is busybox on an ext4 partition, with 1 MiB before and behind it.
func guest(t *testing.T, script string) build.Guest {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kernel, initrd := boottest.Kernel(t)
	g := build.Guest{Dir: dir, Disk: write("disk.raw", []byte("before")), Start: guestStart, Length: guestLength, Kernel: write("vmlinuz", kernel), Initrd: write("initrd", initrd),
		Script: script, Limit: 3 * time.Minute}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	write("tree/bin/busybox", busybox)
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `set -e; cd "$0"; mkdir proc dev run tmp; for a in $(busybox --list); do [ "$a" = busybox ] || ln -s busybox bin/$a; done
	truncate -s 34M ../disk.raw; mke2fs -q -t ext4 -d . -E offset=1048576 ../disk.raw 32M; printf behind | dd of=../disk.raw bs=1M seek=33 conv=notrunc status=none`, filepath.Join(dir, "tree")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return g
}

// around is what lies beside the root file system.
func around(t *testing.T, g build.Guest) string {
	t.Helper()
	data, err := os.ReadFile(g.Disk)
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:guestStart]) + string(data[guestStart+guestLength:])
}

// TestGuest: the script sees what it was given and its root file system, and nothing else; what it writes stays.
func TestGuest(t *testing.T) {
	g := guest(t, `cat /run/kiln-disk/some/file /run/kiln-disk/packages/x_1%3a2.deb | report given
echo x 2>/dev/null >/run/kiln-disk/some/file || echo read-only | report given2
ls /sys/class/net /sys/class/block 2>/dev/null | report devices
cat /proc/net/dev | grep -c : | report cards
head -c 5000 /dev/zero | tr '\0' a | report long
echo mark >/written; dd if=/dev/zero of=/dev/vda bs=512 seek=65536 count=2048 2>/dev/null || echo refused | report beyond`)
	g.Files = map[string][]byte{"some/file": []byte("one\n")}
	g.Packages = filepath.Join(g.Dir, "has=equal")
	if err := os.MkdirAll(g.Packages, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.Packages, "x_1%3a2.deb"), []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	q, _ := qemu(t, testboot.Timeouts{})
	was := around(t, g)
	var log safeLog
	g.Log = &log
	r, err := q.Run(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"given": "one\ntwo\n", "given2": "", "cards": "1\n", "long": strings.Repeat("a", 5000), "beyond": "refused\n"} {
		if want != "" && r.Reports[kind] != want {
			t.Errorf("%s is %.200q", kind, r.Reports[kind])
		}
	}
	if r.Seconds <= 0 || !strings.HasPrefix(log.String(), "| ") {
		t.Errorf("%.1f s, log %.100q", r.Seconds, log.String())
	}
	if around(t, g) != was {
		t.Error("the guest wrote beside its file system")
	}
	out, err := exec.CommandContext(t.Context(), "debugfs", "-R", "cat /written", fmt.Sprintf("%s?offset=%d", g.Disk, guestStart)).Output()
	if err != nil || string(out) != "mark\n" {
		t.Errorf("%v %q", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(g.Dir, "kiln-work-*")); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}

// TestGuestFails: a guest that does not come to its end is ended, and says why.
func TestGuestFails(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
		limit        time.Duration
	}{
		"hangs":          {"echo working >/dev/ttyS0; while :; do sleep 1; done", "the script had not ended after 4s. The console's last lines:\n", 4 * time.Second},
		"panics":         {"echo c >/proc/sysrq-trigger; sleep 100", "the kernel panicked. The console's last lines:\n", 0},
		"goes off early": {"poweroff -f", "the machine switched off or restarted before its script had ended", 0},
		"stays on":       {"echo | report end; while :; do sleep 1; done", "the machine was not off after 4s", 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			g := guest(t, c.script)
			if c.limit > 0 {
				g.Limit = c.limit
			}
			q, _ := qemu(t, testboot.Timeouts{})
			_, err := q.Run(t.Context(), g)
			if errs.CodeOf(err) != testboot.CodeGuest || !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		g := guest(t, "while :; do sleep 1; done")
		ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
		defer stop()
		q, _ := qemu(t, testboot.Timeouts{})
		if _, err := q.Run(ctx, g); errs.CodeOf(err) != testboot.CodeStop {
			t.Errorf("%v", err)
		}
	})
}
