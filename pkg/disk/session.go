package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors that sessions and mounts give.
const (
	CodeMount  = "kiln.disk.mount"  // the kernel refused; the file system may be damaged
	CodeBusy   = "kiln.disk.busy"   // something still uses the mount
	CodeClosed = "kiln.disk.closed" // the session has been closed
)

// closeTime bounds every unmount and the closing of a session.
const closeTime = 30 * time.Second

// Session holds mounts that only it and the commands started through it can see. They vanish with Close, and with
// the process however it ends. Its methods may be called from several goroutines.
type Session struct {
	dir string
	ns  *namespace

	mu     sync.Mutex
	next   int
	mounts []*Mount
}

// OpenSession makes a session whose mount points are folders in dir, which must exist and should be private to the
// caller (see NewWork). It needs root.
func OpenSession(ctx context.Context, dir string) (*Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodeMount, "The work folder cannot be resolved.")
	}
	ns, err := openNamespace()
	if err != nil {
		return nil, err
	}
	return &Session{dir: abs, ns: ns}, nil
}

// Do runs f on the session's thread, where the mounts are visible under Mount.Path. f must not block and must not
// change the thread's namespaces or working directory.
func (s *Session) Do(ctx context.Context, f func() error) error { return s.ns.do(ctx, f) }

// Start starts cmd inside the session's mount namespace; it is killed when this process ends or the session closes.
// The caller waits for it.
func (s *Session) Start(ctx context.Context, cmd *exec.Cmd) error {
	return s.ns.do(ctx, func() error { return startTied(cmd) })
}

// Run is Start and Wait.
func (s *Session) Run(ctx context.Context, cmd *exec.Cmd) error {
	if err := s.Start(ctx, cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Dir is the folder of the mount points, absolute.
func (s *Session) Dir() string { return s.dir }

// NamespacePath is the file for setns(2) into the session's mount namespace; valid until Close.
func (s *Session) NamespacePath() string { return s.ns.proc("ns/mnt") }

// HostPath gives a path as the session sees it to a reader outside of it; valid until Close. A symlink below it
// is resolved in the session's tree, so use Mount.Root for anything that an image controls.
func (s *Session) HostPath(path string) string { return s.ns.proc("root") + path }

// MountRaw mounts length bytes at offset of a raw disk file. opts is a comma list as mount(8) takes it: ro, nosuid,
// nodev, noexec, noatime, nodiratime, relatime, sync, and what the file system itself knows. nosuid and nodev are always set.
func (s *Session) MountRaw(ctx context.Context, path string, offset, length int64, fstype, opts string) (*Mount, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, errs.Wrap(err, errs.NotFound, CodeMount, "The disk file cannot be opened.")
	}
	if offset < 0 || length <= 0 || offset > st.Size() || length > st.Size()-offset {
		return nil, errs.New(errs.Invalid, CodeMount, "Bytes %d to %d are not inside the disk file (%d bytes).", offset, offset+length, st.Size())
	}
	flags, _ := mountOptions(opts)
	dev, err := AttachLoop(path, offset, length, flags&unix.MS_RDONLY != 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close() //nolint:errcheck // the mount holds the device; without one, closing frees it
	return s.MountLoop(ctx, dev, fstype, opts)
}

// MountLoop mounts what a loop device shows, with the options of MountRaw.
func (s *Session) MountLoop(ctx context.Context, dev *os.File, fstype, opts string) (*Mount, error) {
	flags, data := mountOptions(opts)
	return s.Mount(ctx, dev.Name(), fstype, flags|unix.MS_NOSUID|unix.MS_NODEV, data)
}

// MountTmpfs mounts an empty tmpfs of at most size bytes, nosuid and nodev.
func (s *Session) MountTmpfs(ctx context.Context, size int64) (*Mount, error) {
	return s.Mount(ctx, "tmpfs", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", size))
}

// MountView shows a folder read-only as the lower layer of an overlay, in which programs that sync a file that they have only read
// wait for no disk.
func (s *Session) MountView(ctx context.Context, folder string) (*Mount, error) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodeMount, "The folder %s cannot be resolved.", folder)
	}
	none, err := s.MountTmpfs(ctx, 1<<16) // the kernel wants two layers
	if err != nil {
		return nil, err
	}
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	return s.Mount(ctx, "overlay", "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "lowerdir="+escape.Replace(abs)+":"+escape.Replace(none.Path()))
}

// Mount is mount(2) on a new folder of the session: overlay, bind (MS_BIND), or any other type.
func (s *Session) Mount(ctx context.Context, source, fstype string, flags uintptr, data string) (*Mount, error) {
	s.mu.Lock()
	m := &Mount{session: s, path: filepath.Join(s.dir, fmt.Sprintf("mnt%d", s.next))}
	s.next++
	s.mu.Unlock()
	if err := os.Mkdir(m.path, 0o755); err != nil {
		return nil, fullOr(err, CodeMount, "The mount point cannot be made.")
	}
	err := s.ns.do(ctx, func() error {
		if err := unix.Mount(source, m.path, fstype, flags, data); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mounts = append(s.mounts, m)
		return nil
	})
	if err != nil {
		os.Remove(m.path) //nolint:errcheck // the work folder's owner removes what stays
		if ctx.Err() != nil || errs.CodeOf(err) == CodeClosed {
			return nil, err
		}
		return nil, errs.Wrap(err, errs.Invalid, CodeMount, "The %s file system cannot be mounted; it may be damaged.", fstype)
	}
	return m, nil
}

// Close unmounts everything, newest first, with all data written, and ends the namespace. It waits at most 30 s in
// all, and may be called twice. An error means that data may not have reached the disk file.
func (s *Session) Close() error {
	s.mu.Lock()
	mounts := slices.Clone(s.mounts)
	s.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), closeTime)
	defer stop()
	var all error
	for _, m := range slices.Backward(mounts) {
		all = errors.Join(all, m.Unmount(ctx))
	}
	s.ns.close()
	select {
	case <-s.ns.done:
	case <-ctx.Done():
		all = errors.Join(all, errs.New(errs.Timeout, CodeBusy, "The session's thread is stuck in the kernel."))
	}
	return all
}

