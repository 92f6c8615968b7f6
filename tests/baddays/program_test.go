package baddays

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is one of Kiln's programs as a process.
type program struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	log  string // file of its standard error
	done chan struct{}
}

// spawn starts a program with configuration files; it ends with the test, in order.
func spawn(t *testing.T, dir, name string, config ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, done: make(chan struct{})}
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.log = log.Name()
	var args []string
	for _, c := range config {
		args = append(args, "--config-file", c)
	}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(shared.bin, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A test binary that is killed takes its programs along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the state tells
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the log of %s (pid %d) ends with:\n%s", name, p.cmd.Process.Pid, p.tail())
		}
	})
	return p
}

// text is the log so far.
func (p *program) text() string {
	p.t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// tail is the end of the log, without the test's own questions.
func (p *program) tail() string {
	lines := slices.DeleteFunc(strings.Split(p.text(), "\n"), func(l string) bool { return strings.Contains(l, "method=GET") })
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// says waits until the log has the text.
func (p *program) says(what string) {
	p.t.Helper()
	eventually(p.t, 30*time.Second, func() error {
		if !strings.Contains(p.text(), what) {
			return errors.New(p.name + " does not say: " + what)
		}
		return nil
	})
}

// kill is kill -9.
func (p *program) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("%s was dead already: %v\n%s", p.name, err, p.text())
	}
	<-p.done
}

// stop asks the program to end, as an init system does, and expects that it does so in order. A dead one stays dead.
func (p *program) stop() {
	p.t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	select {
	case <-p.done:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			p.t.Errorf("%s ended with status %d\n%s", p.name, code, p.text())
		}
	case <-time.After(40 * time.Second):
		p.t.Errorf("%s did not end on SIGTERM", p.name)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// status waits until the program ends by itself and gives its exit status.
func (p *program) status() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s still runs:\n%s", p.name, p.text())
		return 0
	}
}

// eventually repeats until the check has no complaint; the last one is the test's failure.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
