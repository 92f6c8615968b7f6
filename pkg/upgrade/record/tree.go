package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Tree is the root of an image's file system while nothing else runs in it. Its names are relative, without a leading
// slash; no symbolic link of the image leads out of it.
type Tree struct{ dir *os.File }

// OpenTree opens the tree of a mounted image.
func OpenTree(root *os.Root) (*Tree, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	return &Tree{dir: dir}, nil
}

// Close lets the file system be unmounted.
func (t *Tree) Close() error { return t.dir.Close() }

// Types of a State.
const (
	TypeNone    = ""
	TypeFile    = "f"
	TypeDir     = "d"
	TypeLink    = "l"
	TypeSpecial = "s" // pipes, sockets and devices
)

// State is what can be seen at one name.
type State struct {
	Type   string            `json:"t,omitempty"`
	Mode   uint32            `json:"m,omitempty"` // permissions with the set-id bits
	UID    uint32            `json:"u,omitempty"`
	GID    uint32            `json:"g,omitempty"`
	Size   int64             `json:"s,omitempty"` // of a file
	Hash   string            `json:"h,omitempty"` // sha256 of a file, hex; "" where it was not read
	Target string            `json:"l,omitempty"` // of a symbolic link
	Xattrs map[string][]byte `json:"x,omitempty"` // file capabilities are one of them
	Device uint64            `json:"d,omitempty"` // of a device node
}

// Same reports whether both are the same for every reader. Two files of which one was not read are never the same.
func (s State) Same(o State) bool {
	return s.alike(o) && s.Hash == o.Hash && (s.Type != TypeFile || s.Hash != "")
}

// alike is Same for readers that do not open the file.
func (s State) alike(o State) bool {
	if s.Type != o.Type || s.Mode != o.Mode || s.UID != o.UID || s.GID != o.GID || s.Size != o.Size || s.Target != o.Target || s.Device != o.Device ||
		len(s.Xattrs) != len(o.Xattrs) {
		return false
	}
	for name, value := range s.Xattrs {
		if other, ok := o.Xattrs[name]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// open opens a name of which no part is a symbolic link.
func (t *Tree) open(name string, flags int) (*os.File, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOFOLLOW), Resolve: beneath}
	fd, err := unix.Openat2(int(t.dir.Fd()), name, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// folder opens the folder that a name is in.
func (t *Tree) folder(name string) (*os.File, error) {
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	return t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

// Lstat is the state at a name without a file's hash. TypeNone where there is nothing, or where a folder of the name
// is none.
func (t *Tree) Lstat(name string) (State, error) {
	if name == "" || name == "." {
		return statAt(int(t.dir.Fd()), ".")
	}
	dir, err := t.folder(name)
	if missing(err) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	defer dir.Close() //nolint:errcheck // a folder
	return statAt(int(dir.Fd()), path.Base(name))
}

func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// statAt reads the state of an entry of a folder.
func statAt(dir int, base string) (State, error) {
	s, _, err := statFull(dir, base)
	return s, err
}

func statFull(dir int, base string) (State, unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if missing(err) {
		return State{}, st, nil
	}
	if err != nil {
		return State{}, st, &os.PathError{Op: "stat", Path: base, Err: err}
	}
	s := State{Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Type, s.Size = TypeFile, st.Size
		s.Xattrs, err = xattrs(dir, base)
	case unix.S_IFDIR:
		s.Type = TypeDir
		s.Xattrs, err = xattrs(dir, base)
	case unix.S_IFLNK:
		s.Type, s.Mode = TypeLink, 0
		s.Target, err = readlink(dir, base)
	default:
		s.Type, s.Device = TypeSpecial, st.Rdev
		s.Mode = st.Mode
	}
	return s, st, err
}

func readlink(dir int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: base, Err: err}
	}
	return string(buf[:n]), nil
}

// attributes are the names in a list as listxattr(2) gives it.
func attributes(list []byte) iter.Seq[string] {
	return strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00")
}

// xattrs reads the extended attributes of a file or folder, which most do not have. The kernel finds them by a path
// alone, so the folder's descriptor is named in one.
func xattrs(dir int, base string) (map[string][]byte, error) {
	at := procPath(dir, base)
	var names [4096]byte
	n, err := unix.Llistxattr(at, names[:])
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: base, Err: err}
	}
	found := map[string][]byte{}
	for name := range attributes(names[:n]) {
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(at, name, value)
		if err != nil {
			return nil, &os.PathError{Op: "getxattr", Path: base, Err: err}
		}
		found[name] = slices.Clone(value[:size])
	}
	return found, nil
}

// Full is Lstat with a file's hash.
func (t *Tree) Full(name string) (State, error) {
	s, err := t.Lstat(name)
	if err != nil || s.Type != TypeFile {
		return s, err
	}
	s.Hash, err = t.hash(name)
	return s, err
}

// buffers are those of copied: one for each of some thousand files would keep the garbage collector busy.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// copied reads in to its end.
func copied(out io.Writer, in io.Reader) (int64, error) {
	buf, ok := buffers.Get().(*[256 << 10]byte)
	if !ok {
		return io.Copy(out, in)
	}
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf[:])
}

func (t *Tree) hash(name string) (string, error) {
	f, err := t.open(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := copied(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxDatabase bounds what is read into memory, in bytes.
const maxDatabase = 64 << 20

// Read reads a small file; nil and no error where there is none.
func (t *Tree) Read(name string) ([]byte, error) {
	f, err := t.open(name, unix.O_RDONLY)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxDatabase {
		return nil, &os.PathError{Op: "read", Path: name, Err: unix.EFBIG}
	}
	return io.ReadAll(io.LimitReader(f, maxDatabase))
}

// List names the entries of a folder, sorted; nil where there is none.
func (t *Tree) List(name string) ([]string, error) {
	dir, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // a folder
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// lstat is what resolves names: of a live tree or of a snapshot.
type lstat func(name string) (State, error)

// maxLinks is the kernel's own bound for one name.
const maxLinks = 40

// resolve follows the symbolic links in a name as a process inside the tree would, the last one too if follow is set.
// The result names what is there, or what is not there. ok is false where the links go round.
func resolve(at lstat, name string, follow bool) (real string, ok bool, err error) {
	rest := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	done := ""
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		next := strings.TrimPrefix(done+"/"+part, "/")
		if len(rest) == 0 && !follow {
			return next, true, nil
		}
		s, err := at(next)
		if err != nil {
			return "", false, err
		}
		if s.Type != TypeLink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", false, nil
		}
		if strings.HasPrefix(s.Target, "/") {
			done = ""
		}
		rest = append(strings.Split(s.Target, "/"), rest...)
	}
	return done, true, nil
}
