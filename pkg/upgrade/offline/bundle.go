package offline

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// A bundle is a tar archive of what a program changed in an image. A name with goneRecord is taken away.
const goneRecord = "KILN.gone"

// bundle writes what the upper layer of an overlay (the kernel's Documentation/filesystems/overlayfs.rst) adds to an image or
// takes from it. It is false where there is more than plain files, links and folders, or something outside of within.
func bundle(out io.Writer, upper, image *os.Root, within []string) (whole bool, err error) {
	b := bundler{archive: tar.NewWriter(out), upper: upper, image: image}
	whole = true
	err = fs.WalkDir(upper.FS(), upperDir, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(strings.TrimPrefix(path, upperDir), "/")
		if err != nil || name == "" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !isWithin(name, within) {
			whole = whole && d.IsDir() // a folder above
			return nil
		}
		fits, err := b.add(path, name, info)
		whole = whole && fits
		return err
	})
	if err := errors.Join(err, b.archive.Close()); err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeRequest, "what a program of the image made cannot be read")
	}
	return whole, nil
}

func isWithin(name string, within []string) bool {
	return slices.ContainsFunc(within, func(w string) bool { return name == w || strings.HasPrefix(name, w+"/") })
}

type bundler struct {
	archive      *tar.Writer
	upper, image *os.Root
}

// add puts a name into the archive; it is false where that cannot be.
func (b *bundler) add(path, name string, info fs.FileInfo) (bool, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, nil
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch {
	case info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0: // overlay's sign for a name that is gone
		h.Typeflag, h.Mode, h.PAXRecords = tar.TypeReg, 0o600, map[string]string{goneRecord: "1"}
		return true, b.archive.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := b.upper.Readlink(path)
		if err != nil {
			return false, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return true, b.archive.WriteHeader(h)
	case info.IsDir():
		h.Typeflag = tar.TypeDir
	case info.Mode().IsRegular() && st.Nlink == 1:
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
	default:
		return false, nil
	}
	f, err := b.upper.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // read only
	notes := []string{"trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid"}
	if _, err := b.image.Lstat(name); info.IsDir() && errors.Is(err, fs.ErrNotExist) {
		notes = append(notes, "trusted.overlay.opaque") // of a folder that is in the place of another one it would mean that that is gone
	}
	if plain, err := isPlain(int(f.Fd()), notes); err != nil || !plain {
		return false, err
	}
	if err := b.archive.WriteHeader(h); err != nil || info.IsDir() {
		return true, err
	}
	_, err = io.Copy(b.archive, f)
	return true, err
}

// isPlain reports whether a file or folder has no attributes but the overlay's own notes.
func isPlain(fd int, notes []string) (bool, error) {
	var names [4096]byte
	n, err := unix.Flistxattr(fd, names[:])
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if !slices.Contains(notes, name) {
			return false, nil
		}
	}
	return true, nil
}

// unbundle does to an image what was done in the layer.
func unbundle(root *os.Root, from *os.File, within []string) error {
	archive := tar.NewReader(io.NewSectionReader(from, 0, 1<<40))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && (!filepath.IsLocal(h.Name) || !isWithin(h.Name, within)) {
			err = errs.New(errs.Internal, CodeRequest, "%s is no result of its program", h.Name)
		}
		if err == nil {
			err = putBundled(root, h, archive)
		}
		switch {
		case errors.Is(err, unix.ENOSPC):
			return errs.Wrap(err, errs.TooLarge, CodeDiskFull, "the image's file system is full")
		case err != nil:
			return errs.Wrap(err, errs.Internal, CodeRequest, "what a program of the image made cannot be put into it")
		}
	}
}

func putBundled(root *os.Root, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		if err := root.Mkdir(h.Name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return errors.Join(root.Lchown(h.Name, h.Uid, h.Gid), root.Chmod(h.Name, fileMode(h)))
	}
	if err := root.RemoveAll(h.Name); err != nil || h.PAXRecords[goneRecord] != "" {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return errors.Join(root.Symlink(h.Linkname, h.Name), root.Lchown(h.Name, h.Uid, h.Gid))
	}
	out, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return errors.Join(err, out.Chown(h.Uid, h.Gid), out.Chmod(fileMode(h)), out.Close(), root.Chtimes(h.Name, h.ModTime, h.ModTime))
}

// fileMode is the mode of a header with its high bits.
func fileMode(h *tar.Header) fs.FileMode {
	mode := fs.FileMode(h.Mode & 0o777)
	for bit, is := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			mode |= is
		}
	}
	return mode
}
