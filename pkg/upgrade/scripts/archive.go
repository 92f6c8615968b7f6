package scripts

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/deb"
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
	t, done, err := deb.Archive(r, deb.ControlArchive, maxControl)
	if err != nil {
		return nil, err
	}
	defer done()
	files := map[string][]byte{}
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
