package output

import (
	"context"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// leftOut are the paths of a tree that a machine boots with and a container must not have: kernel, modules, initial RAM
// disks, boot loader, firmware, the table of its disks, and what the kernel and systemd fill while they run. Folders
// stay, empty. The package database still names the packages. Both Go and POSIX read it.
const leftOut = `^((boot|efi|dev|proc|sys|run|tmp|var/tmp|(usr/)?lib/(modules|firmware|grub|grub-legacy|systemd/boot)|usr/share/grub|etc/grub\.d)/.*|` +
	`lost\+found(/.*)?|vmlinuz(\.old)?|initrd\.img(\.old)?|etc/fstab|etc/crypttab|etc/default/grub(\.d/.*|\.ucf-dist)?|etc/kernel-img\.conf)$`

var leftOutPattern = regexp.MustCompile(`(?s)` + leftOut)

// entry is one file of a tree, with its folder open.
type entry struct {
	dir  int    // descriptor of its folder
	name string // in the folder
	path string // from the root, without a slash in front; "." for the root itself
	stat unix.Stat_t
}

func (e *entry) kind() uint32 { return e.stat.Mode & unix.S_IFMT }

// at is a path to the entry that nothing in the tree can lead elsewhere: no link is followed on it but the last, and
// only by calls that follow.
func (e *entry) at() string { return procPath(e.dir, e.name) }

// walker goes through a tree in the order of its paths. It holds one descriptor for each level, and no path is resolved
// by name: a path may be longer than the kernel takes, and a link may be anything.
type walker struct {
	limits Limits
	visit  func(e *entry) error
	files  int
}

func (w *walker) walk(ctx context.Context, root string) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The tree cannot be opened.")
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	e := &entry{dir: fd, name: ".", path: "."}
	if err := unix.Fstat(fd, &e.stat); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The tree cannot be read.")
	}
	if err := w.visit(e); err != nil {
		return err
	}
	return w.folder(ctx, fd, "", 1)
}

func (w *walker) folder(ctx context.Context, fd int, at string, depth int) error {
	if depth > w.limits.Depth {
		return errs.New(errs.Invalid, CodeTree, "The tree has folders more than %d levels deep, at %.100q.", w.limits.Depth, at)
	}
	names, err := readNames(fd)
	if err != nil {
		return damaged(err, at)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return errs.Wrap(err, errs.KindOf(err), CodeConvert, "The reading of the tree was stopped.")
		}
		if w.files++; w.files > w.limits.Files {
			return errs.New(errs.Invalid, CodeTree, "The tree has more than %d files.", w.limits.Files)
		}
		if err := w.one(ctx, &entry{dir: fd, name: name, path: path.Join(at, name)}, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) one(ctx context.Context, e *entry, depth int) error {
	if leftOutPattern.MatchString(e.path) {
		return nil
	}
	if err := unix.Fstatat(e.dir, e.name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return damaged(err, e.path)
	}
	if err := w.visit(e); err != nil || e.kind() != unix.S_IFDIR {
		return err
	}
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return damaged(err, e.path)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	return w.folder(ctx, fd, e.path, depth+1)
}

// readNames lists a folder, sorted by bytes.
func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	slices.Sort(names)
	return names, nil
}

// attributes are the extended attributes that belong to a file wherever it lies: capabilities, access lists, and what
// users wrote. Those by which a kernel steers overlays and security modules are not the image's to give.
func (e *entry) attributes() (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(e.at(), buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, damaged(err, e.path)
	}
	var out map[string]string
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(e.at(), name, value)
		if err != nil {
			return nil, damaged(err, e.path)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(value[:n])
	}
	return out, nil
}

func damaged(err error, at string) error {
	return errs.Wrap(err, errs.Invalid, CodeTree, "%.200q cannot be read; the file system may be damaged.", at)
}
