package buildtest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// kill kills a process with -9 in the middle of a build, and looks at the host.
func (h Harness) kill(t *testing.T, m Moment) {
	dir := t.TempDir()
	name, _, _ := strings.Cut(t.Name(), "/")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	ready := false
	var told strings.Builder
	for !ready && s.Scan() {
		told.WriteString(s.Text() + "\n")
		ready = strings.HasPrefix(s.Text(), m.Line)
	}
	drained := make(chan struct{})
	go func() { // the build goes on for a moment
		defer close(drained)
		_, _ = io.Copy(io.Discard, out)
	}()
	running := ready && becomesTrue(func() bool { return named(t, m.Program, dir) })
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-drained // every process that has the pipe is gone then
	_ = child.Wait()
	if !ready || !running {
		t.Fatalf("the build did not come to %q with a running %s; it told:\n%s", m.Line, m.Program, told.String()[max(0, told.Len()-2000):])
	}
	if !becomesTrue(func() bool { return len(inKernel(t, dir)) == 0 }) {
		t.Fatalf("running, mounted or looped after a kill: %v", inKernel(t, dir))
	}
	if n, err := disk.Sweep(dir); err != nil || n != 1 || len(left(t, dir)) != 0 {
		t.Errorf("swept %d, %v, left %v", n, err, left(t, dir))
	}
}

// victim is the child process.
func victim(t *testing.T, h Harness, dir string) {
	work, err := disk.NewWork(dir) // as a worker does: the output too is nobody's before the end
	if err != nil {
		t.Fatal(err)
	}
	req := h.request(t, text, work.Path)
	req.Log = os.Stdout
	_, err = h.Builder.Build(t.Context(), req)
	t.Error("was not killed: ", err)
}

// becomesTrue waits as long as the kernel may take on a busy machine.
func becomesTrue(f func() bool) bool {
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// named reports whether a program runs that sees the folder: by its mounts or by its command line.
func named(t *testing.T, program, dir string) bool {
	t.Helper()
	for _, use := range inKernel(t, dir) {
		process, ok := strings.CutPrefix(use, "/proc/")
		if !ok {
			continue
		}
		pid, _, _ := strings.Cut(process, "/")
		if comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err == nil && strings.HasPrefix(strings.TrimSpace(string(comm)), program) {
			return true
		}
	}
	return false
}
