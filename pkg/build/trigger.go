package build

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Again says that a recipe is built once more as soon as its running build has ended.
type Again struct {
	RecipeID  string    `json:"-"`
	Trigger   Trigger   `json:"trigger"`
	Reason    string    `json:"reason"`
	UserID    string    `json:"user_id"`
	RequestID string    `json:"request_id"`
	At        time.Time `json:"at"`
}

// Mark remembers that something triggered a recipe, so that it does so once.
type Mark struct {
	Kind    Trigger
	Key     string // what it was: the moment of a schedule, a base version, an advisory's id
	FiredAt time.Time
}

// TriggerStore keeps what triggers ask for. Every method may run in the caller's transaction.
type TriggerStore interface {
	// LockRecipe holds the recipe until the transaction ends; errs.NotFound where there is none.
	LockRecipe(ctx context.Context, id string) error
	// BeginBuild marks the build as running on the worker and reads it. What joined it before is in what it gives;
	// what comes later does not join it any more.
	BeginBuild(ctx context.Context, id, worker string, now time.Time) (Build, error)
	// JoinBuild writes commit, family, reason, builder and needs of a build, and the needs of its job, if it is still
	// queued; joined is false otherwise.
	JoinBuild(ctx context.Context, b Build) (joined bool, err error)
	// SetAgain writes the mark over the recipe's earlier one.
	SetAgain(ctx context.Context, a Again) error
	// FindAgain is the recipe's mark; nil where there is none.
	FindAgain(ctx context.Context, recipeID string) (*Again, error)
	ClearAgain(ctx context.Context, recipeID string) error
	ListAgain(ctx context.Context, limit int) ([]Again, error)
	// NoteMark writes the mark, or the new time of one that is there.
	NoteMark(ctx context.Context, recipeID string, m Mark) error
	ListMarks(ctx context.Context, recipeID string, kind Trigger) ([]Mark, error)
	// ForgetMarks removes the recipe's marks of the kind but the one named.
	ForgetMarks(ctx context.Context, recipeID string, kind Trigger, but string) error
}

// Triggered asks for a build of the recipe without a person waiting for it; it joins the caller's transaction. A
// burst makes one build: one that is still queued takes the recipe's newest commit and the reason too. Behind one that
// is running exactly one more follows: the running one is returned (its State says so), and Ended makes the next.
// A recipe with problems is refused with all of them (recipe.ParseErrors).
func (s *Service) Triggered(ctx context.Context, by job.By, recipeID string, t Trigger, reason string) (Build, error) {
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
		if open == nil {
			b, err = s.start(ctx, by, r, Build{Trigger: t, Reason: reason, UserID: by.UserID})
			return err
		}
		b, err = s.join(ctx, by, r, *open, Again{RecipeID: r.ID, Trigger: t, Reason: reason, UserID: by.UserID, RequestID: by.RequestID})
		return err
	})
	return b, err
}

// join adds a trigger to an open build, or marks that another follows it.
func (s *Service) join(ctx context.Context, by job.By, r Recipe, open Build, a Again) (Build, error) {
	now := s.Now().UTC()
	if open.State == Queued {
		whole, err := s.resolved(ctx, r)
		if err != nil {
			return Build{}, err
		}
		open.Commit, open.Family, open.Reason, open.UpdatedAt = r.Commit, r.Spec.Family, joinReasons(open.Reason, a.Reason), now
		open.Builder, open.Needs = needsOf(whole)
		joined, err := s.Store.JoinBuild(ctx, open)
		if err != nil {
			return Build{}, err
		}
		if joined {
			return open, s.Tell(ctx, by, "build.joined", "builds/"+open.ID, open.ProjectID, open)
		}
		open.State = Running // a worker took it meanwhile
	}
	a.At = now
	before, err := s.Store.FindAgain(ctx, r.ID)
	if err != nil {
		return Build{}, err
	}
	if before != nil {
		a.Reason, a.Trigger, a.At = joinReasons(before.Reason, a.Reason), before.Trigger, before.At
	}
	if err := s.Store.SetAgain(ctx, a); err != nil {
		return Build{}, err
	}
	return open, s.Tell(ctx, by, "build.follows", "recipes/"+r.ID, r.ProjectID, a)
}