// Mount is one mounted file system of a session.
type Mount struct {
	session *Session
	path    string
	gone    bool
}

// Path is the mount point as the session, and commands started in it, see it.
func (m *Mount) Path() string { return m.path }

// HostPath is the mount point as this process and its parents see it, until the mount or the session ends.
func (m *Mount) HostPath() string { return m.session.HostPath(m.path) }

// Root opens the mount for reading and writing by names that no symlink of the image can lead outside. Close it
// before the mount ends: it keeps the file system busy.
func (m *Mount) Root() (*os.Root, error) {
	root, err := os.OpenRoot(m.HostPath())
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeMount, "The mounted file system cannot be opened.")
	}
	return root, nil
}

// Unmount writes everything back and unmounts. It tries until ctx ends while something uses the mount, then fails
// with CodeBusy. A second call does nothing.
func (m *Mount) Unmount(ctx context.Context) error {
	var busy error
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := m.session.ns.do(ctx, m.unmount)
		switch {
		case err == nil:
			return nil
		case errs.CodeOf(err) == CodeClosed:
			return nil // the namespace is gone, and the mount with it
		case errors.Is(err, unix.EBUSY):
			busy = err
		case busy == nil || ctx.Err() == nil:
			return errs.Wrap(err, errs.Internal, CodeMount, "The file system cannot be unmounted.")
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(busy, errs.Conflict, CodeBusy, "Something still uses the mounted file system.")
		case <-time.After(pause):
		}
	}
}

// unmount runs on the session's thread.
func (m *Mount) unmount() error {
	if m.gone {
		return nil
	}
	// A copy of the namespace that is still ending may hold the file system: flush it here, not when that one ends.
	fd, err := unix.Open(m.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Syncfs(fd)
	unix.Close(fd) //nolint:errcheck // read only
	if err != nil {
		return err
	}
	if err := unix.Unmount(m.path, 0); err != nil {
		return err
	}
	m.gone = true
	m.session.mu.Lock()
	defer m.session.mu.Unlock()
	m.session.mounts = slices.DeleteFunc(m.session.mounts, func(o *Mount) bool { return o == m })
	return os.Remove(m.path)
}

// mountOptions splits mount(8) options into flags and what the file system parses itself.
func mountOptions(opts string) (flags uintptr, data string) {
	known := map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "sync": unix.MS_SYNCHRONOUS, "rw": 0, "": 0}
	var rest []string
	for o := range strings.SplitSeq(opts, ",") {
		if f, ok := known[o]; ok {
			flags |= f
			continue
		}
		rest = append(rest, o)
	}
	return flags, strings.Join(rest, ",")
}
