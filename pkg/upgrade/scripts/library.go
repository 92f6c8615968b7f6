package scripts

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// CodeFetch says that a package could not be had to look at its scripts. It never changes.
const CodeFetch = "kiln.plan.fetch"

// Mirror gives the packages of a mirror and keeps them (mirror.Proxy).
type Mirror interface {
	Have(ctx context.Context, address string) (*os.File, error)
}

// Library classifies the packages of a mirror, each once: a package file never changes. What it fetches is kept by the
// mirror's proxy, where the upgrade finds it. It may be used at the same time.
type Library struct {
	Mirror Mirror

	mu    sync.Mutex
	known map[string]Verdict // by the package file's SHA-256, or its address where that is not known
}

// maxKnown bounds the verdicts that are remembered; a release has 65,000 packages.
const maxKnown = 200_000

// ClassifyURI is Classify for a package file whose digest the caller does not know. Nobody has checked what the mirror
// gives; but the proxy keeps it, so that it is what apt gets from the proxy and checks before it is installed.
func (l *Library) ClassifyURI(ctx context.Context, uri string) (upgrade.Script, string, error) {
	return l.Classify(ctx, upgrade.PlannedChange{URI: uri})
}

// Classify implements solve.Scripts. A package file whose name ends in .rpm is one of rpm.
func (l *Library) Classify(ctx context.Context, c upgrade.PlannedChange) (upgrade.Script, string, error) {
	l.mu.Lock()
	rpm, key := strings.HasSuffix(c.URI, ".rpm"), cmp.Or(c.SHA256, c.URI)
	if rpm {
		key += strconv.FormatBool(c.From == "")
	}
	v, ok := l.known[key]
	l.mu.Unlock()
	if ok {
		return v.Script, v.Why, nil
	}
	err := l.read(ctx, c, func(r io.Reader) (err error) {
		if rpm {
			v, err = ClassifyRPM(r, c.From == "")
			return err
		}
		files, err := Read(r)
		v = Classify(files)
		return err
	})
	if err != nil {
		return "", "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxKnown {
		l.known = map[string]Verdict{}
	}
	l.known[key] = v
	return v.Script, v.Why, nil
}

// read opens a package whose bytes are those that the signed index names.
func (l *Library) read(ctx context.Context, c upgrade.PlannedChange, with func(io.Reader) error) error {
	f, err := l.Mirror.Have(ctx, c.URI)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if c.SHA256 == "" {
		return with(f)
	}
	if _, err := io.Copy(h, f); err != nil {
		return errs.Wrap(err, errs.Internal, CodeFetch, "%s cannot be read", c.URI)
	}
	if hex.EncodeToString(h.Sum(nil)) != c.SHA256 {
		return errs.New(errs.Unavailable, CodeFetch, "%s is not the file that the signed index names", c.URI)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errs.Wrap(err, errs.Internal, CodeFetch, "%s cannot be read", c.URI)
	}
	return with(f)
}
