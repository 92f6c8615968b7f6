package build

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// The states of a source.
const (
	SourceNew     = "new"
	SourceSyncing = "syncing"
	SourceReady   = "ready"
	SourceFailed  = "failed"
)

// JobPayload is the input of a job.Build.
type JobPayload struct {
	BuildID string `json:"build_id"`
}

// SyncPayload is the input of a job.SyncSource.
type SyncPayload struct {
	SourceID string `json:"source_id"`
	// Why the source is read, where nobody asked for it: "announced by github". Recipes that changed are built then.
	Why string `json:"why,omitempty"`
}

// Service keeps sources and starts builds.
type Service struct {
	job.Desk
	Store Store
	// AllowLocal lets sources be file:// URLs: for one machine that is its user's own, never for a shared cloud.
	AllowLocal bool
}

// DeleteSource removes the source with its recipes and stops its job; builds stay.
func (s *Service) DeleteSource(ctx context.Context, by job.By, id string) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		src, err := s.Store.FindSource(ctx, id)
		if err != nil {
			return err
		}
		if _, err := s.Stop(ctx, src.JobID); err != nil {
			return err
		}
		if err := s.Store.DeleteSource(ctx, id); err != nil {
			return err
		}
		return s.Tell(ctx, by, "source.deleted", "sources/"+id, src.ProjectID, src)
	})
}

// RecipeByName finds a recipe by the names of its source and itself. errs.Invalid names the field that fits nothing.
func (s *Service) RecipeByName(ctx context.Context, projectID, source, name string) (Recipe, error) {
	q := listing.Query{ProjectID: projectID, Limit: 1}
	sources, err := s.Store.ListSources(ctx, q.Where("name", source))
	if err != nil {
		return Recipe{}, err
	}
	if len(sources) == 0 {
		return Recipe{}, errs.New(errs.Invalid, "kiln.source.not_found", "there is no source %q in your project", source).At(errs.Where{Field: "source"})
	}
	recipes, err := s.Store.ListRecipes(ctx, q.Where("source_id", sources[0].ID).Where("name", name))
	if err != nil {
		return Recipe{}, err
	}
	if len(recipes) == 0 {
		return Recipe{}, errs.New(errs.Invalid, "kiln.recipe.not_found", "there is no recipe %q in source %q; sync the source if it is new", name, source).
			At(errs.Where{Field: "recipe"})
	}
	return recipes[0], nil
}

// RequestBuild starts a build of a recipe in the recipe's project because a person asked for it; force builds even
// where nothing changed. A recipe with problems is refused with all of them (recipe.ParseErrors). errs.Conflict while
// a build of the recipe is open.
func (s *Service) RequestBuild(ctx context.Context, by job.By, recipeID string, force bool) (Build, error) {
	var b Build
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		r, err := s.lockedRecipe(ctx, recipeID)
		if err != nil {
			return err
		}
		open, err := s.openBuild(ctx, r.ID)
		if err != nil {
			return err
		}
		if open != nil {
			return errs.New(errs.Conflict, "kiln.build.open", "build %s of this recipe is %s: wait for it, or cancel job %s", open.ID, open.State, open.JobID)
		}
		b, err = s.start(ctx, by, r, Build{Trigger: ByPerson, Reason: "asked for by a person", UserID: by.UserID, Force: force})
		return err
	})
	return b, err
}

// problems gives the faults of a recipe as they were found when its source was read.
func problems(r Recipe) error {
	if len(r.Problems) == 0 && r.Spec != nil {
		return nil
	}
	if len(r.Problems) == 0 {
		return errs.New(errs.Invalid, "kiln.recipe.unread", "recipe %q was not read yet: sync its source", r.Name).At(errs.Where{File: r.Path})
	}
	out := make(recipe.ParseErrors, len(r.Problems))
	for i, p := range r.Problems {
		out[i] = errs.New(errs.Invalid, p.Code, "%s", p.Detail).At(p.Where)
	}
	return out
}

// BuildCancelled writes the end of a build whose job was cancelled before it ran.
func (s *Service) BuildCancelled(ctx context.Context, by job.By, j job.Job) error {
	var p JobPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	b, err := s.Store.FindBuild(ctx, p.BuildID)
	if err != nil {
		return err
	}
	b.State, b.Error, b.UpdatedAt = Cancelled, "cancelled on request before it started", s.Now().UTC()
	if err := s.Store.UpdateBuild(ctx, b); err != nil {
		return err
	}
	if err := s.Tell(ctx, by, "build.cancelled", "builds/"+b.ID, b.ProjectID, b); err != nil {
		return err
	}
	return s.Ended(ctx, b.RecipeID)
}

// SyncCancelled writes the end of a sync whose job was cancelled before it ran.
func (s *Service) SyncCancelled(ctx context.Context, by job.By, j job.Job) error {
	var p SyncPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	src, err := s.Store.FindSource(ctx, p.SourceID)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	src.State, src.Error, src.UpdatedAt = SourceNew, "", s.Now().UTC()
	if src.SyncedAt != nil {
		src.State = SourceReady
	}
	if err := s.Store.UpdateSource(ctx, src); err != nil {
		return err
	}
	return s.Tell(ctx, by, "source.sync_cancelled", "sources/"+src.ID, src.ProjectID, src)
}
