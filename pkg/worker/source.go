package worker

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
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
	src, err := h.Store.FindSource(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	r.Progress("fetch", 0, 0, "steps")
	var rows []build.Recipe
	err = h.work(func(dir string) error {
		co, err := h.Fetch(ctx, src.URL, src.Ref, filepath.Join(dir, "git"))
		if err != nil {
			return err
		}
		defer co.Close() //nolint:errcheck // only read; the folder is removed
		src.Commit = co.Commit
		set, err := recipe.Load(co.Files)
		if err != nil {
			return err
		}
		rows, err = h.rows(src, set)
		return err
	})
	if err != nil {
		return job.Result{}, err
	}
	now := h.Now()
	src.State, src.Error, src.SyncedAt, src.UpdatedAt = build.SourceReady, "", &now, now
	faulty := 0
	for _, row := range rows {
		for _, p := range row.Problems {
			r.Warnf("%s: %s", p.Where, p.Detail)
		}
		if len(row.Problems) > 0 {
			faulty++
		}
	}
	r.Logf("commit %s has %d recipes, %d of them faulty", src.Commit, len(rows), faulty)
	return job.Result{
		Value: map[string]any{"commit": src.Commit, "recipes": len(rows), "faulty": faulty},
		Apply: func(ctx context.Context) error {
			if err := h.Store.ReplaceRecipes(ctx, src.ID, rows); err != nil {
				return err
			}
			if err := h.Store.UpdateSource(ctx, src); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "source.synced", Resource: "sources/" + src.ID, ProjectID: src.ProjectID, RequestID: r.Job.RequestID})
		},
	}, nil
}

// Failed keeps the reason on the source; the recipes of the last good commit stay.
func (h *syncHandler) Failed(ctx context.Context, j job.Job, s job.State, f *job.Failure) error {
	src, err := h.Store.FindSource(ctx, j.ResourceID())
	if err != nil {
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

func (h *syncHandler) rows(src build.Source, set *recipe.Set) ([]build.Recipe, error) {
	var rows []build.Recipe
	row := func(name, path string) build.Recipe {
		return build.Recipe{
			ID: uuid.NewString(), ProjectID: src.ProjectID, SourceID: src.ID, Name: name, Path: path,
			Commit: src.Commit, Problems: []build.Problem{}, UpdatedAt: h.Now(),
		}
	}
	for name, rec := range set.Recipes {
		resolved, err := set.Resolve(name)
		if err != nil {
			return nil, err
		}
		r := row(name, rec.Path)
		r.Spec = rec
		if r.Digest, err = set.Digest(resolved); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	for path, faults := range set.Faults {
		r := row(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), path)
		for _, e := range faults {
			r.Problems = append(r.Problems, build.Problem{Code: e.Code, Detail: e.Detail, Where: e.Where})
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b build.Recipe) int { return strings.Compare(a.Path, b.Path) })
	return rows, nil
}

// resolve checks the repository out again at the commit and lays the recipe over what it stands on.
func (d Deps) resolve(ctx context.Context, src build.Source, commit, name, dir string) (*recipe.Recipe, string, Checkout, error) {
	co, err := d.Fetch(ctx, src.URL, src.Ref, dir)
	if err != nil {
		return nil, "", Checkout{}, err
	}
	fail := func(err error) (*recipe.Recipe, string, Checkout, error) {
		return nil, "", Checkout{}, errors.Join(err, co.Close())
	}
	set, err := recipe.Load(co.Files)
	if err != nil {
		return fail(err)
	}
	for path, faults := range set.Faults {
		if strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) == name && set.Recipes[name] == nil {
			return fail(recipe.FirstOf(faults))
		}
	}
	rec, err := set.Resolve(name)
	if err != nil {
		return fail(err)
	}
	digest, err := set.Digest(rec)
	if err != nil {
		return fail(err)
	}
	if commit != "" && commit != co.Commit {
		d.Log.WithField("asked", commit).WithField("built", co.Commit).Info("the source moved on since the build was asked for; the newest commit is built")
	}
	return rec, digest, co, nil
}
