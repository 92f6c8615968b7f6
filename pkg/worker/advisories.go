package worker

import (
	"context"
	"regexp"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// advisoryHandler compares what the repositories publish with what every inspected image has.
type advisoryHandler struct{ Deps }

func (h *advisoryHandler) Kind() job.Kind { return job.Advisories }

// finding is what one image lacks.
type finding struct {
	image   catalog.Image
	pending []advisory.Pending
}

// comparison holds images against the repositories; each suite is read once.
type comparison struct {
	Deps
	indexes  map[string][]*deb.Index // by release and architecture
	known    map[string]advisory.Advisory
	findings []finding
	missing  map[string]error // releases that no repository has
}

// plainName is what a release or an architecture may be called: it becomes part of an address, and images are their owners' work.
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func (d Deps) newComparison() *comparison {
	return &comparison{Deps: d, indexes: map[string][]*deb.Index{}, known: map[string]advisory.Advisory{}, missing: map[string]error{}}
}

func (h *advisoryHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	images, err := h.inspected(ctx)
	if err != nil {
		return job.Result{}, err
	}
	c := h.newComparison()
	for i, img := range images {
		r.Progress("compare", int64(i), int64(len(images)), "steps")
		err := c.add(ctx, r, img)
		if errs.Is(err, errs.NotFound) {
			// Anybody may upload an image of a release that never was: it must not hold up the others.
			r.Warnf("image %s is not compared: %v", img.ID, err)
			continue
		}
		if err != nil {
			return job.Result{}, err
		}
	}
	r.Progress("compare", int64(len(images)), int64(len(images)), "steps")
	return job.Result{
		Value: map[string]int{"images": len(images), "advisories": len(c.known)},
		Apply: func(ctx context.Context) error { return c.write(ctx, r) },
	}, nil
}

// compared holds one new image against the repositories. A mirror that is away does not spoil the image: the next
// refresh compares it.
func (d Deps) compared(ctx context.Context, r *job.Run, img catalog.Image) *comparison {
	c := d.newComparison()
	if img.Facts == nil || img.Facts.OS.ID != "debian" {
		return c
	}
	if err := c.add(ctx, r, img); err != nil {
		r.Warnf("what is published against the image is not known yet: %v", err)
	}
	return c
}

func (h *advisoryHandler) inspected(ctx context.Context) ([]catalog.Image, error) {
	var all []catalog.Image
	q := listing.All().Where("state", string(catalog.Inspected))
	for img, err := range listing.Rows(ctx, q, h.Store.ListImages, func(i catalog.Image) string { return i.ID }) {
		if err != nil {
			return nil, err
		}
		if img.Facts != nil && img.Facts.OS.ID == "debian" {
			all = append(all, img)
		}
	}
	return all, nil
}

// add compares one image.
func (c *comparison) add(ctx context.Context, r *job.Run, img catalog.Image) error {
	f := img.Facts
	key := f.OS.Codename + "/" + f.Architecture
	if !plainName.MatchString(f.OS.Codename) || !plainName.MatchString(f.Architecture) {
		return errs.New(errs.NotFound, "kiln.advisory.release_unknown", "there is no release %q for the architecture %q", f.OS.Codename, f.Architecture)
	}
	if _, read := c.indexes[key]; !read && c.missing[key] == nil {
		indexes, err := c.read(ctx, r, f)
		if errs.Is(err, errs.NotFound) {
			c.missing[key] = err
		} else if err != nil {
			return err
		}
		c.indexes[key] = indexes
	}
	if err := c.missing[key]; err != nil {
		return err
	}
	c.compare(img, c.indexes[key])
	return nil
}

func (c *comparison) read(ctx context.Context, r *job.Run, f *catalog.Facts) ([]*deb.Index, error) {
	var out []*deb.Index
	for _, s := range c.Suites.For(f.OS.Codename) {
		r.Progress("read "+s.Suite, 0, 0, "steps")
		ix, err := c.Indexes.Fetch(ctx, deb.Suite{Mirror: s.Mirror, Suite: s.Suite, Components: s.Components, Arch: f.Architecture})
		if err != nil {
			return nil, err
		}
		r.Logf("%s of %s has %d packages", s.Suite, ix.Date.UTC().Format("2006-01-02 15:04 MST"), ix.Len())
		out = append(out, ix)
	}
	return out, nil
}

func (c *comparison) compare(img catalog.Image, indexes []*deb.Index) {
	installed := make([]deb.Package, len(img.Facts.Packages))
	for i, p := range img.Facts.Packages {
		installed[i] = deb.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, Status: "install ok installed"}
	}
	out := finding{image: img}
	for _, u := range deb.Pending(installed, indexes) {
		a := advisory.Advisory{
			ID: strings.Join([]string{u.Suite, u.Package, u.To, u.Architecture}, "/"), Package: u.Package, Source: u.Source,
			Version: u.To, Suite: u.Suite, Security: strings.HasSuffix(u.Suite, "-security"), CVEs: []string{}, CreatedAt: c.Now(), UpdatedAt: c.Now(),
		}
		c.known[a.ID] = a
		out.pending = append(out.pending, advisory.Pending{
			ImageID: img.ID, AdvisoryID: a.ID, Package: u.Package, Installed: u.From, Fixed: u.To, Suite: u.Suite, Security: a.Security,
		})
	}
	out.image.PendingUpdates, out.image.UpdatedAt = len(out.pending), c.Now()
	c.findings = append(c.findings, out)
}

// write keeps what was found; it runs in the transaction that ends the job.
func (c *comparison) write(ctx context.Context, r *job.Run) error {
	all := make([]advisory.Advisory, 0, len(c.known))
	for _, a := range c.known {
		all = append(all, a)
	}
	if err := c.Store.PutAdvisories(ctx, all); err != nil {
		return err
	}
	for _, f := range c.findings {
		if err := c.Store.ReplacePending(ctx, f.image.ID, f.pending); err != nil {
			return err
		}
		if err := c.Store.PutImage(ctx, f.image); err != nil {
			return err
		}
		if err := c.Store.Record(ctx, event.Event{
			Type: "image.compared", Resource: "images/" + f.image.ID, ProjectID: f.image.ProjectID, RequestID: r.Job.RequestID,
		}); err != nil {
			return err
		}
	}
	return nil
}
