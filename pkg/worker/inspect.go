package worker

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
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

func (h *inspectHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	g, err := h.Glance.Image(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	path, err := h.images.get(ctx, r, g)
	if err != nil {
		return job.Result{}, err
	}
	facts, err := h.Inspect(ctx, path, g.DiskFormat)
	if err != nil && !errs.Is(err, errs.Invalid) {
		return job.Result{}, err
	}
	row := imageRow(g, g.Owner, facts, h.Now())
	if err != nil {
		// A disk that cannot be read is a finding about the image, not a fault of the job.
		row.State, row.Reason = catalog.Unreadable, err.Error()
		r.Warnf("unreadable: %v", err)
	} else {
		r.Logf("%s, %d packages, kernels %v", facts.OS.PrettyName, len(facts.Packages), facts.Kernels)
	}
	compared := h.compared(ctx, r, row)
	return job.Result{
		Value: map[string]any{"state": row.State},
		Apply: func(ctx context.Context) error {
			if err := h.Store.PutImage(ctx, row); err != nil {
				return err
			}
			if err := compared.write(ctx, r); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "image." + string(row.State), Resource: "images/" + g.ID, ProjectID: g.Owner, RequestID: r.Job.RequestID})
		},
	}, nil
}
