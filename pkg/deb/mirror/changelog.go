package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Changelog reads the changelog of a package that a suite of the mirror offers. The package comes through the proxy and
// stays in its cache, and is read only where it is the one that the signed index names. errs.NotFound where it has none.
func (p *Proxy) Changelog(ctx context.Context, base string, c deb.Candidate) ([]deb.Entry, error) {
	address := strings.TrimRight(base, "/") + "/" + (&url.URL{Path: c.Filename}).EscapedPath()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.mirror_malformed", "%q is no address of a package", address)
	}
	got := &status{header: http.Header{}}
	p.ServeHTTP(got, req)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case got.code == http.StatusNotFound || got.code == http.StatusGone:
		return nil, errs.New(errs.NotFound, "kiln.advisory.package_missing", "the mirror has no %s", c.Filename)
	case got.code != 0 && got.code != http.StatusOK:
		return nil, errs.New(errs.Unavailable, "kiln.advisory.mirror_unavailable", "the mirror answers %d for %s", got.code, c.Filename)
	}
	file, err := p.Open(address)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "kiln.advisory.mirror_unavailable", "cannot keep %s", c.Filename)
	}
	defer file.Close() //nolint:errcheck // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return nil, err
	}
	if !strings.EqualFold(hex.EncodeToString(sum.Sum(nil)), c.SHA256) {
		return nil, errs.New(errs.Unavailable, "kiln.advisory.package_mismatch", "%s is not the package that its signed index names", c.Filename)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	entries, err := deb.PackagedChangelog(file)
	if errors.Is(err, deb.ErrNoChangelog) {
		return nil, errs.Wrap(err, errs.NotFound, "kiln.advisory.changelog_missing", "%s", c.Filename)
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.package_malformed", "cannot read %s", c.Filename)
	}
	return entries, nil
}

// status is a response of which only the outcome matters: the bytes are in the cache.
type status struct {
	header http.Header
	code   int
}

// Header implements http.ResponseWriter.
func (s *status) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *status) WriteHeader(code int) {
	if s.code == 0 {
		s.code = code
	}
}

// Write implements http.ResponseWriter.
func (s *status) Write(b []byte) (int, error) { return len(b), nil }
