// Package sandbox runs commands inside an image under an OCI runtime (crun, else runc).
//
// The command gets namespaces, a /dev, /run and /tmp of its own, few capabilities, a seccomp filter and no network;
// if a Proxy is given, that is the only thing it can reach. All its processes end with Run, and with this process
// however that one ends.
package sandbox

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors that Run gives. They never change.
const (
	CodeSpec      = "kiln.sandbox.spec"      // the Spec cannot work
	CodeRuntime   = "kiln.sandbox.runtime"   // the command could not be started
	CodeExit      = "kiln.sandbox.exit"      // the command ended with another code than 0
	CodeTimeout   = "kiln.sandbox.timeout"   // Limits.Time was over
	CodeMemory    = "kiln.sandbox.memory"    // Limits.MemoryBytes was over
	CodeProcesses = "kiln.sandbox.processes" // the command failed after Limits.Processes was reached
	CodeCancelled = "kiln.sandbox.cancelled" // the context ended
)

// ProxyAddress is where Spec.Proxy listens inside the sandbox.
const ProxyAddress = "127.0.0.1:3142"

// Spec says what to run, where, and what it may do.
type Spec struct {
	Session *disk.Session // where Rootfs is mounted; nil: Rootfs is a folder of the host
	Rootfs  string        // the image's tree: absolute, as the session sees it
	Args    []string      // the program by absolute path or by PATH, and its arguments
	Dir     string        // working folder inside; default "/"
	Env     []string      // added to PATH, HOME, LC_ALL=C.UTF-8 and DEBIAN_FRONTEND=noninteractive, or in their place; nothing is inherited

	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: only the last lines are kept for the error
	Stderr io.Writer // nil: goes where Stdout goes; the same writer as Stdout keeps the lines in order

	Binds []Bind
	// Inner is the Target of a bind that is a tree of its own, whose programs the command starts after chroot(2): it gets
	// /proc, /dev, /run and /tmp as Rootfs does. Binds that come after it may lie in those. "": there is none.
	Inner string
	// Proxy answers HTTP on ProxyAddress inside, and http_proxy names it. nil: loopback only, nothing listens.
	Proxy http.Handler
	// RootDisk tells what makes boot menus and initial RAM disks which disk the tree will boot from, without a device.
	RootDisk *RootDisk
	// StartServices leaves out the policy-rc.d that keeps maintainer scripts from starting daemons.
	StartServices bool
	// NoSync makes fsync, fdatasync, sync and syncfs succeed without doing anything. Unmounting the session's file
	// system writes everything once instead.
	NoSync bool
	// Trace is told of every name by which the command's processes look at files, one after the other and before it
	// happens. It decides nothing, and the process waits for it: it must be quick. Open files, and what is in folders
	// that were opened, are not told again. nil: nothing is traced, which costs nothing.
	Trace func(Access)

	Limits Limits
}

// Bind shows a file or folder of the host (or of the session) inside. A target that the image lacks is made for
// the run and removed after it.
type Bind struct {
	Source, Target string // absolute
	ReadOnly       bool
}

// RootDisk is the identity of the root file system.
type RootDisk struct {
	UUID   string // of the file system, as in root=UUID=
	FSType string // as the kernel names it; default "ext4"
}

// Limits bound one run. Zero means the default.
//
// Memory and processes are limited by cgroups (version 1 or 2). Where the host lets Kiln make none, memory is
// limited for each process on its own (RLIMIT_AS) and the number of processes only by the time limit.
type Limits struct {
	Time        time.Duration // default 1 hour
	MemoryBytes int64         // all processes and tmpfs files together; default 4 GiB
	Processes   int           // processes and threads; default 1024
}

func (l Limits) orDefault() Limits {
	if l.Time <= 0 {
		l.Time = time.Hour
	}
	if l.MemoryBytes <= 0 {
		l.MemoryBytes = 4 << 30
	}
	if l.Processes <= 0 {
		l.Processes = 1024
	}
	return l
}

// Run runs one command to its end. It returns nil only if the command exited with 0. Errors: CodeExit with the last
// lines of output, CodeTimeout, CodeMemory, CodeProcesses, CodeCancelled, CodeRuntime, CodeSpec, CodeTrace. When it returns, no process of the
// sandbox is left. It needs root.
func Run(ctx context.Context, spec Spec) (err error) {
	if err := spec.validate(); err != nil {
		return err
	}
	spec.Limits = spec.Limits.orDefault()
	session := spec.Session
	if session == nil {
		work, err := disk.NewWork(os.TempDir())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, work.Close()) }()
		if session, err = disk.OpenSession(ctx, work.Path); err != nil {
			return err
		}
		defer session.Close() //nolint:errcheck // nothing is mounted in it
	}
	bundle, err := os.MkdirTemp(session.Dir(), "sandbox-*")
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's folder cannot be made.")
	}
	defer os.RemoveAll(bundle) //nolint:errcheck // the work folder's owner removes what stays
	b := &box{spec: spec, session: session, bundle: bundle, tail: &Tail{Most: tailBytes}}
	return b.run(ctx)
}

func (s *Spec) validate() error {
	switch {
	case len(s.Args) == 0 || s.Args[0] == "":
		return errs.New(errs.Invalid, CodeSpec, "There is no command to run.")
	case !filepath.IsAbs(s.Rootfs) || filepath.Clean(s.Rootfs) == "/":
		return errs.New(errs.Invalid, CodeSpec, "The image's tree %q is not an absolute path below the root.", s.Rootfs)
	case s.Dir != "" && !filepath.IsAbs(s.Dir):
		return errs.New(errs.Invalid, CodeSpec, "The working folder %q is not an absolute path.", s.Dir)
	}
	for _, b := range s.Binds {
		if !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Target) || filepath.Clean(b.Target) == "/" {
			return errs.New(errs.Invalid, CodeSpec, "The bind of %q at %q does not use absolute paths.", b.Source, b.Target)
		}
	}
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return errs.New(errs.Invalid, CodeSpec, "%q is not a variable (NAME=value).", e)
		}
	}
	if s.RootDisk != nil && (s.RootDisk.UUID == "" || strings.Trim(s.RootDisk.UUID, "0123456789abcdefABCDEF-") != "") {
		return errs.New(errs.Invalid, CodeSpec, "%q is not the UUID of a file system.", s.RootDisk.UUID)
	}
	return nil
}
