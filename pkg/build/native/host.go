package native

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

const hostPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// host runs a tool of this machine.
func (m *making) host(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{hostPath, "LC_ALL=C.UTF-8"}
	return m.follow(ctx, cmd, m.log)
}

// follow runs cmd where the tree is mounted, copies its output and puts the last lines into its error.
func (m *making) follow(ctx context.Context, cmd *exec.Cmd, out io.Writer) error {
	last := &ending{}
	cmd.Stdout = io.MultiWriter(out, last)
	if out != m.log { // the output is data
		cmd.Stdout = out
		cmd.Stderr = last
	} else {
		cmd.Stderr = cmd.Stdout
	}
	cmd.WaitDelay = 10 * time.Second
	err := m.session.Run(ctx, cmd)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, last)
}

// ending keeps the last output of a command.
type ending struct{ text []byte }

// Write implements io.Writer.
func (e *ending) Write(b []byte) (int, error) {
	const most = 4 << 10
	e.text = append(e.text, b...)
	if n := len(e.text); n > 2*most {
		e.text = bytes.Clone(e.text[n-most:])
	}
	return len(b), nil
}

// String is the last lines in one.
func (e *ending) String() string {
	lines := strings.Split(strings.TrimSpace(string(e.text)), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], "; ")
}

// logf writes a line of our own into the build's log.
func (m *making) logf(format string, args ...any) {
	if _, err := fmt.Fprintf(m.log, format, args...); err != nil {
		m.builder.cfg.Log.WithError(err).Warn("the build's log cannot be written")
	}
}

// offline runs a shell script of any size in the image without network; it stops at the first failing line.
func (m *making) offline(ctx context.Context, script string, more ...sandbox.Bind) error {
	if strings.TrimSpace(script) == "" {
		return nil
	}
	path := filepath.Join(m.work, "script")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The script cannot be handed over.")
	}
	const inside = "/run/kiln-script"
	return m.sandbox(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-e", inside}, Binds: append(more, sandbox.Bind{Source: path, Target: inside, ReadOnly: true})})
}

func (m *making) sandbox(ctx context.Context, spec sandbox.Spec) error {
	spec.Session, spec.Rootfs = m.session, m.root.Path()
	spec.Stdout, spec.Stderr = m.log, m.log
	spec.NoSync = true
	if !m.req.Epoch.IsZero() { // https://reproducible-builds.org/specs/source-date-epoch/
		spec.Env = append(spec.Env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(m.req.Epoch.Unix(), 10))
	}
	spec.RootDisk = &sandbox.RootDisk{UUID: m.note.Root.UUID}
	spec.Limits = sandbox.Limits{Time: m.builder.cfg.StepTime}
	return sandbox.Run(ctx, spec)
}

// serveProxy answers for the mirror on a free port of loopback, for the tools that run outside of the sandbox.
func serveProxy(ctx context.Context, h http.Handler) (addr string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, CodeHost, "The mirror proxy cannot listen on loopback.")
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	return l.Addr().String(), func() {
		srv.Close() //nolint:errcheck // its clients have ended
	}, nil
}
