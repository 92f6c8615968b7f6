package offline

import (
	"context"
	"errors"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Bounds of a tree: more is no image that anybody made on purpose.
const (
	maxTreeFiles = 4 << 20
	maxTreeDepth = 128 // each level keeps a folder open
)

// tree is every file of the image at one moment, by its path without the first slash.
type tree map[string]node

// node is what tells that a file is no longer the same: a write changes its time of change, a replacement its inode.
type node struct {
	mode     uint32 // as stat(2) has it, with the type
	uid, gid uint32
	inode    uint64
	size     int64
	modified int64 // seconds
	changed  int64 // nanoseconds; the kernel's, which no program can set
	powers   string
}

const execBits = 0o111

func (n node) regular() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }
func (n node) folder() bool  { return n.mode&unix.S_IFMT == unix.S_IFDIR }

// device reports whether the node is a device.
func (n node) device() bool {
	kind := n.mode & unix.S_IFMT
	return kind == unix.S_IFBLK || kind == unix.S_IFCHR
}

// privileged reports whether the program runs with more rights than who starts it.
func (n node) privileged() bool {
	return n.regular() && (n.mode&0o6000 != 0 && n.mode&execBits != 0 || n.powers != "")
}

// lookAt reads the tree below a mounted root, without opening a file or following a link.
func lookAt(ctx context.Context, root *os.Root) (tree, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeRequest, "the image's file system cannot be read")
	}
	w := &look{ctx: ctx, found: tree{}}
	if err := w.dir(dir, "", 0); err != nil {
		return nil, err
	}
	return w.found, nil
}

type look struct {
	ctx   context.Context //nolint:containedctx // of one walk
	found tree
}

// dir reads one folder and closes it.
func (w *look) dir(dir *os.File, at string, depth int) error {
	defer func() { _ = dir.Close() }()
	if err := w.ctx.Err(); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return cannotRead(err, at)
	}
	if len(w.found)+len(names) > maxTreeFiles || depth > maxTreeDepth {
		return errs.New(errs.Invalid, CodeLayout, "the image has more than %d files, or folders in more than %d levels: /%.200s", maxTreeFiles, maxTreeDepth, at)
	}
	fd := int(dir.Fd())
	for _, name := range names {
		file := path.Join(at, name)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return cannotRead(err, file)
		}
		n := node{mode: st.Mode, uid: st.Uid, gid: st.Gid, inode: st.Ino, size: st.Size, modified: st.Mtim.Sec, changed: st.Ctim.Nano()}
		if n.regular() && n.mode&execBits != 0 {
			n.powers = capabilities(fd, name)
		}
		w.found[file] = n
		if !n.folder() {
			continue
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return cannotRead(err, file)
		}
		if err := w.dir(os.NewFile(uintptr(sub), file), file, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// capabilities are the file's (capabilities(7)), as the kernel keeps them.
func capabilities(dir int, name string) string {
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(dir)+"/"+name, "security.capability", buf)
	if errors.Is(err, unix.ERANGE) {
		return "more than the kernel allows"
	}
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