// Ended makes the build that was asked for while the recipe's last one ran. Call it in the transaction that ends a
// build, after its state is written; calling it again, or for a recipe that is gone, does nothing.
func (s *Service) Ended(ctx context.Context, recipeID string) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockRecipe(ctx, recipeID); err != nil {
			return missing(err)
		}
		again, err := s.Store.FindAgain(ctx, recipeID)
		if err != nil || again == nil {
			return err
		}
		open, err := s.openBuild(ctx, recipeID)
		if err != nil || open != nil && open.State == Running {
			return err
		}
		r, err := s.Store.FindRecipe(ctx, recipeID)
		if err != nil {
			return err
		}
		if err := s.Store.ClearAgain(ctx, recipeID); err != nil {
			return err
		}
		by := job.By{ProjectID: r.ProjectID, UserID: again.UserID, RequestID: again.RequestID}
		switch {
		case problems(r) != nil:
			// The newest commit cannot be built: its faults are on the recipe, and the next good commit triggers again.
			return s.Tell(ctx, by, "build.not_followed", "recipes/"+r.ID, r.ProjectID, again)
		case open != nil:
			_, err = s.join(ctx, by, r, *open, *again)
		default:
			_, err = s.start(ctx, by, r, Build{Trigger: again.Trigger, Reason: again.Reason, UserID: again.UserID})
		}
		return err
	})
}

// missing makes an errs.NotFound no error.
func missing(err error) error {
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// lockedRecipe holds a valid recipe: of many who ask for a build of it, one asks at a time.
func (s *Service) lockedRecipe(ctx context.Context, id string) (Recipe, error) {
	if err := s.Store.LockRecipe(ctx, id); err != nil {
		return Recipe{}, err
	}
	r, err := s.Store.FindRecipe(ctx, id)
	if err != nil {
		return Recipe{}, err
	}
	return r, problems(r)
}

// openBuild is the queued build of a recipe, or else the running one; nil for neither.
func (s *Service) openBuild(ctx context.Context, recipeID string) (*Build, error) {
	for _, state := range []State{Queued, Running} {
		open, err := s.Store.ListBuilds(ctx, listing.Query{Limit: 1}.Where("recipe_id", recipeID).Where("state", string(state)))
		if err != nil {
			return nil, err
		}
		if len(open) > 0 {
			return &open[0], nil
		}
	}
	return nil, nil
}

// start writes a build with its job. Of b it takes Trigger, Reason, UserID and Force.
func (s *Service) start(ctx context.Context, by job.By, r Recipe, b Build) (Build, error) {
	whole, err := s.resolved(ctx, r)
	if err != nil {
		return Build{}, err
	}
	now := s.Now().UTC()
	b.ID, b.ProjectID, b.SourceID, b.RecipeID, b.Recipe = s.NewID(), r.ProjectID, r.SourceID, r.ID, r.Name
	b.Commit, b.Family, b.State, b.JobID = r.Commit, r.Spec.Family, Queued, s.NewID()
	b.CreatedAt, b.UpdatedAt = now, now
	b.Builder, b.Needs = needsOf(whole)
	if err := s.Store.CreateBuild(ctx, b); err != nil {
		return Build{}, err
	}
	if _, err := s.Start(ctx, by, job.Draft{
		ID: b.JobID, Kind: job.Build, Queue: job.WorkerQueue, Needs: b.Needs, ProjectID: b.ProjectID,
		Resource: "builds/" + b.ID, Payload: JobPayload{BuildID: b.ID},
	}); err != nil {
		return Build{}, err
	}
	return b, s.Tell(ctx, by, "build.queued", "builds/"+b.ID, b.ProjectID, b)
}

// maxChain bounds how many recipes one may stand on, for rows that were not written by recipe.Load.
const maxChain = 64

// resolved lays a recipe over those that it stands on, as they are at the source's newest commit. Its Plan has no
// places in files.
func (s *Service) resolved(ctx context.Context, r Recipe) (*recipe.Recipe, error) {
	set := &recipe.Set{Recipes: map[string]*recipe.Recipe{r.Name: r.Spec}}
	for on := r.Spec.From.Recipe; on != "" && len(set.Recipes) < maxChain && set.Recipes[on] == nil; {
		below, err := s.Store.ListRecipes(ctx, listing.Query{Limit: 1}.Where("source_id", r.SourceID).Where("name", on))
		if err != nil {
			return nil, err
		}
		if len(below) == 0 || below[0].Spec == nil {
			break
		}
		set.Recipes[on] = below[0].Spec
		on = below[0].Spec.From.Recipe
	}
	return set.Resolve(r.Name)
}

// needsOf is what a resolved recipe asks of its worker: its needs, and the builder.
func needsOf(whole *recipe.Recipe) (builder string, needs []string) {
	builder = whole.Builder.Name
	return builder, append(slices.Clone(whole.Builder.Needs), "builder="+builder)
}

// maxReason is the longest joined reason, in bytes.
const maxReason = 1000

// joinReasons lists reasons; one that is there already is not told twice.
func joinReasons(before, more string) string {
	switch {
	case before == "":
		return more
	case slices.Contains(strings.Split(before, "; "), more):
		return before
	case len(before)+len(more)+2 > maxReason:
		return strings.TrimSuffix(before, "; …") + "; …"
	}
	return before + "; " + more
}
