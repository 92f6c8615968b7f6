package worker

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// inspectHandler reads the facts of a Glance image.
type inspectHandler struct {
	Deps
	images *imageCache
}

func (h *inspectHandler) Kind() job.Kind { return job.Inspect }

// Inspected is the result of a job.Inspect.
type Inspected struct {
	State     catalog.ImageState `json:"state"`
	Method    string             `json:"method"`     // cache, rbd, range, download, convert, none
	BytesRead int64              `json:"bytes_read"` // of Size
	Size      int64              `json:"size"`       // of the image, in bytes
}

func (h *inspectHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	g, err := h.Glance.Image(ctx, r.Job.ResourceID())
	if errs.Is(err, errs.NotFound) {
		return h.left(r, catalog.Gone, err.Error()), nil
	}
	if err != nil {
		return job.Result{}, err
	}
	if g.Status == "deactivated" {
		return h.left(r, catalog.Waiting, "it is deactivated in Glance"), nil
	}
	all, err := h.wantsAll(ctx, r)
	if err != nil {
		return job.Result{}, err
	}
	read := &reading{Deps: h.Deps, images: h.images, run: r, image: g, all: all}
	facts, err := read.facts(ctx)
	if err != nil || read.method == "rbd" {
		if now, gone := h.meanwhile(ctx, g); gone != "" {
			return h.left(r, gone, "it was "+now+" in Glance while it was read"), nil
		}
	}
	if err != nil && !errs.Is(err, errs.Invalid) && errs.CodeOf(err) != disk.CodeSize {
		return job.Result{}, err
	}
	return h.found(ctx, r, g, read, facts, err), nil
}

// wantsAll reports whether everything is to be found: somebody asked in person, or it was found before and is not to be
// lost.
func (h *inspectHandler) wantsAll(ctx context.Context, r *job.Run) (bool, error) {
	var p catalog.InspectPayload
	if err := r.Decode(&p); err != nil || p.All {
		return p.All, err
	}
	known, err := h.Store.FindImage(ctx, r.Job.ResourceID())
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	return known.Facts != nil && len(known.Facts.Skipped) == 0, err
}

// meanwhile asks again whether the image is there to be read. Glance removes the bytes of one that is deleted while
// others read them, and in Ceph what is not there any more reads as zeros.
func (h *inspectHandler) meanwhile(ctx context.Context, g catalog.GlanceImage) (status string, gone catalog.ImageState) {
	now, askErr := h.Glance.Image(ctx, g.ID)
	switch {
	case errs.Is(askErr, errs.NotFound):
		return "deleted", catalog.Gone
	case askErr == nil && now.Status == "deactivated":
		return now.Status, catalog.Waiting
	}
	return "", ""
}

// left ends the job of an image that cannot be read now, without a fault: the image was deleted, or somebody barred it.
// What was known of it stays.
func (h *inspectHandler) left(r *job.Run, state catalog.ImageState, why string) job.Result {
	id := r.Job.ResourceID()
	r.Warnf("the image is not read: %s", why)
	return job.Result{
		Value: Inspected{State: state, Method: "none"},
		Apply: func(ctx context.Context) error {
			if state == catalog.Gone {
				return h.bury(ctx, r, id)
			}
			i, err := h.Store.FindImage(ctx, id)
			if errs.Is(err, errs.NotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			if i.State = state; i.Facts != nil {
				i.State = catalog.Inspected
			}
			i.UpdatedAt = h.Now().UTC()
			return h.Store.PutImageHead(ctx, i)
		},
	}
}

func (h *inspectHandler) bury(ctx context.Context, r *job.Run, id string) error {
	buried, err := h.Store.BuryImage(ctx, id, h.Now())
	if err != nil || !buried {
		return err
	}
	return h.Store.Record(ctx, event.Event{Type: "image." + string(catalog.Gone), Resource: "images/" + id, ProjectID: r.Job.ProjectID, RequestID: r.Job.RequestID})
}

// found is the result of reading an image. A disk that cannot be read is a finding about the image, not a fault of the
// job.
func (h *inspectHandler) found(ctx context.Context, r *job.Run, g catalog.GlanceImage, read *reading, facts *catalog.Facts, err error) job.Result {
	row := imageRow(g, g.Owner, facts, h.Now())
	if err != nil {
		row.State, row.Reason = catalog.Unreadable, err.Error()
		r.Warnf("unreadable: %v", err)
	} else {
		r.Logf("%s, %d packages, kernels %v", facts.OS.PrettyName, len(facts.Packages), facts.Kernels)
	}
	r.Logf("%s: %d of %d bytes were read", read.method, read.bytes, g.Size)
	compared := h.compared(ctx, r, row)
	return job.Result{
		Value: Inspected{State: row.State, Method: read.method, BytesRead: read.bytes, Size: g.Size},
		Apply: func(ctx context.Context) error {
			if err := h.Store.PutImage(ctx, row); err != nil {
				return err
			}
			if err := compared.write(ctx, r); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "image." + string(row.State), Resource: "images/" + g.ID, ProjectID: g.Owner, RequestID: r.Job.RequestID})
		},
	}
}
