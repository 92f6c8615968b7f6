package build

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Reading is what a source holds at one commit.
type Reading struct {
	Commit  string
	Recipes []Recipe // by path, the faulty ones with their problems
}

// ReadRecipes makes the rows of a source's recipes.
func ReadRecipes(src Source, commit string, set *recipe.Set, now time.Time, newID func() string) (Reading, error) {
	out := Reading{Commit: commit}
	row := func(name, path string) Recipe {
		return Recipe{
			ID: newID(), ProjectID: src.ProjectID, SourceID: src.ID, Name: name, Path: path,
			Commit: commit, Problems: []Problem{}, UpdatedAt: now,
		}
	}
	for name, rec := range set.Recipes {
		resolved, err := set.Resolve(name)
		if err != nil {
			return out, err
		}
		r := row(name, rec.Path)
		r.Spec = rec
		if r.Digest, err = set.Digest(resolved); err != nil {
			return out, err
		}
		out.Recipes = append(out.Recipes, r)
	}
	for path, faults := range set.Faults {
		r := row(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), path)
		for _, e := range faults {
			r.Problems = append(r.Problems, Problem{Code: e.Code, Detail: e.Detail, Where: e.Where})
		}
		out.Recipes = append(out.Recipes, r)
	}
	slices.SortFunc(out.Recipes, func(a, b Recipe) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// Outcome is what a new commit means for one recipe.
type Outcome struct {
	Recipe  Recipe
	Changed bool
	Build   *Build // nil where none is to be made
	Why     string // in words, where there is none
}

// Found makes a reading the state of its source; a job of the same transaction wrote nothing else of it. reason is
// why changed recipes are built, "" builds none; Recipe.Triggers.NoPush is kept. The first recipes that a pulled
// source ever had are built by those who ask for them: nobody changed them.
func (s *Service) Found(ctx context.Context, by job.By, sourceID string, r Reading, reason string) ([]Outcome, error) {
	var out []Outcome
	err := s.changeSource(ctx, sourceID, func(ctx context.Context, src *Source) error {
		before, err := s.digests(ctx, sourceID)
		if err != nil {
			return err
		}
		if err := s.Store.ReplaceRecipes(ctx, sourceID, r.Recipes); err != nil {
			return err
		}
		if src.SyncedAt == nil && !src.Hosted {
			reason = ""
		}
		now := s.Now().UTC()
		src.State, src.Error, src.Commit, src.SyncedAt = SourceReady, "", r.Commit, &now
		out, err = s.buildChanged(ctx, by, *src, before, reason)
		return err
	})
	return out, err
}

// digests are those of the valid recipes of a source, by name.
func (s *Service) digests(ctx context.Context, sourceID string) (map[string]string, error) {
	out := map[string]string{}
	q := listing.All().Where("source_id", sourceID)
	for r, err := range listing.Rows(ctx, q, s.Store.ListRecipes, func(r Recipe) string { return r.ID }) {
		if err != nil {
			return nil, err
		}
		if len(r.Problems) == 0 {
			out[r.Name] = r.Digest
		}
	}
	return out, nil
}

func (s *Service) buildChanged(ctx context.Context, by job.By, src Source, before map[string]string, reason string) ([]Outcome, error) {
	var all []Recipe
	q := listing.All().Where("source_id", src.ID)
	for r, err := range listing.Rows(ctx, q, s.Store.ListRecipes, func(r Recipe) string { return r.ID }) {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b Recipe) int { return cmp.Compare(rank(a), rank(b)) })
	out := make([]Outcome, 0, len(all))
	for _, r := range all {
		o := Outcome{Recipe: r, Changed: r.Digest != before[r.Name]}
		switch {
		case len(r.Problems) > 0:
			o.Why = fmt.Sprintf("it has %d faults", len(r.Problems))
		case !o.Changed:
			o.Why = "it did not change"
		case reason == "":
			o.Why = "nobody asked for it"
		case r.Spec.Triggers.NoPush:
			o.Why = "triggers.no_push says so"
		default:
			if err := s.buildFor(ctx, by, r, reason, &o); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// rank puts what stands on a release first: a family that another recipe of the push stands on is built before it.
func rank(r Recipe) int {
	if r.Spec == nil || r.Spec.From.Family == "" {
		return 0
	}
	return 1
}

// buildFor asks for the build. What forbids it now, for example a base that was revoked, is no fault of the push.
func (s *Service) buildFor(ctx context.Context, by job.By, r Recipe, reason string, o *Outcome) error {
	b, err := s.Triggered(ctx, by, r.ID, ByPush, reason)
	if errs.Is(err, errs.Conflict) {
		o.Why = err.Error()
		return nil
	}
	o.Build = &b
	return err
}
