package offline_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// What the process that is killed is told.
const (
	killWork  = "KILN_TEST_KILL_WORK"
	killAt    = "KILN_TEST_KILL_AT" // the step, by its number
	killImage = "KILN_TEST_KILL_IMAGE"
)

// TestKilledAtEveryStep kills an upgrade with -9 at the beginning of each of its steps, one process after the other in the
// same folder: the original stays as it is bit by bit, a sweep takes what is left, and in the end an upgrade succeeds.
func TestKilledAtEveryStep(t *testing.T) {
	if work := os.Getenv(killWork); work != "" {
		killVictim(t, work)
		return
	}
	image := installed(t, []aptrepo.Package{heavy("1", "10")}, nil)
	t.Parallel()
	before := digest.File(t, image)
	work := t.TempDir()
	var seen []string
	for at := 0; ; at++ {
		name, killed := killOne(t, image, work, at)
		if name == "" {
			t.Fatalf("step %d was not told", at)
		}
		seen = append(seen, name)
		if !killed {
			break
		}
		for end := time.Now().Add(60 * time.Second); len(leftInKernel(t, work)) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("killed at %s: mounted, looped or running: %v", name, leftInKernel(t, work))
			}
		}
		if n, err := disk.Sweep(work); err != nil || n > 1 || len(outputs(t, work)) > 0 {
			t.Errorf("killed at %s: swept %d, %v, left %v", name, n, err, left(t, work))
		}
		if digest.File(t, image) != before {
			t.Fatalf("killed at %s: the original was changed", name)
		}
	}
	t.Logf("killed at %v", seen)
	for _, step := range []string{"inspect", "copy", "lists", "plan", "grow", "packages", "boot", "check packages", "changes", "trim", "check file system", "write"} {
		if !slices.Contains(seen, step) {
			t.Errorf("not killed at %s", step)
		}
	}
	if digest.File(t, image) != before || versionIn(t, filepath.Join(work, "out"), "heavy") != "2" {
		t.Error("the last upgrade, which nobody killed, is not there")
	}
}

// outputs are the files in a work folder, but for what a killed qemu-img had begun: its owner removes that with the folder.
func outputs(t *testing.T, work string) []string {
	t.Helper()
	return slices.DeleteFunc(left(t, work), func(name string) bool {
		if !strings.HasPrefix(name, ".out.part-") {
			return false
		}
		if err := os.Remove(filepath.Join(work, name)); err != nil {
			t.Error(err)
		}
		return true
	})
}

// killOne runs an upgrade that kills itself at a step. It gives the step's name; one that was not killed came to its end.
func killOne(t *testing.T, image, work string, at int) (name string, killed bool) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryStep$")
	child.Env = append(os.Environ(), killWork+"="+work, killAt+"="+strconv.Itoa(at), killImage+"="+image)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	told, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	err = child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		_, name, _ = strings.Cut(string(told), "KILLED AT ")
		return strings.TrimSpace(name), true
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	return "the end", false
}

func killVictim(t *testing.T, work string) {
	at, err := strconv.Atoi(os.Getenv(killAt))
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t)
	s.sell(heavy("2", "300000"))
	var steps []string
	_, err = offline.New(offline.Config{Proxy: s.proxy, Keyring: s.Keyring}).Upgrade(t.Context(), upgrade.Request{
		Original: os.Getenv(killImage), OriginalFormat: "raw", WorkDir: work, Output: filepath.Join(work, "out"), OutputFormat: "raw",
		Suites: []upgrade.Suite{{Mirror: aptrepo.Base, Suite: "bookworm", Components: []string{"main"}}}, Policy: upgrade.Policy{GrowGiB: 1},
		Progress: func(step string, done, total int64, _ string) {
			if total != 0 || slices.Contains(steps, step) {
				return
			}
			if steps = append(steps, step); len(steps) == at+1 {
				_, _ = os.Stdout.WriteString("KILLED AT " + step + "\n")
				if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
					t.Error(err)
				}
				select {}
			}
		},
	})
	if err != nil {
		t.Error(err)
	}
}
