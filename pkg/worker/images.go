package worker

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// imageCache keeps the last few images of Glance that this worker read or made, each verified against
// Glance's own digest when it was fetched.
type imageCache struct {
	glance catalog.Glance
	dir    string
	keep   int
}

// get returns the path of the image's bytes; the file must only be read. It is fetched where it is missing.
func (c *imageCache) get(ctx context.Context, r *job.Run, g catalog.GlanceImage) (string, error) {
	if g.Status != "active" {
		kind := errs.Conflict
		if g.Status == "saving" || g.Status == "importing" {
			kind = errs.Unavailable // Glance notifies of image.activate before it writes the status
		}
		return "", errs.New(kind, "kiln.image.not_active", "image %s is %s in Glance, not active", g.ID, g.Status)
	}
	if path, ok := c.has(g); ok {
		return path, nil
	}
	path := c.path(g)
	return path, c.fetch(ctx, r, g, path)
}

// has gives the path of the image's bytes where they are here.
func (c *imageCache) has(g catalog.GlanceImage) (string, bool) {
	path := c.path(g)
	if info, err := os.Stat(path); err != nil || info.Size() != g.Size || g.Size == 0 {
		return "", false
	}
	now := time.Now() // young again, so that the trim of another job does not take it while this one reads
	return path, os.Chtimes(path, now, now) == nil
}

// fetch downloads the image in a work folder of its own, so that what a killed worker leaves is swept, and names the
// file once its bytes are verified.
func (c *imageCache) fetch(ctx context.Context, r *job.Run, g catalog.GlanceImage, path string) (err error) {
	body, err := c.glance.Download(ctx, g.ID, 0)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	work, err := disk.NewWork(c.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	tmp, err := os.Create(filepath.Join(work.Path, "image"))
	if err != nil {
		return disk.NoSpace(err, "the worker's disk")
	}
	defer tmp.Close() //nolint:errcheck // closed below where it matters
	sum := newHash(g.HashAlgo)
	n, err := io.Copy(io.MultiWriter(tmp, sum), r.Metered("download", body, g.Size))
	if err != nil {
		return disk.NoSpace(err, "the worker's disk")
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != g.Size || g.HashValue != "" && got != g.HashValue {
		return errs.New(errs.Unavailable, "kiln.image.digest", "image %s: %d bytes with %s %s were read, Glance says %d bytes with %s", g.ID, n, g.HashAlgo, got, g.Size, g.HashValue)
	}
	// On stable storage before it has its name: afterwards only its size is looked at.
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return disk.NoSpace(err, "the worker's disk")
	}
	c.trim()
	return os.Rename(tmp.Name(), path)
}

// put remembers bytes that this worker made itself and uploaded.
func (c *imageCache) put(g catalog.GlanceImage, path string) error {
	target := c.path(g)
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return err
	}
	c.trim()
	return os.Link(path, target)
}

// path holds the digest, so bytes that are not those of the image are never found under its name.
func (c *imageCache) path(g catalog.GlanceImage) string {
	name := g.ID
	if len(g.HashValue) >= 16 {
		name += "-" + g.HashValue[:16]
	}
	return filepath.Join(c.dir, name)
}

// trim removes the files that were used longest ago, and makes room for one more. A file that is open stays readable for its user.
func (c *imageCache) trim() {
	entries, err := os.ReadDir(c.dir)
	entries = slices.DeleteFunc(entries, os.DirEntry.IsDir) // downloads that are under way
	if err != nil || len(entries) < c.keep {
		return
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return modTime(b).Compare(modTime(a)) })
	for _, e := range entries[c.keep-1:] {
		os.Remove(filepath.Join(c.dir, e.Name())) //nolint:errcheck // the next trim tries again
	}
}

func newHash(algo string) hash.Hash {
	if algo == "sha256" {
		return sha256.New()
	}
	return sha512.New()
}

func modTime(e os.DirEntry) time.Time {
	info, err := e.Info()
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
