package scripts

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodePackage says that a package file is malformed. It never changes.
const CodePackage = "kiln.plan.package"

// Bounds of what is read, in bytes.
const (
	maxControl = 64 << 20 // the control part, unpacked: the largest of Debian's has 20 MB of checksums
	maxScript  = 8 << 20  // the longest of Debian's has 2 MB of keyboard layouts
)

// Read takes the maintainer scripts out of a package file (https://manpages.debian.org/deb.5), of which only the control
// part is read. errs.Invalid CodePackage where it is no package.
func Read(r io.Reader) (map[string][]byte, error) {
	files, err := read(r)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodePackage, "the package file cannot be read")
	}
	return files, nil
}

func read(r io.Reader) (map[string][]byte, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil || string(head) != "!<arch>\n" {
		return nil, errors.New("it is no ar archive")
	}
	for range 8 { // debian-binary, perhaps some that begin with "_", control.tar
		name, size, err := member(r)
		if err != nil {
			return nil, err
		}
		if kind, ok := strings.CutPrefix(name, "control.tar"); ok {
			return unpack(io.LimitReader(r, size), kind)
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("it has no control.tar")
}

// member reads the header of an ar member.
func member(r io.Reader) (name string, size int64, err error) {
	head := make([]byte, 60)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", 0, err
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
	if err != nil || size < 0 || size > maxControl {
		return "", 0, errors.New("a member before the control part has no size that can be")
	}
	return strings.TrimRight(strings.TrimSpace(string(head[:16])), "/"), size, nil
}

func unpack(r io.Reader, kind string) (map[string][]byte, error) {
	switch kind {
	case "":
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case ".xz":
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxControl))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, errors.New("its control part is packed in an unknown way")
	}
	files := map[string][]byte{}
	t := tar.NewReader(io.LimitReader(r, maxControl))
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !slices.Contains(Names, name) {
			continue
		}
		var b bytes.Buffer
		if n, err := io.Copy(&b, io.LimitReader(t, maxScript+1)); err != nil || n > maxScript {
			return nil, errors.Join(err, errors.New(name+" is too large"))
		}
		files[name] = b.Bytes()
	}
}
