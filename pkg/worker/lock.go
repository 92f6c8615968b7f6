package worker

import (
	"context"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Locker is a builder that can pin packages: it finds those that the image would get today. Of req it reads Recipe,
// WorkDir and Log.
type Locker interface {
	Lock(ctx context.Context, req build.Request) (*deb.Lock, error)
}

// lockHandler makes the lock of a recipe. Its text is the job's result: a person puts it beside the recipe.
type lockHandler struct{ Deps }

func (h *lockHandler) Kind() job.Kind { return job.Lock }

func (h *lockHandler) Run(ctx context.Context, r *job.Run) (res job.Result, err error) {
	row, err := h.Store.FindRecipe(ctx, r.Job.ResourceID())
	if err != nil {
		return res, err
	}
	src, err := h.Store.FindSource(ctx, row.SourceID)
	if err != nil {
		return res, err
	}
	r.Progress("fetch", 0, 0, "steps")
	err = h.work(func(dir string) error {
		found, err := h.resolve(ctx, src, row.Commit, row.Name, filepath.Join(dir, "git"))
		if err != nil {
			return err
		}
		rec, co := found.recipe, found.checkout
		defer co.Close() //nolint:errcheck // only read; the folder is removed
		locker, err := h.locker(rec)
		if err != nil {
			return err
		}
		r.Progress("solve", 0, 0, "steps")
		lock, err := locker.Lock(ctx, build.Request{Recipe: rec, WorkDir: dir, Log: r})
		if err != nil {
			return err
		}
		text, err := lock.Text()
		if err != nil {
			return err
		}
		var bytes int64
		for _, p := range lock.Packages {
			bytes += p.Size
		}
		r.Logf("%d packages of %s, %d MiB, as of %s", len(lock.Packages), lock.Release, bytes>>20, lock.Time.Format("2006-01-02 15:04"))
		res.Value = map[string]any{"path": recipe.LockPath(row.Path), "lock": text, "digest": lock.Digest(), "packages": len(lock.Packages), "commit": co.Commit}
		return nil
	})
	return res, err
}

func (h *lockHandler) locker(rec *recipe.Recipe) (Locker, error) {
	b, err := h.builder(rec)
	if err != nil {
		return nil, err
	}
	locker, ok := b.(Locker)
	if !ok {
		return nil, errs.New(errs.Invalid, "kiln.lock.builder", "the builder %s takes packages by its own rules: only the builder native can lock them", b.Name()).
			At(errs.Where{File: rec.Path, Field: "builder.name"})
	}
	return locker, nil
}
