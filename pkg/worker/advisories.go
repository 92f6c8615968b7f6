package worker

import (
	"context"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
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

func (h *advisoryHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	images, err := h.inspected(ctx)
	if err != nil {
		return job.Result{}, err
	}
	indexes := map[string][]*deb.Index{} // by release and architecture
	known := map[string]advisory.Advisory{}
	var findings []finding
	for i, img := range images {
		r.Progress("compare", int64(i), int64(len(images)), "steps")
		key := img.Facts.OS.Codename + "/" + img.Facts.Architecture
		if _, read := indexes[key]; !read {
			if indexes[key], err = h.read(ctx, r, img.Facts); err != nil {
				return job.Result{}, err
			}
		}
		findings = append(findings, h.compare(img, indexes[key], known))
	}
	return job.Result{
		Value: map[string]int{"images": len(images), "advisories": len(known)},
		Apply: func(ctx context.Context) error { return h.write(ctx, r, known, findings) },
	}, nil
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

func (h *advisoryHandler) read(ctx context.Context, r *job.Run, f *catalog.Facts) ([]*deb.Index, error) {
	var out []*deb.Index
	for _, s := range h.Suites.For(f.OS.Codename) {
		r.Progress("read "+s.Suite, 0, 0, "steps")
		ix, err := h.Indexes.Fetch(ctx, deb.Suite{Mirror: s.Mirror, Suite: s.Suite, Components: s.Components, Arch: f.Architecture})
		if err != nil {
			return nil, err
		}
		r.Logf("%s of %s has %d packages", s.Suite, ix.Date.UTC().Format("2006-01-02 15:04 MST"), ix.Len())
		out = append(out, ix)
	}
	return out, nil
}

func (h *advisoryHandler) compare(img catalog.Image, indexes []*deb.Index, known map[string]advisory.Advisory) finding {
	installed := make([]deb.Package, len(img.Facts.Packages))
	for i, p := range img.Facts.Packages {
		installed[i] = deb.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, Status: "install ok installed"}
	}
	out := finding{image: img}
	for _, u := range deb.Pending(installed, indexes) {
		a := advisory.Advisory{
			ID: strings.Join([]string{u.Suite, u.Package, u.To, u.Architecture}, "/"), Package: u.Package, Source: u.Source,
			Version: u.To, Suite: u.Suite, Security: strings.HasSuffix(u.Suite, "-security"), CVEs: []string{}, CreatedAt: h.Now(), UpdatedAt: h.Now(),
		}
		known[a.ID] = a
		out.pending = append(out.pending, advisory.Pending{
			ImageID: img.ID, AdvisoryID: a.ID, Package: u.Package, Installed: u.From, Fixed: u.To, Suite: u.Suite, Security: a.Security,
		})
	}
	out.image.PendingUpdates, out.image.UpdatedAt = len(out.pending), h.Now()
	return out
}

func (h *advisoryHandler) write(ctx context.Context, r *job.Run, known map[string]advisory.Advisory, findings []finding) error {
	all := make([]advisory.Advisory, 0, len(known))
	for _, a := range known {
		all = append(all, a)
	}
	if err := h.Store.PutAdvisories(ctx, all); err != nil {
		return err
	}
	for _, f := range findings {
		if err := h.Store.ReplacePending(ctx, f.image.ID, f.pending); err != nil {
			return err
		}
		if err := h.Store.PutImage(ctx, f.image); err != nil {
			return err
		}
		if err := h.Store.Record(ctx, event.Event{
			Type: "image.compared", Resource: "images/" + f.image.ID, ProjectID: f.image.ProjectID, RequestID: r.Job.RequestID,
		}); err != nil {
			return err
		}
	}
	return nil
}
