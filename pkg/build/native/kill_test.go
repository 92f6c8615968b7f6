package native_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
)

// TestKilledBuildLeavesNothing kills a process with -9 in the middle of a build, and looks at the host: while the
// host's own tools unpack the base, while maintainer scripts run in the sandbox, and while the image is written.
func TestKilledBuildLeavesNothing(t *testing.T) {
	if dir := os.Getenv("KILN_TEST_BUILD_DIR"); dir != "" {
		victim(t, dir)
		return
	}
	builder(t)
	for _, c := range []struct{ step, line, uses string }{
		{"bootstrap", "I: extracting archives", "mmdebstrap"},
		{"configure", "Setting up libc6", "dpkg"},
		{"convert", "== convert", "qemu-img"},
	} {
		t.Run(c.step, func(t *testing.T) { kill(t, c.line, c.uses) })
	}
}

func kill(t *testing.T, line, uses string) {
	t.Helper()
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledBuildLeavesNothing$")
	child.Env = append(os.Environ(), "KILN_TEST_BUILD_DIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	ready := false
	var told strings.Builder
	for !ready && s.Scan() {
		told.WriteString(s.Text() + "\n")
		ready = strings.HasPrefix(s.Text(), line)
	}
	running := ready && becomesTrue(func() bool { return named(t, uses, dir) })
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, out) // every process that has the pipe is gone at its end
	_ = child.Wait()
	if !ready || !running {
		t.Fatalf("the build did not come to its middle with a running %s; it told:\n%s", uses, told.String()[max(0, told.Len()-2000):])
	}
	if !becomesTrue(func() bool { return len(leftInKernel(t, dir)) == 0 }) {
		t.Fatalf("running, mounted or looped after a kill: %v", leftInKernel(t, dir))
	}
	if n, err := disk.Sweep(dir); err != nil || n != 1 || len(left(t, dir)) != 0 {
		t.Errorf("swept %d, %v, left %v", n, err, left(t, dir))
	}
}

func victim(t *testing.T, dir string) {
	work, err := disk.NewWork(dir) // as a worker does: the output too is nobody's before the end
	if err != nil {
		t.Fatal(err)
	}
	_, err = builder(t).Build(t.Context(), build.Request{Recipe: parse(t, web), Files: files, WorkDir: work.Path, Output: filepath.Join(work.Path, "out.qcow2"), Log: os.Stdout})
	t.Error("was not killed: ", err)
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

// named reports whether a program runs that sees the folder: by its mounts or by its command line.
func named(t *testing.T, program, dir string) bool {
	t.Helper()
	for _, use := range leftInKernel(t, dir) {
		process, ok := strings.CutPrefix(use, "/proc/")
		if !ok {
			continue
		}
		pid, _, _ := strings.Cut(process, "/")
		if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && strings.HasPrefix(strings.TrimSpace(string(comm)), program) {
			return true
		}
	}
	return false
}
