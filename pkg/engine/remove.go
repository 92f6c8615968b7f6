package engine

import (
	"context"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// removeTime bounds how long a manager may take to delete.
const removeTime = 3 * time.Minute

// removeHandler deletes a workload. The ledger is freed only when Placement has freed it.
type removeHandler struct{ *Engine }

func (h *removeHandler) Kind() job.Kind { return job.Remove }

func (h *removeHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	w, err := h.Store.FindWorkload(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	// What the placing is just creating could not be found yet: it ends first.
	if err := h.placingEnded(ctx, r, w); err != nil {
		return job.Result{}, err
	}
	m := h.manager(w.Kind)
	id := w.ExternalID
	if id == "" {
		inst, err := m.find(ctx, w)
		if err != nil {
			return job.Result{}, err
		}
		if inst != nil {
			id = inst.id
		}
	}
	if id != "" {
		if err := h.destroy(ctx, m, w, id); err != nil {
			return job.Result{}, err
		}
		r.Logf("%s is deleted", id)
	}
	return job.Result{Apply: func(ctx context.Context) error { return h.gone(ctx, w, "workload.deleted", r.Job.RequestID) }}, nil
}

// placingEnded waits until no job places the workload; the service asked such a job to stop.
func (h *removeHandler) placingEnded(ctx context.Context, r *job.Run, w placement.Workload) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	tick := time.NewTicker(h.PollEvery)
	defer tick.Stop()
	for {
		jobs, err := h.Store.ListJobs(ctx, listing.All().Where("resource", "workloads/"+w.ID).Where("kind", string(job.Place)))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(jobs, func(j job.Job) bool { return !j.State.Final() }) {
			return nil
		}
		r.Progress("waiting for the placing to stop", 0, 0, "steps")
		select {
		case <-ctx.Done():
			return errs.New(errs.Timeout, "kiln.workload.still_placed", "the job that places %s did not stop within %s", w.ID, removeTime)
		case <-tick.C:
		}
	}
}

// gone frees the ledger and ends the workload; it runs in a transaction.
func (e *Engine) gone(ctx context.Context, w placement.Workload, eventType, requestID string) error {
	if err := e.Store.Release(ctx, w.ID); err != nil {
		return err
	}
	from := w.State
	w.State, w.UpdatedAt = placement.Deleted, e.Now()
	if err := e.Store.UpdateWorkload(ctx, w, from); err != nil {
		return err
	}
	return e.Store.Record(ctx, event.Event{Type: eventType, Resource: "workloads/" + w.ID, ProjectID: w.ProjectID, RequestID: requestID})
}

// destroy deletes the instance and waits until the manager does not know it and Placement holds nothing for it.
func (e *Engine) destroy(ctx context.Context, m manager, w placement.Workload, id string) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	if err := m.remove(ctx, w, id); err != nil {
		return err
	}
	tick := time.NewTicker(e.PollEvery)
	defer tick.Stop()
	orphanFor := 0
	for {
		_, err := m.get(ctx, w, id)
		if err != nil && !errs.Is(err, errs.NotFound) && !errs.Retryable(err) {
			return err
		}
		if errs.Is(err, errs.NotFound) {
			held, err := e.Providers.Allocation(ctx, id)
			if err == nil && len(held) == 0 {
				return nil
			}
			// Zun leaves the allocation of a container whose host it lost: nobody else frees it.
			if err == nil {
				orphanFor++
			}
			if orphanFor > 10 {
				return e.Providers.DeleteAllocation(ctx, id)
			}
		}
		select {
		case <-ctx.Done():
			if outer.Err() != nil {
				return outer.Err()
			}
			return errs.New(errs.Timeout, "kiln.workload.not_deleted", "%s was not gone within %s", id, removeTime)
		case <-tick.C:
		}
	}
}

// Failed keeps the reason on the workload; what runs of it still runs, and may be deleted again.
func (h *removeHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	w, err := h.Store.FindWorkload(ctx, j.ResourceID())
	if err != nil {
		return err
	}
	if w.State != placement.Deleting {
		return nil
	}
	w.State, w.Error, w.UpdatedAt = placement.Errored, f.Detail, h.Now()
	return h.Store.UpdateWorkload(ctx, w, placement.Deleting)
}
