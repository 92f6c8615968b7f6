package worker

import (
	"context"
	"slices"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Changelogs reads the changelog of a published package; errs.NotFound where it has none.
type Changelogs interface {
	Changelog(ctx context.Context, mirror string, c deb.Candidate) ([]deb.Entry, error)
}

// advisoryHandler compares what is published with what every inspected image has.
type advisoryHandler struct{ Deps }

func (h *advisoryHandler) Kind() job.Kind { return job.Advisories }

// fixCache keeps what was read of the operator's files as long as neither they nor what is wanted of them changes.
type fixCache struct {
	mu    sync.Mutex
	stamp string
	fixes *advisory.Fixes
}

func (c *fixCache) last() *advisory.Fixes {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fixes
}

// chunk is how many images are compared before what was found is written.
const chunk = 200

func (h *advisoryHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	var p advisory.JobPayload
	if err := r.Decode(&p); err != nil {
		return job.Result{}, err
	}
	systems, err := h.Store.ListSystems(ctx)
	if err != nil {
		return job.Result{}, err
	}
	if len(p.ImageIDs) > 0 {
		systems = slices.DeleteFunc(systems, func(s advisory.System) bool { return !slices.Contains(p.ImageIDs, s.ImageID) })
	}
	c := h.newComparison()
	c.fetch = true
	if c.files, c.filesStamp, err = h.fixes(ctx, r, systems); err != nil {
		return job.Result{}, err
	}
	changed, found := 0, map[string]bool{}
	for i, s := range systems {
		r.Progress("compare", int64(i), int64(len(systems)), "images")
		if err := c.addSystem(ctx, r, s, len(p.ImageIDs) > 0); err != nil {
			return job.Result{}, err
		}
		if len(c.findings) == chunk || i == len(systems)-1 {
			if err := c.learn(ctx, r); err != nil {
				return job.Result{}, err
			}
			for id := range c.known {
				found[id] = true
			}
			changed += len(c.findings)
			if err := c.write(ctx, r); err != nil {
				return job.Result{}, err
			}
			c.forget()
		}
	}
	r.Progress("compare", int64(len(systems)), int64(len(systems)), "images")
	if err := h.Store.DropGaps(ctx); err != nil {
		return job.Result{}, err
	}
	r.Logf("%d images, of which %d had to be compared; %d fixes that one of them lacks; %d changelogs read", len(systems), changed, len(found), c.fetched)
	if c.failed != nil { // what could be compared is written
		return job.Result{}, c.failed
	}
	return job.Result{Value: map[string]int{"images": len(systems), "compared": changed, "advisories": len(found), "changelogs": c.fetched, "problems": len(c.files.Problems)}}, nil
}

// fixes reads the operator's files, where they or the images changed since.
func (h *advisoryHandler) fixes(ctx context.Context, r *job.Run, systems []advisory.System) (*advisory.Fixes, string, error) {
	if h.Files.Tracker == "" && len(h.Files.OSV) == 0 {
		return &advisory.Fixes{}, "", nil
	}
	names, err := h.Store.ListNames(ctx)
	if err != nil {
		return nil, "", err
	}
	w := advisory.Wanted{Releases: map[string]bool{}, Packages: advisory.FileNames(names)}
	for _, s := range systems {
		for _, release := range s.Releases() {
			w.Releases[release] = true
		}
	}
	filesStamp := h.Files.Stamp()
	stamp := digest(filesStamp, sorted(w.Releases), sorted(w.Packages))
	h.cache.mu.Lock()
	defer h.cache.mu.Unlock()
	if h.cache.fixes == nil || h.cache.stamp != stamp {
		r.Progress("read the files of [advisory]", 0, 0, "steps")
		h.cache.fixes, h.cache.stamp = h.Files.Read(w), stamp
	}
	for i, problem := range h.cache.fixes.Problems {
		if i == maxProblems {
			r.Warnf("and %d more", len(h.cache.fixes.Problems)-i)
			break
		}
		r.Warnf("%v", problem)
	}
	return h.cache.fixes, filesStamp, nil
}

// maxProblems bounds what the log says of bad entries in the operator's files.
const maxProblems = 50

// compared holds one new image against the repositories, with the changelogs that are known already. A mirror that is
// away does not spoil the image: the next refresh compares it, and reads what is missing.
func (d Deps) compared(ctx context.Context, r *job.Run, img catalog.Image) *comparison {
	c := d.newComparison()
	c.files = d.cache.last()
	if img.Facts == nil {
		return c
	}
	err := c.add(ctx, r, advisory.SystemOf(img), advisory.InstalledOf(img.Facts), "")
	if err == nil {
		err = c.learn(ctx, r)
	}
	if err == nil {
		err = c.failed
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		r.Warnf("what is published against the image is not known yet: %v", err)
		return d.newComparison()
	}
	return c
}
