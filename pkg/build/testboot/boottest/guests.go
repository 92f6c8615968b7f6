package boottest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Where the root file system lies on a guest's disk; something else is around it.
const (
	GuestStart  = 1 << 20
	GuestLength = 32 << 20
)

// Guests runs guests: testboot.QEMU here, cloud.Booter on the cloud.
type Guests interface {
	Run(ctx context.Context, g build.Guest) (build.GuestReport, error)
}

// Guest is busybox on an ext4 partition, with 1 MiB before and behind it.
func Guest(t testing.TB, script string) build.Guest {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil { //nolint:gosec // busybox is run
			t.Fatal(err)
		}
		return path
	}
	kernel, initrd := Kernel(t)
	g := build.Guest{Dir: dir, Disk: write("disk.raw", []byte("before")), Start: GuestStart, Length: GuestLength, Kernel: write("vmlinuz", kernel), Initrd: write("initrd", initrd),
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
func around(t testing.TB, g build.Guest) string {
	t.Helper()
	data, err := os.ReadFile(g.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != GuestStart+GuestLength+1<<20 {
		t.Fatalf("the disk has %d bytes", len(data))
	}
	return string(data[:GuestStart]) + string(data[GuestStart+GuestLength:])
}

// given writes to the beginning of the disk, which is the partition table where there is one; a file system leaves it alone.
const given = `cat /run/kiln-disk/some/file /run/kiln-disk/packages/x_1%3a2.deb | report given
echo x 2>/dev/null >/run/kiln-disk/some/file || echo read-only | report locked
cat /proc/net/dev | grep -c : | report cards
head -c 5000 /dev/zero | tr '\0' a | report long
echo mark >/written
head -c 512 /dev/zero | tr '\0' x | dd of=/dev/vda 2>/dev/null; dd if=/dev/vda bs=1 count=3 2>/dev/null | report table`

// GuestContract is what both kinds of Guests keep to: the script sees what it was given and its root file system, no network
// card and no other disk; what it writes there stays, and nothing else changes; one that does not come to its end is ended and says why.
func GuestContract(t *testing.T, guests Guests) {
	t.Run("guests", func(t *testing.T) { // returns when all of them have ended
		t.Run("given", func(t *testing.T) { guestGiven(t, guests) })
		t.Run("cancelled", func(t *testing.T) { guestCancelled(t, guests) })
		for name, c := range map[string]struct {
			script, want string
			limit        time.Duration
		}{
			"hangs":          {"echo working >/dev/ttyS0; while :; do sleep 1; done", "the script had not ended after 4s. The console's last lines:\n", 4 * time.Second},
			"panics":         {"echo c >/proc/sysrq-trigger; sleep 100", "the kernel panicked. The console's last lines:\n", 0},
			"goes off early": {"poweroff -f", "the machine switched off or restarted before its script had ended", 0},
			"restarts":       {"reboot -f", "restarted before its script had ended", 0},
			"stays on":       {"echo | report end; while :; do sleep 1; done", "the machine was not off after 4s", 4 * time.Second},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				g := Guest(t, c.script)
				if c.limit > 0 {
					g.Limit = c.limit
				}
				if _, err := guests.Run(t.Context(), g); errs.CodeOf(err) != testboot.CodeGuest || !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v", err)
				}
			})
		}
	})
}

func guestCancelled(t *testing.T, guests Guests) {
	t.Parallel()
	g := Guest(t, "while :; do sleep 1; done")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	g.Script, g.Log = "echo 'it begins' >/dev/ttyS0\n"+g.Script, &calling{word: "it begins", f: stop}
	if _, err := guests.Run(ctx, g); errs.CodeOf(err) != testboot.CodeStop || !errs.Is(err, errs.Cancelled) {
		t.Errorf("%v", err)
	}
}

func guestGiven(t *testing.T, guests Guests) {
	t.Parallel()
	g := Guest(t, given)
	g.Files = map[string][]byte{"some/file": []byte("one\n")}
	g.Packages = filepath.Join(g.Dir, "has=equal")
	if err := os.MkdirAll(g.Packages, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.Packages, "x_1%3a2.deb"), []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := around(t, g)
	log := &calling{}
	g.Log = log
	r, err := guests.Run(t.Context(), g)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for kind, want := range map[string]string{"given": "one\ntwo\n", "locked": "read-only\n", "cards": "1\n", "long": strings.Repeat("a", 5000), "table": "xxx"} {
		if r.Reports[kind] != want {
			t.Errorf("%s is %.200q", kind, r.Reports[kind])
		}
	}
	if r.Seconds <= 0 || !strings.Contains("\n"+log.String(), "\n| ") {
		t.Errorf("%.1f s, log %.100q", r.Seconds, log.String())
	}
	if around(t, g) != was {
		t.Error("what is beside the file system changed")
	}
	out, err := exec.CommandContext(t.Context(), "debugfs", "-R", "cat /written", fmt.Sprintf("%s?offset=%d", g.Disk, GuestStart)).Output()
	if err != nil || string(out) != "mark\n" {
		t.Errorf("%v %q", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(g.Dir, "kiln-work-*")); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}

// calling is a log that calls f when the word is in it.
type calling struct {
	word string
	f    func()

	mu   sync.Mutex
	text bytes.Buffer
}

func (c *calling) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.text.Write(p)
	if c.f != nil && bytes.Contains(c.text.Bytes(), []byte(c.word)) {
		c.f()
	}
	return n, err
}

func (c *calling) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}
