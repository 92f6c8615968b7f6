package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// checkers are the programs that check a file system without changing it, by its kind, with their Debian package.
var checkers = map[string]struct {
	pkg  string
	args []string
}{
	"ext":   {"e2fsprogs", []string{"/usr/sbin/e2fsck", "-f", "-n"}},
	"xfs":   {"xfsprogs", []string{"/usr/sbin/xfs_repair", "-n"}},
	"btrfs": {"btrfs-progs", []string{"/usr/bin/btrfs", "check", "--readonly"}},
}

// checkFileSystem checks the unmounted copy, without changing it.
func (r *run) checkFileSystem(ctx context.Context) (err error) {
	kind := strings.TrimRight(r.facts.FileSystem, "234") // ext
	checker, ok := checkers[kind]
	if !ok {
		return failed("Kiln cannot check a %s file system", r.facts.FileSystem)
	}
	ctx, stop := context.WithTimeout(ctx, min(r.cfg.Timeout, 30*time.Minute))
	defer stop()
	session, err := disk.OpenSession(ctx, r.work.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	var where string
	if kind == "ext" { // only e2fsck knows where in a file to look
		file := r.raw
		if view, err := session.MountView(ctx, r.work.Path); err == nil { // it syncs what it reads, and the copy is not on the disk yet
			file = filepath.Join(view.Path(), filepath.Base(r.raw))
		}
		where = fmt.Sprintf("%s?offset=%d", file, r.root.Start)
	} else {
		device, err := disk.AttachLoop(r.raw, r.root.Start, r.root.Length, true)
		if err != nil {
			return err
		}
		defer device.Close() //nolint:errcheck // its last user frees the device
		where = device.Name()
	}
	out, err := r.outside(ctx, session, checker.args[0], append(checker.args[1:len(checker.args):len(checker.args)], where)...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return failed("its file system has errors: %.500q", out)
	}
	return errs.Wrap(err, errs.Unavailable, CodeGate, "the %s file system cannot be checked; install %s", r.facts.FileSystem, checker.pkg)
}

// outside runs a program of the host on the copy, with the mounts of a session, and gives the end of what it said.
func (r *run) outside(ctx context.Context, session *disk.Session, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	var out sandbox.Tail
	cmd.Stdout, cmd.Stderr = io.MultiWriter(r.log, &out), io.MultiWriter(r.log, &out)
	cmd.WaitDelay = 5 * time.Second
	err := session.Start(ctx, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}
