package locked

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/kiln-cloud/kiln/pkg/deb"
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
	t, done, err := deb.Archive(f, deb.ControlArchive, maxControl)
	if err != nil {
		return nil, err
	}
	defer done()
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
