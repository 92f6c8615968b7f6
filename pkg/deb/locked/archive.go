package locked

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Archive keeps packages by their hash, for ever. Several workers may share its folder.
type Archive struct {
	Dir      string
	Mirrors  deb.Mirrors  // where a package is asked for that the archive does not have
	Upstream http.Handler // a forward proxy to them
}

func (a Archive) path(p deb.LockedPackage) string {
	return filepath.Join(a.Dir, p.SHA256[:2], p.SHA256+".deb")
}

// Bring gives the path of a package in the archive, fetched from a mirror if need be. Its bytes are those that the
// hash names. errs.Invalid CodeGone where neither archive nor mirror has it.
func (a Archive) Bring(ctx context.Context, p deb.LockedPackage) (string, error) {
	if raw, err := hex.DecodeString(p.SHA256); err != nil || len(raw) != sha256.Size {
		return "", errs.New(errs.Invalid, CodeArchive, "%q is no SHA-256 of the package %s.", p.SHA256, p.Name)
	}
	name := a.path(p)
	whole, err := holds(name, p)
	if err != nil || whole {
		return name, err
	}
	var last error
	for _, base := range []string{a.Mirrors.Main, a.Mirrors.Security} {
		if base == "" {
			continue
		}
		err := a.fetch(ctx, strings.TrimRight(base, "/"), p, name)
		if err == nil {
			return name, nil
		}
		// A mirror that is away says nothing about the package; one that answers may have lost it.
		if last == nil || !errs.Is(err, errs.NotFound) {
			last = err
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	if last != nil && !errs.Is(last, errs.NotFound) {
		return "", last
	}
	return "", errs.New(errs.Invalid, CodeGone, "The locked package %s %s (%s) is neither in the archive nor on the mirror any more: "+
		"make the lock again with kiln recipe lock, or put the file with SHA-256 %s into the archive.", p.Name, p.Version, p.Filename, p.SHA256)
}

// holds reports whether a file is the package. A damaged one is not: it is fetched again.
func holds(name string, p deb.LockedPackage) (bool, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeArchive, "The archive of packages cannot be read.")
	}
	defer f.Close() //nolint:errcheck // read only
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return false, errs.Wrap(err, errs.Internal, CodeArchive, "The archive of packages cannot be read.")
	}
	return hex.EncodeToString(sum.Sum(nil)) == strings.ToLower(p.SHA256), nil
}

// fetch brings one file; it gets its name when it is whole and proven.
func (a Archive) fetch(ctx context.Context, base string, p deb.LockedPackage, name string) error {
	u, err := url.Parse(base + "/" + (&url.URL{Path: p.Filename}).EscapedPath())
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeMirror, "%q is no address of a package.", p.Filename)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeMirror, "%q is no address of a package.", p.Filename)
	}
	full := func(err error) error {
		return errs.Wrap(err, errs.TooLarge, CodeArchive, "The package %s cannot be written to the archive.", p.Name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return full(err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return full(err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // after the rename there is nothing to remove
	got := &sink{header: http.Header{}, to: tmp, sum: sha256.New(), left: p.Size}
	a.Upstream.ServeHTTP(got, req)
	if err := errors.Join(got.err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return full(err)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case got.status == http.StatusNotFound || got.status == http.StatusGone:
		return errs.New(errs.NotFound, CodeGone, "The mirror has no %s.", p.Filename)
	case got.status != http.StatusOK && got.status != 0:
		return errs.New(errs.Unavailable, CodeMirror, "The package mirror answers %d for %s.", got.status, p.Filename)
	case hex.EncodeToString(got.sum.Sum(nil)) != strings.ToLower(p.SHA256):
		return errs.New(errs.Unavailable, CodeMirror, "The package mirror's %s is not the locked one: its SHA-256 differs or it broke off.", p.Filename)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return full(err)
	}
	return nil
}

// sink is a response that goes into a file, never more of it than the package has.
type sink struct {
	header http.Header
	status int
	to     io.Writer
	sum    hash.Hash
	left   int64
	err    error
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
	}
}

var errLonger = errors.New("the file is longer than the locked one")

func (s *sink) Write(b []byte) (int, error) {
	if s.status != 0 && s.status != http.StatusOK {
		return len(b), nil // the text of an error
	}
	s.sum.Write(b)
	if s.left -= int64(len(b)); s.left < 0 {
		return 0, errLonger // what came so far has another hash
	}
	n, err := s.to.Write(b)
	s.err = errors.Join(s.err, err)
	return n, err
}
