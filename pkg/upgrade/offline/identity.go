package offline

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// identityFiles make one machine different from another. Maintainer scripts fill in what is missing
// (systemd a machine-id, openssh-server host keys); in an image that would be baked into every clone.
var identityFiles = []string{
	"etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/hosts", "etc/mailname", "etc/resolv.conf",
	"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key",
	"etc/apt/sources.list", "etc/apt/auth.conf",
}

// identityPatterns are the same for files of any name: host keys, and where the image's owner takes packages from.
var identityPatterns = []string{"etc/ssh/ssh_host_*", "etc/apt/sources.list.d/*", "etc/apt/auth.conf.d/*"}

// maxIdentity bounds one such file, in bytes.
const maxIdentity = 1 << 20

// identity is how those files were before.
type identity map[string]keptFile

type keptFile struct {
	link     string // target, for a symbolic link
	data     []byte
	mode     fs.FileMode
	uid, gid int
	modified time.Time // of a file; that of a link means nothing to anybody
}

func identityNames(root *os.Root) ([]string, error) {
	names := slices.Clone(identityFiles)
	for _, pattern := range identityPatterns {
		found, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	return names, nil
}

// keepIdentity reads the files that the upgrade must leave as they are.
func keepIdentity(root *os.Root) (identity, error) {
	names, err := identityNames(root)
	if err != nil {
		return nil, unreadable(err, "etc")
	}
	kept := identity{}
	for _, name := range names {
		f, err := keep(root, name, maxIdentity)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, unreadable(err, name)
		}
		kept[name] = f
	}
	return kept, nil
}

// keep reads a file of at most limit bytes, or a link.
func keep(root *os.Root, name string, limit int64) (keptFile, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return keptFile{}, err
	}
	f := keptFile{mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(st.Uid), int(st.Gid)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		f.link, err = root.Readlink(name)
	case info.Mode().IsRegular():
		f.modified = info.ModTime()
		f.data, err = readFile(root, name, limit)
	default:
		err = errors.New("neither a file nor a link")
	}
	return f, err
}

func (f keptFile) equal(o keptFile) bool {
	return f.link == o.link && bytes.Equal(f.data, o.data) && f.mode == o.mode && f.uid == o.uid && f.gid == o.gid
}

// restore puts every file back that differs, and removes those that were not there.
func (kept identity) restore(root *os.Root) error {
	names, err := identityNames(root)
	if err != nil {
		return unreadable(err, "etc")
	}
	for name := range kept {
		if !slices.Contains(names, name) {
			names = append(names, name) // a host key that the upgrade removed
		}
	}
	for _, name := range names {
		before, was := kept[name]
		now, err := keep(root, name, maxIdentity)
		if err == nil && was && now.equal(before) || err != nil && !was {
			continue
		}
		if err == nil {
			if err := root.Remove(name); err != nil {
				return unreadable(err, name)
			}
		}
		if was {
			if err := before.write(root, name); err != nil {
				return unreadable(err, name)
			}
		}
	}
	return nil
}

func (f keptFile) write(root *os.Root, name string) error {
	if f.link != "" {
		if err := root.Symlink(f.link, name); err != nil {
			return err
		}
		return root.Lchown(name, f.uid, f.gid)
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.data)
	err = errors.Join(err, out.Chown(f.uid, f.gid), out.Chmod(f.mode.Perm()), out.Close())
	return errors.Join(err, root.Chtimes(name, f.modified, f.modified))
}

func unreadable(err error, name string) error {
	return errs.Wrap(err, errs.Invalid, CodePackages, "/%s of the image cannot be kept as it is", name)
}

// readFile reads a regular file of the image. It never waits: a pipe under that name is refused.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, errs.New(errs.Invalid, CodePackages, "/%s of the image is no file of at most %d bytes", name, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
