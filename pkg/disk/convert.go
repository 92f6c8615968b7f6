package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors that Convert gives.
const (
	CodeConvert = "kiln.disk.convert" // qemu-img failed
	CodeFull    = "kiln.disk.full"    // no space left for the result
)

// Image is a disk image in a local file. The format is never guessed.
type Image struct {
	Path   string
	Format string // Raw or Qcow2
}

// Convert writes src as dst with qemu-img, which is told both formats. dst.Path appears only when it is complete
// and on stable storage; a failure or a cancel leaves nothing. src is checked first with the default Limits.
// progress may be nil; done and total are bytes of the virtual disk.
func Convert(ctx context.Context, src, dst Image, progress func(done, total int64)) error {
	return convert(ctx, src, dst, publish, progress)
}

// ConvertScratch is Convert for a result that does not outlive the job that makes it: dst.Path appears when it is complete,
// and nobody waits for the disk. After a crash of the machine it may be there with other bytes.
func ConvertScratch(ctx context.Context, src, dst Image, progress func(done, total int64)) error {
	return convert(ctx, src, dst, place, progress)
}

func convert(ctx context.Context, src, dst Image, appear func(tmp, to string) error, progress func(done, total int64)) error {
	if dst.Format != Raw && dst.Format != Qcow2 {
		return errs.New(errs.Invalid, CodeUnsupported, "Kiln cannot write the disk format %q; use qcow2 or raw.", dst.Format)
	}
	to, err := filepath.Abs(dst.Path)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeConvert, "The path of the result cannot be resolved.")
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".part-*")
	if err != nil {
		return fullOr(err, CodeConvert, "The result cannot be created.")
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // after the rename there is nothing to remove
	defer tmp.Close()           //nolint:errcheck // only synced, never written through this descriptor
	// Clusters are written in order (no -W): the same disk gives the same file, and on local disks it is as fast.
	if err := qemuConvert(ctx, src, Image{Path: tmp.Name(), Format: dst.Format}, progress); err != nil {
		return err
	}
	return appear(tmp.Name(), to)
}

// Fill writes src into a raw file that is there, as long as src's disk and all holes. After an error it may hold a part of src.
func Fill(ctx context.Context, src Image, raw string, progress func(done, total int64)) error {
	raw, err := filepath.Abs(raw)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeConvert, "The path of the result cannot be resolved.")
	}
	return qemuConvert(ctx, src, Image{Path: raw, Format: Raw}, progress, "-n", "--target-is-zero")
}

// qemuConvert checks src and copies it. dst.Path is absolute.
func qemuConvert(ctx context.Context, src, dst Image, progress func(done, total int64), more ...string) error {
	header, err := CheckFile(src, Limits{})
	if err != nil {
		return err
	}
	from, err := filepath.Abs(src.Path) // an absolute path is never taken for a protocol of qemu
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeConvert, "The path of the image cannot be resolved.")
	}
	args := append([]string{"convert", "-p", "-m", "8", "-f", src.Format, "-O", dst.Format}, more...)
	return runConvert(ctx, exec.CommandContext(ctx, "qemu-img", append(args, from, dst.Path)...), header.VirtualSize, progress)
}

// CheckFile is Check on a file.
func CheckFile(img Image, limits Limits) (Header, error) {
	f, err := os.Open(img.Path)
	if err != nil {
		kind := errs.Internal
		if errors.Is(err, os.ErrNotExist) {
			kind = errs.NotFound
		}
		return Header{}, errs.Wrap(err, kind, CodeRead, "The image cannot be opened.")
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return Header{}, errs.Wrap(err, errs.Internal, CodeRead, "The image cannot be read.")
	}
	if !st.Mode().IsRegular() {
		return Header{}, errs.New(errs.Invalid, CodeRead, "The image is not a regular file.")
	}
	return Check(f, st.Size(), img.Format, limits)
}

func runConvert(ctx context.Context, cmd *exec.Cmd, total int64, progress func(done, total int64)) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeConvert, "qemu-img cannot be started.")
	}
	if err = StartTied(cmd); err != nil {
		if ctx.Err() != nil {
			return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeConvert, "The conversion was stopped.")
		}
		return errs.Wrap(err, errs.Internal, CodeConvert, "qemu-img cannot be started; install qemu-utils.")
	}
	readProgress(out, total, progress)
	err = cmd.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeConvert, "The conversion was stopped.")
	case strings.Contains(stderr.String(), "No space left") || strings.Contains(stderr.String(), "Disk quota exceeded"):
		return errs.Wrap(err, errs.TooLarge, CodeFull, "There is no space left for the converted image (%d bytes when full).", total)
	}
	return errs.Wrap(err, errs.Invalid, CodeConvert, "qemu-img could not convert the image: %s", lastLine(stderr.String()))
}

// readProgress follows qemu-img's "    (12.34/100%)\r" until it ends.
func readProgress(r io.Reader, total int64, progress func(done, total int64)) {
	s := bufio.NewScanner(r)
	s.Split(func(b []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
			return i + 1, b[:i], nil
		}
		if atEOF && len(b) > 0 {
			return len(b), b, nil
		}
		return 0, nil, nil
	})
	for s.Scan() {
		text := strings.TrimSpace(s.Text())
		percent, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(text, "("), "/100%)"), 64)
		if err == nil && progress != nil {
			progress(int64(percent/100*float64(total)), total)
		}
	}
}

// publish makes a finished temporary file appear under its name, on stable storage.
func publish(tmp, to string) error {
	if err := SyncFile(tmp); err != nil {
		return fullOr(err, CodeConvert, "The converted image cannot be written to the disk.")
	}
	if err := place(tmp, to); err != nil {
		return err
	}
	if err := SyncFile(filepath.Dir(to)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeConvert, "The converted image cannot be published.")
	}
	return nil
}

// place makes a finished temporary file appear under its name.
func place(tmp, to string) error {
	if err := errors.Join(os.Chmod(tmp, 0o644), os.Rename(tmp, to)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeConvert, "The converted image cannot be published.")
	}
	return nil
}

// SyncFile brings a file or folder to stable storage.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Sync reported what matters
	return f.Sync()
}

// fullOr tells a full disk or quota from other faults.
func fullOr(err error, code, detail string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errs.Wrap(err, errs.TooLarge, CodeFull, "%s There is no space left.", detail)
	}
	return errs.Wrap(err, errs.Internal, code, "%s", detail)
}

// NoSpace names an error for want of space on a disk ("the node's disk"), and gives any other back.
func NoSpace(err error, where string) error {
	if errors.Is(err, unix.ENOSPC) && errs.CodeOf(err) != CodeFull {
		return errs.Wrap(err, errs.TooLarge, CodeFull, "%s is full", where)
	}
	return err
}

// fullBelow is so little free space that whatever failed beside it failed for want of it.
const fullBelow = 1 << 20

// OrFull says that the disk which holds dir is full, where it is, and gives err back otherwise. A full disk below a
// loop device shows inside as broken input and output of the most different kinds: only a look from outside tells. Ask
// before anything is cleaned up. nil stays nil.
func OrFull(dir string, err error) error {
	var fs unix.Statfs_t
	if err == nil || errs.CodeOf(err) == CodeFull || unix.Statfs(dir, &fs) != nil {
		return err
	}
	if int64(fs.Bavail)*fs.Bsize >= fullBelow {
		return err
	}
	return errs.Wrap(err, errs.TooLarge, CodeFull, "The disk with the work folder is full.")
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
