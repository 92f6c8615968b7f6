package disk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// namespace is an operating-system thread of this process that has a mount namespace of its own. What is mounted
// there is seen by nobody else, commands started from the thread see it, and it goes away with the process.
//
// The thread is locked to one goroutine and never given back: the Go runtime ends it with the goroutine and makes
// no new thread from it (runtime.LockOSThread).
type namespace struct {
	tid   int
	calls chan func()
	quit  chan struct{}
	once  sync.Once
	done  chan struct{}
}

func openNamespace() (*namespace, error) {
	n := &namespace{calls: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error, 1)
	OnOwnThread(func() {
		defer close(n.done)
		n.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		ready <- err
		if err == nil {
			n.serve()
		}
	})
	if err := <-ready; err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeMount, "A mount namespace cannot be made; root is needed.")
	}
	return n, nil
}

func (n *namespace) serve() {
	for {
		select {
		case f := <-n.calls:
			f()
		case <-n.quit:
			return
		}
	}
}

// do runs f on the thread and waits for it until ctx ends; f goes on in that case.
func (n *namespace) do(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case n.calls <- func() { result <- f() }:
	case <-n.done:
		return errs.New(errs.Conflict, CodeClosed, "The disk session is closed.")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close lets the thread end; the kernel then drops what is still mounted.
func (n *namespace) close() { n.once.Do(func() { close(n.quit) }) }

func (n *namespace) proc(name string) string {
	return fmt.Sprintf("/proc/%d/task/%d/%s", os.Getpid(), n.tid, name)
}

// OnOwnThread runs f in a goroutine on a thread of its own that ends with f, so f may change the thread's namespaces. Never on the process's first thread: that one cannot end, and
// /proc/self shows its namespaces as those of the process.
func OnOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f() // returning while locked ends the thread
			return
		}
		started := make(chan struct{})
		go func() { // cannot land on the first thread, which this goroutine holds until then
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}

// StartTied starts cmd so that it is killed when this process ends, even by kill -9. The signal comes when the
// *thread* that forked ends, so a thread of its own forks and stays until the command has ended or this process has.
// The caller waits with cmd.Wait as usual.
func StartTied(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	OnOwnThread(func() {
		err := startTied(cmd)
		var pid int
		if err == nil {
			pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			waitGone(pid)
		}
	})
	return <-started
}

func startTied(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd.Start()
}

// waitGone blocks until the child has ended, without reaping it.
func waitGone(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return
		}
	}
}
