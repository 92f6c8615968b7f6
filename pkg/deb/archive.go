package deb

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// The two archives of a package.
const (
	ControlArchive = "control"
	DataArchive    = "data"
)

// Bounds of what stands before an archive, and of what zstd may remember, in bytes.
const (
	maxMembers = 8 // debian-binary, perhaps some that begin with "_", control.tar, data.tar
	maxWindow  = 256 << 20
)

// Archive finds one of the two archives of a package file (https://manpages.debian.org/deb.5) and unpacks it as it is read, at
// most limit bytes; the file is read from its beginning and no further than needed. done gives memory back.
func Archive(r io.Reader, which string, limit int64) (t *tar.Reader, done func(), err error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, nil, errors.New("it is no Debian package")
	}
	for range maxMembers {
		head := make([]byte, 60)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, nil, fmt.Errorf("it has no %s archive: %w", which, err)
		}
		member := strings.TrimRight(strings.TrimSpace(string(head[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, nil, errors.New("a member of it has no size")
		}
		if strings.HasPrefix(member, which+".tar") {
			unpacked, done, err := decompressed(io.LimitReader(r, size), path.Ext(member))
			if err != nil {
				return nil, nil, fmt.Errorf("its %s archive: %w", which, err)
			}
			return tar.NewReader(io.LimitReader(unpacked, limit)), done, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, nil, fmt.Errorf("it breaks off: %w", err)
		}
	}
	return nil, nil, fmt.Errorf("it has no %s archive", which)
}

func decompressed(r io.Reader, ext string) (out io.Reader, done func(), err error) {
	done = func() {}
	switch ext {
	case ".tar":
		return r, done, nil
	case ".gz":
		out, err = gzip.NewReader(r)
	case ".xz":
		out, err = xz.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		err = fmt.Errorf("it is compressed as %q, which Kiln cannot read", ext)
	}
	return out, done, err
}
