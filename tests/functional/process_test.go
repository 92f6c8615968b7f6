package functional

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is one program of Kiln.
type process struct {
	name string
	args []string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	end  bool          // somebody here ended it
}

// launches are run on one thread that lives as long as the test binary: PDEATHSIG is sent when the starting thread
// ends, so the programs go with the test binary, however it ends.
var launches = func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
}()

// start starts a program of Kiln under a name of its own; its output goes to a log of that name.
func (s *stand) start(name, program string, args ...string) error {
	p := &process{name: name, args: append([]string{program}, args...), log: filepath.Join(s.dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	p.cmd = exec.Command(filepath.Join(s.bin, program), args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	launches <- func() { started <- p.cmd.Start() }
	if err := errors.Join(<-started, out.Close()); err != nil {
		return err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs[name] = p
	return nil
}

// again starts a program that was killed once more.
func (s *stand) again(name string) error {
	s.mu.Lock()
	p := s.procs[name]
	s.mu.Unlock()
	return s.start(name, p.args[0], p.args[1:]...)
}

// kill is kill -9.
func (s *stand) kill(name string) error {
	s.mu.Lock()
	p := s.procs[name]
	p.end = true
	s.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.done
	return nil
}

// stop asks a program to end and waits for that.
func (s *stand) stop(name string) error {
	s.mu.Lock()
	p := s.procs[name]
	p.end = true
	s.mu.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s did not end within 30 s of SIGTERM", name)
	}
}

// stopPrograms asks all programs to end; one that has to be killed, or ended before, is an error.
func (s *stand) stopPrograms() error {
	err := s.endedByItself()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		p.end = true
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	}
	limit := time.After(30 * time.Second)
	for _, p := range s.procs {
		select {
		case <-p.done:
		case <-limit:
			err = errors.Join(err, fmt.Errorf("%s did not end within 30 s of SIGTERM", p.name), p.cmd.Process.Kill())
			<-p.done
		}
	}
	return err
}

// endedByItself is an error where a program ended that nobody ended.
func (s *stand) endedByItself() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, p := range s.procs {
		select {
		case <-p.done:
			if !p.end {
				err = errors.Join(err, fmt.Errorf("%s ended by itself (%s); its log ends with:\n%s", p.name, p.cmd.ProcessState, tail(p.log)))
			}
		default:
		}
	}
	return err
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
}

// command runs a program to its end and returns what it wrote.
func command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), err
}
