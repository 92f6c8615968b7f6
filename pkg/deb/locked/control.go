package locked

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxControl bounds the control archive of a package, unpacked, and the control file, in bytes.
const maxControl = 32 << 20

// control reads the control file of a .deb (deb(5)): an ar archive whose second member is a compressed tar.
func control(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	magic := make([]byte, 8)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	for {
		head := make([]byte, 60)
		if _, err := io.ReadFull(f, head); err != nil {
			return nil, fmt.Errorf("it has no control archive: %w", err)
		}
		member := strings.TrimRight(strings.TrimSpace(string(head[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, errors.New("a member of it has no size")
		}
		if strings.HasPrefix(member, "control.tar") {
			return controlFile(io.LimitReader(f, size), path.Ext(member))
		}
		if _, err := f.Seek(size+size%2, io.SeekCurrent); err != nil {
			return nil, err
		}
	}
}

func controlFile(r io.Reader, ext string) ([]byte, error) {
	var err error
	switch ext {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxControl)); err == nil {
			defer z.Close()
			r = z
		}
	case ".tar":
	default:
		err = fmt.Errorf("its control archive is compressed as %q, which Kiln cannot read", ext)
	}
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(io.LimitReader(r, maxControl))
	for {
		h, err := t.Next()
		if err != nil {
			return nil, fmt.Errorf("its control archive has no control file: %w", err)
		}
		if path.Clean(h.Name) == "control" && h.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(t)
			return bytes.TrimSpace(text), err
		}
	}
}
