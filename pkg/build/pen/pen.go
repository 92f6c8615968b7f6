// Package pen runs a whole foreign tool as root so that all of it ends with the call, and with this process however
// that one ends: packer with its virtual machine, disk-image-create with its mounts and loop devices.
//
// It is no sandbox. The tool has all of root's rights; what it gets is a mount, a process and a network namespace of its
// own, a /dev without the host's disks, a bound on time, processes and memory, and nothing on its network but what
// Spec.Handlers answers. Commands of an image that nobody trusts run in pkg/sandbox.
package pen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors that Run gives. They never change.
const (
	CodeStart   = "kiln.build.host"        // the tool or its namespaces could not be started
	CodeExit    = "kiln.build.tool"        // the tool ended with another code than 0
	CodeTimeout = "kiln.build.timeout"     // Limits.Time was over
	CodeMemory  = "kiln.build.tool_memory" // the kernel killed a process of the tool for memory
)

// Work is where the tool sees its work folder.
const Work = "/mnt"

// Proxy is where Spec.Proxy listens for the tool.
const Proxy = "127.0.0.1:3142"

// Path is what the tool's PATH is, after Work/bin. It names no other place: a Python of the administrator's own, say,
// lacks the modules of Debian's programs.
const Path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

// Spec says what to run.
type Spec struct {
	Dir    string   // on the host; the tool sees it as Work and has its folder tmp as /tmp; programs in its folder bin come first
	Args   []string // the program by PATH and its arguments
	Env    []string // added to PATH, HOME, TMPDIR=/tmp and LC_ALL=C.UTF-8; nothing is inherited
	Binds  []Bind   // shown read-only below Work
	Nodes  []Node   // devices beside the usual harmless ones
	Proxy  http.Handler
	Log    io.Writer         // gets the output
	Line   func(text string) // told of each line of output, from one goroutine
	Limits Limits
}

// Bind shows a file or folder of the host below Work, read-only.
type Bind struct {
	Source string // absolute, on the host
	Target string // relative to Spec.Dir
}

// Node is a device file that the tool's /dev has.
type Node struct {
	Name string // "kvm"
	Mode uint32 // unix.S_IFCHR or S_IFBLK; permissions are 0600
	Dev  uint64 // unix.Mkdev
}

// Limits bound one run. Zero means the default.
type Limits struct {
	Time        time.Duration // default 2 hours
	MemoryBytes int64         // of all processes together, without what the kernel keeps of files; default 6 GiB
	Processes   int           // default 4096
	FileBytes   int64         // of one file; default 256 GiB
}

func (l Limits) orDefault() Limits {
	if l.Time <= 0 {
		l.Time = 2 * time.Hour
	}
	if l.MemoryBytes <= 0 {
		l.MemoryBytes = 6 << 30
	}
	if l.Processes <= 0 {
		l.Processes = 4096
	}
	if l.FileBytes <= 0 {
		l.FileBytes = 256 << 30
	}
	return l
}

// lineBytes bounds a line that is told to Spec.Line; a longer one comes in pieces.
const lineBytes = 64 << 10

// Run runs the tool to its end. When it returns, none of its processes, mounts or loop devices is left. It needs root.
// The error's text has the last lines of output.
func Run(ctx context.Context, spec Spec) error {
	spec.Limits = spec.Limits.orDefault()
	caller := ctx
	ctx, stop := context.WithTimeout(ctx, spec.Limits.Time)
	defer stop()
	out, in := io.Pipe()
	last := &tail{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		spec.read(out, last)
	}()
	group := newGroup(spec.Limits)
	err := spec.start(ctx, in, group)
	in.Close() //nolint:errcheck // of a pipe in this process
	<-read
	killed := group.outOfMemory()
	group.remove()
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return caller.Err()
	case ctx.Err() != nil:
		return errs.New(errs.Invalid, CodeTimeout, "%s was stopped after %s.%s", spec.Args[0], spec.Limits.Time, last.text())
	case killed:
		return errs.New(errs.Invalid, CodeMemory, "%s used more than %d MiB of memory.%s", spec.Args[0], spec.Limits.MemoryBytes>>20, last.text())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return errs.New(errs.Invalid, CodeExit, "%s ended with %s.%s", spec.Args[0], exit, last.text())
	}
	return errs.Wrap(err, errs.Internal, CodeStart, "%s cannot be run.", spec.Args[0])
}

// read logs the output as it comes and cuts it into lines.
func (s *Spec) read(from io.Reader, last *tail) {
	r := bufio.NewReaderSize(from, lineBytes)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			if s.Log != nil {
				s.Log.Write(line) //nolint:errcheck // a log that cannot be written does not stop a build
			}
			text := strings.TrimRight(string(line), "\r\n")
			last.add(text)
			if s.Line != nil {
				s.Line(text)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// start runs the command from a thread in the new namespaces and waits for it.
func (s *Spec) start(ctx context.Context, out io.Writer, group *group) error {
	// The signal that a dead parent sends comes at the end of the *thread* that forked: so it stays until the end.
	result := make(chan error, 1)
	disk.OnOwnThread(func() { result <- s.onThread(ctx, out, group) })
	return <-result
}

func (s *Spec) onThread(ctx context.Context, out io.Writer, group *group) error {
	defer runtime.KeepAlive(s)
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if s.Proxy != nil {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp4", Proxy)
		if err != nil {
			return fmt.Errorf("the proxy's socket: %w", err)
		}
		srv := &http.Server{Handler: s.Proxy, ReadHeaderTimeout: 30 * time.Second}
		defer srv.Close() //nolint:errcheck // its clients have ended
		go srv.Serve(l)   //nolint:errcheck // ends with Close
	}
	args := append([]string{
		fmt.Sprintf("--fsize=%d", s.Limits.FileBytes), "--core=0", "--",
		"unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private", "--mount-proc", "--",
	}, s.Args...)
	cmd := exec.CommandContext(ctx, "prlimit", args...)
	cmd.Dir = Work
	cmd.Env = append([]string{"PATH=" + Work + "/bin:" + Path, "HOME=" + Work + "/home", "TMPDIR=/tmp", "LC_ALL=C.UTF-8", "USER=root", "LOGNAME=root"}, s.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	if err := group.join(cmd.SysProcAttr); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	// The first process of the namespace takes all others with it, but a moment later: Wait saw the pipes closed by
	// then, or gave up on them.
	return errors.Join(err, s.unmount())
}

func (s *Spec) inWork(name string) string { return filepath.Join(Work, name) }

// Missing names the first of the programs that is not on this machine; "" where all are.
func Missing(programs []string) string {
	for _, name := range programs {
		found := false
		for dir := range strings.SplitSeq(Path, ":") {
			info, err := os.Stat(filepath.Join(dir, name))
			found = found || err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
		}
		if !found {
			return name
		}
	}
	return ""
}
