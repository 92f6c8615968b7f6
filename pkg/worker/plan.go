package worker

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// planHandler tells what a build of a recipe would do here and now. It goes the build's own way to the point where
// something would be made.
type planHandler struct{ *buildHandler }

func (h *planHandler) Kind() job.Kind { return job.Plan }

func (h *planHandler) Run(ctx context.Context, r *job.Run) (res job.Result, err error) {
	row, err := h.Store.FindRecipe(ctx, r.Job.ResourceID())
	if err != nil {
		return res, err
	}
	src, err := h.Store.FindSource(ctx, row.SourceID)
	if err != nil {
		return res, err
	}
	err = h.work(func(dir string) error {
		in, err := h.inputs(ctx, r, src, build.Build{ProjectID: row.ProjectID, Recipe: row.Name, Commit: row.Commit}, dir)
		if err != nil {
			return err
		}
		defer in.checkout.Close() //nolint:errcheck // only read; the folder is removed
		r.Progress("plan", 0, 0, "steps")
		plan := build.Plan{Commit: in.checkout.Commit, Builder: in.builder.Name(), Worker: h.Name, InputDigest: in.input}
		req := in.request
		req.WorkDir, req.Log = dir, r
		if plan.Steps, err = in.builder.Plan(ctx, req); err != nil {
			return err
		}
		same, err := h.unchanged(ctx, in.family, in.input)
		if err != nil {
			return err
		}
		if same != nil {
			plan.Unchanged = same.Name
		}
		cached := 0
		for _, s := range plan.Steps {
			if s.Cached {
				cached++
			}
		}
		r.Logf("%d steps, %d of them cached on this worker", len(plan.Steps), cached)
		res.Value = plan
		return nil
	})
	return res, err
}

// Failed hides that of buildHandler: there is no build to write to.
func (h *planHandler) Failed(context.Context, job.Job, job.State, *job.Failure) error { return nil }
