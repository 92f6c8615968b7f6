package mirror

import (
	"bytes"
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
	got := &body{header: http.Header{}, left: c.Size}
	p.ServeHTTP(got, req)
	sum := sha256.Sum256(got.data.Bytes())
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case got.code == http.StatusNotFound || got.code == http.StatusGone:
		return nil, errs.New(errs.NotFound, "kiln.advisory.package_missing", "the mirror has no %s", c.Filename)
	case got.code != 0 && got.code != http.StatusOK:
		return nil, errs.New(errs.Unavailable, "kiln.advisory.mirror_unavailable", "the mirror answers %d for %s", got.code, c.Filename)
	case !strings.EqualFold(hex.EncodeToString(sum[:]), c.SHA256):
		return nil, errs.New(errs.Unavailable, "kiln.advisory.package_mismatch", "%s is not the package that its signed index names, or it broke off", c.Filename)
	}
	entries, err := deb.PackagedChangelog(&got.data)
	if errors.Is(err, deb.ErrNoChangelog) {
		return nil, errs.Wrap(err, errs.NotFound, "kiln.advisory.changelog_missing", "%s", c.Filename)
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.package_malformed", "cannot read %s", c.Filename)
	}
	return entries, nil
}

// body is a response of at most as many bytes as the package has.
type body struct {
	header http.Header
	code   int
	left   int64
	data   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (b *body) Header() http.Header { return b.header }

// WriteHeader implements http.ResponseWriter.
func (b *body) WriteHeader(code int) {
	if b.code == 0 {
		b.code = code
	}
}

// Write implements http.ResponseWriter.
func (b *body) Write(p []byte) (int, error) {
	if b.code != 0 && b.code != http.StatusOK {
		return len(p), nil // the text of an error
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, io.ErrShortWrite // what came so far has another hash
	}
	return b.data.Write(p)
}
