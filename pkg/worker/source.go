package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// syncHandler reads the recipes of a source at the newest commit of its ref.
type syncHandler struct{ Deps }

func (h *syncHandler) Kind() job.Kind { return job.SyncSource }

func (h *syncHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	var p build.SyncPayload
	if err := r.Job.Decode(&p); err != nil {
		return job.Result{}, err
	}
	src, err := h.Store.FindSource(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	r.Progress("fetch", 0, 0, "steps")
	var read build.Reading
	err = h.work(func(dir string) error {
		co, err := h.Fetch(ctx, src.URL, src.Ref, filepath.Join(dir, "git"))
		if err != nil {
			return err
		}
		defer co.Close() //nolint:errcheck // only read; the folder is removed
		set, err := recipe.Load(co.Files)
		if err != nil {
			return err
		}
		read, err = build.ReadRecipes(src, co.Commit, set, h.Now(), uuid.NewString)
		return err
	})
	if err != nil {
		return job.Result{}, err
	}
	faulty := 0
	for _, row := range read.Recipes {
		for _, p := range row.Problems {
			r.Warnf("%s: %s", p.Where, p.Detail)
		}
		if len(row.Problems) > 0 {
			faulty++
		}
	}
	r.Logf("commit %s has %d recipes, %d of them faulty", read.Commit, len(read.Recipes), faulty)
	return job.Result{
		Value: map[string]any{"commit": read.Commit, "recipes": len(read.Recipes), "faulty": faulty},
		Apply: func(ctx context.Context) error { return h.found(ctx, r.Job, read, p.Why) },
	}, nil
}

// found writes what was read, unless another read of the source was started meanwhile: that one saw more.
func (h *syncHandler) found(ctx context.Context, j job.Job, read build.Reading, why string) error {
	if err := h.Store.LockSource(ctx, j.ResourceID()); err != nil {
		return err
	}
	src, err := h.Store.FindSource(ctx, j.ResourceID())
	if err != nil || src.JobID != "" && src.JobID != j.ID {
		return err
	}
	reason := ""
	if why != "" {
		reason = fmt.Sprintf("commit %.7s of source %s, %s", read.Commit, src.Name, why)
	}
	by := job.By{ProjectID: src.ProjectID, UserID: j.UserID, RequestID: j.RequestID}
	if _, err := h.builds().Found(ctx, by, src.ID, read, reason); err != nil {
		return err
	}
	return h.Store.Record(ctx, event.Event{Type: "source.synced", Resource: "sources/" + src.ID, ProjectID: src.ProjectID, RequestID: j.RequestID})
}

// Failed keeps the reason on the source; the recipes of the last good commit stay.
func (h *syncHandler) Failed(ctx context.Context, j job.Job, s job.State, f *job.Failure) error {
	src, err := h.Store.FindSource(ctx, j.ResourceID())
	if err != nil || src.JobID != j.ID { // a newer read tells what is
		return err
	}
	src.State, src.Error, src.UpdatedAt = build.SourceFailed, f.Detail, h.Now()
	if s == job.Cancelled { // as a sync that was cancelled before it ran (build.Service.SyncCancelled)
		src.State, src.Error = build.SourceNew, ""
		if src.SyncedAt != nil {
			src.State = build.SourceReady
		}
	}
	return h.Store.UpdateSource(ctx, src)
}

// resolved is a recipe at one commit with all that its repository says of it.
type resolved struct {
	recipe   *recipe.Recipe // laid over what it stands on
	digest   string         // of the recipe and of every file that it names
	set      *recipe.Set    // has its lock, too
	checkout Checkout
}

// resolve checks the repository out again at the commit and lays the recipe over what it stands on. The caller closes
// the checkout.
func (d Deps) resolve(ctx context.Context, src build.Source, commit, name, dir string) (_ resolved, err error) {
	ref := src.Ref
	if src.Hosted && commit != "" {
		ref = commit // other servers may refuse to give a commit by its digits
	}
	co, err := d.Fetch(ctx, src.URL, ref, dir)
	if err != nil {
		return resolved{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, co.Close())
		}
	}()
	set, err := recipe.Load(co.Files)
	if err != nil {
		return resolved{}, err
	}
	for path, faults := range set.Faults {
		if strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) == name && set.Recipes[name] == nil {
			return resolved{}, recipe.FirstOf(faults)
		}
	}
	out := resolved{checkout: co}
	if out.recipe, err = set.Resolve(name); err != nil {
		return resolved{}, err
	}
	if out.digest, err = set.Digest(out.recipe); err != nil {
		return resolved{}, err
	}
	out.set = set
	if commit != "" && commit != co.Commit {
		d.Log.WithField("asked", commit).WithField("built", co.Commit).Info("the source moved on since the build was asked for; the newest commit is built")
	}
	return out, nil
}
