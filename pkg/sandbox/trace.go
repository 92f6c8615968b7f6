package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeTrace is the code of a command that was ended because it could not be traced to its end.
const CodeTrace = "kiln.sandbox.trace"

// tracer is told by the kernel (seccomp_unotify(2)) of every system call that has a name in it, and lets each go on. It
// decides nothing: what is forbidden is so by the rules of the filter, which the kernel asks on its own.
type tracer struct {
	told     func(Access)
	listener *net.UnixListener // where the runtime hands over the filter's descriptor
	stop     context.CancelFunc
	calls    map[int32]traced
	done     chan error
	fd       int                // the filter's descriptor
	roots    bool               // a process changed its root
	loaders  map[program]string // interpreters of programs that were looked at
	path     [unix.PathMax]byte // of the call that is looked at
}

// startTrace listens. stop is called where the trace breaks: the command must not go on without it.
func startTrace(bundle string, told func(Access), stop context.CancelFunc) (*tracer, error) {
	dir, err := os.Open(bundle)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // read only
	// By its descriptor, because a socket's address holds only 107 characters.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), traceSocket), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	t := &tracer{told: told, listener: l, stop: stop, calls: tracedCalls(), loaders: map[program]string{}, done: make(chan error, 1)}
	go t.run()
	return t, nil
}

const traceSocket = "trace"

// end waits for the trace of a command that has ended. err is nil only if every call was seen; it is errNoFilter where the
// command did not begin.
func (t *tracer) end() error {
	t.listener.Close() //nolint:errcheck // accept ends with it
	return <-t.done
}

func (t *tracer) run() {
	runtime.LockOSThread() // the kernel wakes one thread again and again
	defer runtime.UnlockOSThread()
	var err error
	if t.fd, err = t.receive(); err == nil {
		err = t.follow()
		unix.Close(t.fd) //nolint:errcheck // only told through
	}
	if err != nil {
		if !errors.Is(err, errNoFilter) {
			t.stop()
		}
		err = errs.Wrap(err, errs.Internal, CodeTrace, "The command in the image could not be traced; it was ended.")
	}
	t.done <- err
}

// errNoFilter is that of a command that did not begin: the runtime failed before it handed over the filter's descriptor. Without
// a descriptor every traced call fails, so nothing goes on unseen.
var errNoFilter = errors.New("the runtime handed over no filter")

// receive takes the filter's descriptor from the runtime.
func (t *tracer) receive() (int, error) {
	conn, err := t.listener.AcceptUnix()
	if err != nil {
		return -1, errors.Join(errNoFilter, err)
	}
	defer conn.Close() //nolint:errcheck // read only
	state, rights := make([]byte, 64<<10), make([]byte, 256)
	_, n, _, _, err := conn.ReadMsgUnix(state, rights)
	if err != nil {
		return -1, errors.Join(errNoFilter, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(errNoFilter, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, errors.Join(errNoFilter, err)
	}
	for _, fd := range fds[1:] {
		unix.Close(fd) //nolint:errcheck // not ours
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// Structures of linux/seccomp.h.
type (
	notification struct {
		id      uint64
		pid     uint32
		flags   uint32
		nr      int32
		arch    uint32
		pointer uint64
		args    [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
)

// follow answers until the last process that has the filter is gone.
func (t *tracer) follow() error {
	fd := t.fd
	// Both sides on one processor: half the price of a call. Kernels before 6.6 do not know it.
	unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) //nolint:errcheck // only faster
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(poll, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return nil // hung up
		}
		var n notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))) //nolint:gosec // an ioctl takes a pointer
		if errno == unix.ENOENT || errno == unix.EINTR {
			continue // the process was killed meanwhile
		}
		if errno != 0 {
			return errno
		}
		t.look(&n)
		answer := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer))) //nolint:gosec // an ioctl takes a pointer
		if errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// gone reports whether the process no longer waits for an answer.
func (t *tracer) gone(id uint64) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.fd), unix.SECCOMP_IOCTL_NOTIF_ID_VALID, uintptr(unsafe.Pointer(&id))) //nolint:gosec // an ioctl takes a pointer
	return errno == unix.ENOENT
}

// look reports what a call is about to do.
func (t *tracer) look(n *notification) {
	call, known := t.calls[n.nr]
	if !known {
		t.told(Access{Kind: Unknown, Process: int(n.pid)})
		return
	}
	for _, p := range call.places {
		name, err := t.name(n, call, p)
		if errors.Is(err, errNoName) {
			continue
		}
		a := Access{Kind: p.kind, Process: int(n.pid), NoFollow: !p.follows(n.args)}
		if err == nil {
			a.Asked, a.Root, err = t.absolute(n, p, name)
		}
		if err != nil && t.gone(n.id) {
			return // killed while we looked: the call never happens
		}
		if err != nil {
			a.Kind = Unknown
			t.told(a)
			continue
		}
		a.Path = filepath.Clean(a.Asked)
		t.roots = t.roots || call.root && a.Path != "/"
		if call.open == 0 {
			t.told(a)
		} else {
			t.opened(n, call, a)
		}
		if a.Kind == Exec && a.Root != "" {
			t.told(Access{Kind: Unknown, Process: a.Process})
		} else if a.Kind == Exec {
			t.interpreter(a)
		}
	}
}

func (t *tracer) opened(n *notification, call traced, a Access) {
	flags := n.args[call.open-1]
	if call.how2 {
		var how [8]byte
		if got, err := peek(int(n.pid), flags, how[:]); err != nil || got < len(how) {
			a.Kind = Unknown
			t.told(a)
			return
		}
		flags = binary.NativeEndian.Uint64(how[:])
	}
	a.NoFollow = flags&unix.O_NOFOLLOW != 0 || flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL
	for _, kind := range openKinds(flags) {
		a.Kind = kind
		t.told(a)
	}
}

