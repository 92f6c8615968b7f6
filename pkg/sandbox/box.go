package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// box is one run.
type box struct {
	spec    Spec
	session *disk.Session
	bundle  string // the OCI bundle and the runtime's state
	binds   []Bind // the caller's and our own
	tail    *Tail
}

func (b *box) run(ctx context.Context) error {
	runtime, err := findRuntime()
	if err != nil {
		return err
	}
	if err := b.prepare(); err != nil {
		return err
	}
	made, err := b.missingTargets()
	if err != nil {
		return err
	}
	defer b.removeTargets(made)
	group := newCgroup(b.spec.Limits)
	defer group.remove()
	config, err := json.Marshal(b.config(group.ok()))
	if err == nil {
		err = os.WriteFile(filepath.Join(b.bundle, "config.json"), config, 0o600)
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's configuration cannot be written.")
	}
	limited, stop := context.WithTimeout(ctx, b.spec.Limits.Time)
	defer stop()
	if b.spec.Trace == nil {
		err = b.runIsolated(limited, runtime, b.command(limited, runtime), group)
		return b.verdict(ctx, limited, err, group)
	}
	trace, err := startTrace(b.bundle, b.spec.Trace, stop)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeTrace, "The sandbox cannot be traced.")
	}
	err = b.runIsolated(limited, runtime, b.command(limited, runtime), group)
	broken := trace.end()
	if broken != nil && ctx.Err() == nil && !errors.Is(limited.Err(), context.DeadlineExceeded) && (err == nil || !errors.Is(broken, errNoFilter)) {
		return broken
	}
	return b.verdict(ctx, limited, err, group)
}

// findRuntime prefers crun, which starts in a third of runc's time.
func findRuntime() (string, error) {
	for _, name := range []string{"crun", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errs.New(errs.Unavailable, CodeRuntime, "No OCI runtime is installed; install crun.")
}

func isCrun(runtime string) bool { return filepath.Base(runtime) == "crun" }

// command wraps the runtime in unshare(1), which makes the runtime the first process of a pid namespace: when
// unshare is killed its child is too, and with the first process the kernel kills the whole namespace.
func (b *box) command(ctx context.Context, runtime string) *exec.Cmd {
	args := []string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		runtime, "--root", filepath.Join(b.bundle, "state"), "--log", b.log()}
	if isCrun(runtime) {
		args = append(args, "--cgroup-manager=disabled")
	}
	args = append(args, "run", "--bundle", b.bundle, filepath.Base(b.bundle))
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Env = []string{"PATH=" + defaultPath}
	cmd.Stdin = b.spec.Stdin
	cmd.Stdout = b.tail.tee(b.spec.Stdout)
	cmd.Stderr = cmd.Stdout // one pipe, so that the lines keep their order
	if b.spec.Stderr != nil && !same(b.spec.Stdout, b.spec.Stderr) {
		cmd.Stderr = b.tail.tee(b.spec.Stderr)
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func (b *box) log() string { return filepath.Join(b.bundle, "runtime.log") }

// runIsolated starts cmd from a thread that is in the session's mount namespace and in a network namespace of its
// own, and waits. The thread ends with the command; the network namespace goes with the last of the two.
func (b *box) runIsolated(ctx context.Context, runtime string, cmd *exec.Cmd, group *cgroup) error {
	result := make(chan error, 1)
	disk.OnOwnThread(func() {
		result <- func() error {
			listener, err := enterNamespaces(b.session.NamespacePath(), b.spec.Proxy != nil)
			if err != nil {
				return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's namespaces cannot be made; root is needed.")
			}
			if listener != nil {
				defer serve(ctx, listener, b.spec.Proxy)()
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			err = group.join(cmd.SysProcAttr)
			if err == nil && isCrun(runtime) {
				err = hideCgroups()
			}
			if err != nil {
				return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's limits cannot be set.")
			}
			if err := cmd.Start(); err != nil {
				return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox cannot be started; install util-linux and crun.")
			}
			return cmd.Wait()
		}()
	})
	return <-result
}

// serve answers on the listener until the returned function is called.
func serve(ctx context.Context, l net.Listener, h http.Handler) (stop func()) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l) //nolint:errcheck // ends with Close
	}()
	return func() {
		srv.Close() //nolint:errcheck // the clients are gone
		<-done
	}
}

// verdict turns the end of the command into the error that Run promises.
func (b *box) verdict(ctx, limited context.Context, err error, group *cgroup) error {
	var exit *exec.ExitError
	var known *errs.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeCancelled, "The command in the image was stopped.")
	case limited.Err() != nil:
		also := ""
		if group.outOfProcesses() {
			also = fmt.Sprintf(" It had reached the limit of %d processes.", b.spec.Limits.Processes)
		}
		return errs.New(errs.Timeout, CodeTimeout, "The command %s ran longer than %s.%s%s", b.name(), b.spec.Limits.Time, also, b.tail.lastLines())
	case errors.As(err, &known):
		return err
	case !errors.As(err, &exit):
		return errs.Wrap(err, errs.Internal, CodeRuntime, "The command %s could not be followed to its end.", b.name())
	}
	if text := b.runtimeError(); text != "" {
		return errs.New(errs.Invalid, CodeRuntime, "The command %s could not be started in the image: %s", b.name(), text)
	}
	if group.outOfMemory() {
		return errs.New(errs.TooLarge, CodeMemory, "The command %s needed more than %d bytes of memory.%s", b.name(), b.spec.Limits.MemoryBytes, b.tail.lastLines())
	}
	if group.outOfProcesses() {
		return errs.New(errs.TooLarge, CodeProcesses, "The command %s started more than %d processes and threads.%s", b.name(), b.spec.Limits.Processes, b.tail.lastLines())
	}
	return errs.New(errs.Invalid, CodeExit, "The command %s ended with exit code %d.%s", b.name(), exit.ExitCode(), b.tail.lastLines())
}

func (b *box) name() string { return fmt.Sprintf("%q", filepath.Base(b.spec.Args[0])) }

// runtimeError is what the runtime itself logged: it shares its exit code with the command.
func (b *box) runtimeError() string {
	raw, err := os.ReadFile(b.log())
	if err != nil {
		return ""
	}
	for line := range bytes.SplitSeq(bytes.TrimSpace(raw), []byte("\n")) {
		if !bytes.Contains(line, []byte("level=warn")) && len(line) > 0 {
			return printable(string(line))
		}
	}
	return ""
}

// missingTargets finds what the runtime will have to create in the image for the binds to land on.
func (b *box) missingTargets() ([]string, error) {
	root, err := os.OpenRoot(b.session.HostPath(b.spec.Rootfs))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodeSpec, "The image's tree cannot be opened.")
	}
	defer root.Close() //nolint:errcheck // read only
	var missing []string
	for _, bind := range b.binds {
		rel := strings.TrimPrefix(filepath.Clean(bind.Target), "/")
		if _, err := root.Lstat(rel); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, rel)
		}
	}
	return missing, nil
}

// removeTargets removes them again if they are still empty.
func (b *box) removeTargets(made []string) {
	root, err := os.OpenRoot(b.session.HostPath(b.spec.Rootfs))
	if err != nil {
		return
	}
	defer root.Close() //nolint:errcheck // nothing is written through it
	for _, rel := range made {
		info, err := root.Lstat(rel)
		if err == nil && (info.IsDir() || info.Mode().IsRegular() && info.Size() == 0) {
			root.Remove(rel) //nolint:errcheck // a folder that was filled stays
		}
	}
}
