package pool

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxControl bounds the control file of a package, in bytes.
const maxControl = 1 << 20

// repackTime bounds the unpacking of one package.
const repackTime = 10 * time.Minute

// verified copies a package to a file. The file holds the bytes that the hash names, or there is an error.
func verified(in io.Reader, to string, p Source) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return broken(err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), in)
	if err := errors.Join(err, out.Close()); err != nil {
		return broken(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, p.SHA256) {
		return errs.New(errs.Unavailable, CodePackage, "%s has the SHA-256 %s and not %s, as the signed index names", p.Name, got, p.SHA256)
	}
	return nil
}

// repack writes dir/deb and dir/control and gives the bytes of both. The archives in the new package have every byte of
// those in the old one, unpacked (deb(5)).
func repack(ctx context.Context, deb, dir string) (int64, error) {
	out, err := os.OpenFile(filepath.Join(dir, debFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, broken(err)
	}
	defer out.Close() //nolint:errcheck // closed below too
	if _, err := io.WriteString(out, "!<arch>\n"+arHeader("debian-binary", 4)+"2.0\n"); err != nil {
		return 0, broken(err)
	}
	var control bytes.Buffer
	if err := member(ctx, out, "control.tar", deb, "--ctrl-tarfile", &control); err != nil {
		return 0, err
	}
	text, err := controlOf(&control)
	if err != nil {
		return 0, err
	}
	if err := member(ctx, out, "data.tar", deb, "--fsys-tarfile", nil); err != nil {
		return 0, err
	}
	size, err := out.Seek(0, io.SeekEnd)
	if err == nil {
		// On the disk before its name is: a crash must not leave a whole name on half a package.
		err = errors.Join(out.Sync(), out.Close(), os.WriteFile(filepath.Join(dir, controlFile), text, 0o644), disk.SyncFile(filepath.Join(dir, controlFile)))
	}
	if err != nil {
		return 0, broken(err)
	}
	return size + int64(len(text)), nil
}

// arHeader is that of a member (https://manpages.debian.org/deb.5), by root at the beginning of time.
func arHeader(name string, size int64) string {
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", size)
}

// maxMember is the largest that ten digits can say.
const maxMember = 9_999_999_999

// member appends one archive as dpkg-deb unpacks it; also gets a copy where it is not nil.
func member(ctx context.Context, out *os.File, name, deb, option string, also io.Writer) error {
	ctx, stop := context.WithTimeout(ctx, repackTime)
	defer stop()
	at, err := out.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = io.WriteString(out, arHeader(name, 0))
	}
	if err != nil {
		return broken(err)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-deb", option, deb)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = io.Writer(out), &said, 5*time.Second
	if also != nil {
		cmd.Stdout = io.MultiWriter(out, also)
	}
	if err = disk.StartTied(cmd); err == nil {
		err = cmd.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return errs.Wrap(err, errs.Unavailable, CodeStore, "dpkg-deb is not installed on this host")
	case err != nil:
		return disk.OrFull(filepath.Dir(out.Name()), errs.Wrap(err, errs.Invalid, CodePackage, "%s cannot be unpacked: %.300s", filepath.Base(deb), said.String()))
	}
	end, err := out.Seek(0, io.SeekEnd)
	size := end - at - int64(len(arHeader(name, 0)))
	if err == nil && size > maxMember {
		return errs.New(errs.TooLarge, CodePackage, "%s has %d bytes unpacked", name, size)
	}
	if err == nil {
		_, err = out.WriteAt([]byte(arHeader(name, size)), at)
	}
	if err == nil && size%2 == 1 {
		_, err = io.WriteString(out, "\n")
	}
	if err != nil {
		return broken(err)
	}
	return nil
}

// controlOf finds the control file in the control archive.
func controlOf(r io.Reader) ([]byte, error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, CodePackage, "a package has no control file")
		}
		if filepath.Clean(h.Name) != "control" || h.Size > maxControl {
			continue
		}
		text, err := io.ReadAll(t)
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, CodePackage, "the control file of a package cannot be read")
		}
		return bytes.TrimSpace(text), nil
	}
}

// appendStanza adds a package to a Packages file. What the control file says of where it is would be a lie.
func appendStanza(index, control []byte, name string, size int64) []byte {
	skip := false
	for line := range bytes.SplitSeq(control, []byte("\n")) {
		if len(line) == 0 || line[0] != ' ' && line[0] != '\t' {
			field, _, _ := bytes.Cut(line, []byte(":"))
			switch strings.ToLower(string(field)) {
			case "filename", "size", "sha256", "sha1", "md5sum", "":
				skip = true
			default:
				skip = false
			}
		}
		if !skip {
			index = append(append(index, line...), '\n')
		}
	}
	return fmt.Appendf(index, "Filename: ./%s\nSize: %d\n\n", name, size)
}