var errNoName = errors.New("the call is about an open file")

// name reads the argument. errNoName where the call is about a descriptor, or has no name of a file.
func (t *tracer) name(n *notification, call traced, p place) (string, error) {
	address := n.args[p.path]
	if address == 0 {
		return "", errNoName // utimensat of a descriptor
	}
	if call.addr {
		return t.socketName(n, address)
	}
	// A page at a time: the next one may not be there.
	for have := 0; have < len(t.path); {
		part := t.path[have:min(len(t.path), have+4096-int(address%4096))]
		got, err := peek(int(n.pid), address, part)
		if err != nil {
			if errors.Is(err, unix.EFAULT) {
				return "", errNoName // the call will say so too
			}
			return "", err
		}
		if end := bytes.IndexByte(part[:got], 0); end >= 0 {
			name := string(t.path[:have+end])
			if name == "" && (call.nr != unix.SYS_EXECVEAT) {
				return "", errNoName
			}
			return name, nil
		}
		have, address = have+got, address+uint64(got)
	}
	return "", errNoName // too long for the kernel too
}

// socketName is that of a socket in the file system.
func (t *tracer) socketName(n *notification, address uint64) (string, error) {
	part := t.path[:min(uint64(unix.SizeofSockaddrUnix), n.args[2])]
	got, err := peek(int(n.pid), address, part)
	if err != nil || got < 3 || binary.NativeEndian.Uint16(part) != unix.AF_UNIX || part[2] == 0 {
		return "", errNoName
	}
	name, _, _ := strings.Cut(string(part[2:got]), "\x00")
	return name, nil
}

func peek(pid int, address uint64, into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &into[0]}}
	local[0].SetLen(len(into))
	return unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(into)}}, 0)
}

// absolute puts the folder before a name that is relative to one, and gives the process's root where it has one of its own.
func (t *tracer) absolute(n *notification, p place, name string) (asked, root string, err error) {
	if t.roots {
		root, err = os.Readlink("/proc/" + strconv.Itoa(int(n.pid)) + "/root")
		if err != nil {
			return "", "", err
		}
		if root == "/" {
			root = ""
		}
	}
	if strings.HasPrefix(name, "/") {
		return root + name, root, nil
	}
	asked, err = relative(n, p, name)
	return asked, root, err
}

func relative(n *notification, p place, name string) (string, error) {
	link := "/proc/" + strconv.Itoa(int(n.pid)) + "/cwd"
	// The kernel takes the lower half of a descriptor too.
	if p.dir != atCwd && int32(n.args[p.dir]) != unix.AT_FDCWD {
		link = fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.args[p.dir]))
	}
	folder, err := os.Readlink(link)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.HasSuffix(folder, " (deleted)") {
		return "/proc/self/fd/-1/" + name, nil // no such descriptor or folder: the call fails
	}
	if err != nil || !strings.HasPrefix(folder, "/") {
		return "", fmt.Errorf("%s: %w", link, errors.Join(err, errNoFolder))
	}
	if name == "" {
		return folder, nil
	}
	return folder + "/" + name, nil
}

var errNoFolder = errors.New("no folder")

// interpreter reports what the kernel opens by itself to run a program: the one that a script's first line names, and the
// loader of a program with shared libraries.
func (t *tracer) interpreter(a Access) {
	for range 5 { // the kernel's own bound
		name := t.interpreterOf(a)
		if name == "" {
			return
		}
		if !strings.HasPrefix(name, "/") {
			t.told(Access{Kind: Unknown, Process: a.Process})
			return
		}
		a.Asked, a.Path, a.NoFollow = name, filepath.Clean(name), false
		t.told(a)
	}
}

// program is a file as it was when its interpreter was read: whoever changes it changes the time of that.
type program struct {
	device, inode      uint64
	size, changedNanos int64
}

// settled is how long ago a file must have changed for its time to tell that it is the same: the kernel's clock for that
// goes in steps of some milliseconds.
const settled = time.Second

// maxLoaders bounds what a trace remembers.
const maxLoaders = 1 << 16

func (t *tracer) interpreterOf(a Access) string {
	root, err := unix.Open("/proc/"+strconv.Itoa(a.Process)+"/root", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(root) //nolint:errcheck // a folder
	fd, err := unix.Openat2(root, a.Asked, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), a.Path)
	defer f.Close() //nolint:errcheck // read only
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	key := program{st.Dev, st.Ino, st.Size, st.Ctim.Nano()}
	name, known := t.loaders[key]
	if !known {
		name = interpreterIn(f)
		if len(t.loaders) < maxLoaders && time.Since(time.Unix(0, key.changedNanos)) > settled {
			t.loaders[key] = name
		}
	}
	return name
}

func interpreterIn(f *os.File) string {
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	if line, script := strings.CutPrefix(string(head[:n]), "#!"); script {
		line, _, _ = strings.Cut(line, "\n")
		words := strings.Fields(line)
		if len(words) == 0 {
			return ""
		}
		return words[0]
	}
	if n < 4 || string(head[:4]) != elf.ELFMAG {
		return ""
	}
	return loaderOf(f)
}

// loaderOf is the program interpreter of an ELF file (PT_INTERP), or "".
func loaderOf(f *os.File) string {
	program, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz > 1 && p.Filesz < unix.PathMax {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}
