package native_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/disk"
)

// boundaries has a stage for every kind of step that needs no package.
const boundaries = `name: boundaries
from: {release: bookworm}
disk: {size: 3GiB}
users: [{name: alice}]
files: [{path: /srv/owned, content: "NONCE", owner: alice}]
scripts: [{name: stamp, run: "stat -c %U /srv/owned >/srv/owner"}]
services: {disable: [fstrim.timer]}
`

// TestKilledAtEveryBoundary kills a build with -9 at the beginning of each of its stages, one attempt after another:
// each attempt takes what the ones before it made and comes exactly one stage further.
func TestKilledAtEveryBoundary(t *testing.T) {
	if dir := os.Getenv("KILN_TEST_BUILD_DIR"); dir != "" {
		victim(t, dir, os.Getenv("KILN_TEST_STOP"), os.Getenv("KILN_TEST_NONCE"))
		return
	}
	b := builder(t)
	t.Parallel()
	dir, nonce := t.TempDir(), strconv.FormatInt(time.Now().UnixNano(), 10)
	req := boundaryRequest(t, dir, nonce)
	planned, err := b.Plan(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range planned[1:] {
		told := killAt(t, dir, p.Name, nonce)
		for _, before := range planned[:i] {
			if !strings.Contains(told, "== "+before.Name+": as in an earlier build") {
				t.Errorf("killed before %s: %s was made again:\n%.2000s", p.Name, before.Name, told)
			}
		}
		clean(t, dir)
	}
	killAt(t, dir, "convert", nonce)
	clean(t, dir)
	var log bytes.Buffer
	req.Log = &log
	res, err := b.Build(t.Context(), req)
	if err != nil || !allCached(res) {
		t.Fatalf("%v %+v\n%s", err, res.Steps, log.String())
	}
	if names := left(t, dir); !slices.Equal(names, []string{"out.qcow2"}) {
		t.Errorf("left %v", names)
	}
	if _, err := layer.Open(layer.Config{Dir: layersDir(t)}); err != nil {
		t.Fatal(err)
	}
	halves, err := filepath.Glob(filepath.Join(layersDir(t), "kiln-work-*", "layer"))
	if err != nil || len(halves) > 0 && !othersBuild(halves) {
		t.Errorf("half layers stay: %v %v", halves, err)
	}
}

// othersBuild: tests that run at the same time make layers too; theirs are locked, so Open let them be.
func othersBuild(halves []string) bool {
	for _, h := range halves {
		if n, err := disk.Sweep(filepath.Dir(filepath.Dir(h))); err != nil || n > 0 {
			return false
		}
	}
	return true
}

func boundaryRequest(t *testing.T, dir, nonce string) build.Request {
	t.Helper()
	return build.Request{Recipe: parse(t, strings.ReplaceAll(boundaries, "NONCE", nonce)), WorkDir: dir, Output: filepath.Join(dir, "out.qcow2")}
}

// killAt runs the build in a child that stops at the beginning of a stage, and kills it there. It gives what the
// build's log told.
func killAt(t *testing.T, dir, stage, nonce string) string {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryBoundary$")
	child.Env = append(os.Environ(), "KILN_TEST_BUILD_DIR="+dir, "KILN_TEST_STOP="+stage, "KILN_TEST_NONCE="+nonce, "KILN_TEST_LAYERS="+layersDir(t))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	there := false
	for s := bufio.NewScanner(out); !there && s.Scan(); {
		told.WriteString(s.Text() + "\n")
		there = s.Text() == "AT "+stage
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, out) // every process that has the pipe is gone at its end
	_ = child.Wait()
	if !there {
		t.Fatalf("the build did not come to %s; it told:\n%s", stage, told.String()[max(0, told.Len()-3000):])
	}
	return told.String()
}

func victim(t *testing.T, dir, stage, nonce string) {
	work, err := disk.NewWork(dir) // as a worker does: the output too is nobody's before the end
	if err != nil {
		t.Fatal(err)
	}
	req := boundaryRequest(t, work.Path, nonce)
	req.Log = os.Stdout
	req.Progress = func(name string, _, _ int64, unit string) {
		if name == stage && unit == "steps" {
			fmt.Println("AT " + stage)
			select {}
		}
	}
	_, err = builder(t).Build(t.Context(), req)
	t.Error("was not killed: ", err)
}

// clean: nothing runs, is mounted or looped, and a sweep takes the folder.
func clean(t *testing.T, dir string) {
	t.Helper()
	if !becomesTrue(func() bool { return len(leftInKernel(t, dir)) == 0 }) {
		t.Fatalf("running, mounted or looped after a kill: %v", leftInKernel(t, dir))
	}
	if n, err := disk.Sweep(dir); err != nil || n != 1 || len(left(t, dir)) != 0 {
		t.Errorf("swept %d, %v, left %v", n, err, left(t, dir))
	}
}

// becomesTrue waits as long as the kernel may take on a busy machine.
func becomesTrue(f func() bool) bool {
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// left names what is in a build's folder, and what the kernel still has of it.
func left(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return append(found, leftInKernel(t, dir)...)
}

// leftInKernel names loop devices, mounts and processes that use a folder.
func leftInKernel(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/block/loop*/loop/backing_file", "/proc/[0-9]*/mountinfo", "/proc/[0-9]*/cmdline"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), dir+"/") {
				found = append(found, fmt.Sprintf("%s: %.200q", name, text))
			}
		}
	}
	return found
}
