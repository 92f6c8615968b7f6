package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Fix is a published fix that an image lacks.
type Fix struct {
	AdvisoryID string
	Package    string
	Urgency    string // of Debian's changelogs
}

// Fixes tells what images lack.
type Fixes interface {
	// UrgentFixes are those of one of the urgencies that the image lacks.
	UrgentFixes(ctx context.Context, imageID string, urgencies []string) ([]Fix, error)
}

// Watch asks for the builds that time, bases and fixes call for. Any number of engines may run it: what each round
// decides is decided under the recipe's lock, and its mark is written with the build, so each thing fires once and a
// crash forgets nothing.
type Watch struct {
	*Service
	Catalog catalog.Store
	Fixes   Fixes
	Log     logrus.FieldLogger
}

// retryAfter is how long after a trigger whose build failed the same trigger may fire again.
const retryAfter = time.Hour

// atOnce bounds one round's follow-ups.
const atOnce = 1000

// Round looks at every recipe once. A recipe that fails does not hold up the others.
func (w *Watch) Round(ctx context.Context) error {
	all := w.follow(ctx)
	for r, err := range listing.Rows(ctx, listing.All(), w.Store.ListRecipes, func(r Recipe) string { return r.ID }) {
		if err != nil {
			return errors.Join(all, err)
		}
		if r.Spec == nil || len(r.Problems) > 0 {
			continue
		}
		for _, look := range []func(context.Context, Recipe) error{w.schedule, w.base, w.advisories} {
			if err := look(ctx, r); err != nil && !errs.Is(err, errs.NotFound) { // it may be gone by now
				all = errors.Join(all, fmt.Errorf("triggers of recipe %s of project %s: %w", r.Name, r.ProjectID, err))
			}
		}
	}
	return all
}

// follow makes the builds that were to follow one that has ended, where nobody did at its end.
func (w *Watch) follow(ctx context.Context) error {
	waiting, err := w.Store.ListAgain(ctx, atOnce)
	for _, a := range waiting {
		err = errors.Join(err, w.Ended(ctx, a.RecipeID))
	}
	return err
}

// decision is what a look at a recipe came to: why it is built, and what remembers that it was asked for.
type decision struct {
	reason string // "" for not now
	marks  []Mark
	drop   bool // the kind's other marks go
}

// fire decides twice: first without a lock, because mostly there is nothing to do, then with the recipe held.
func (w *Watch) fire(ctx context.Context, r Recipe, t Trigger, decide func(ctx context.Context, r Recipe) (decision, error)) error {
	d, err := decide(ctx, r)
	if err != nil || len(d.marks) == 0 {
		return err
	}
	return w.Tx.InTx(ctx, func(ctx context.Context) error {
		r, err := w.lockedRecipe(ctx, r.ID)
		if err != nil {
			return err
		}
		d, err := decide(ctx, r)
		if err != nil {
			return err
		}
		for _, m := range d.marks {
			if err := w.Store.NoteMark(ctx, r.ID, m); err != nil {
				return err
			}
			if d.drop {
				if err := w.Store.ForgetMarks(ctx, r.ID, t, m.Key); err != nil {
					return err
				}
			}
		}
		if d.reason == "" {
			return nil
		}
		b, err := w.Triggered(ctx, job.By{ProjectID: r.ProjectID, RequestID: "req-" + w.NewID()}, r.ID, t, d.reason)
		if err == nil {
			w.Log.WithFields(logrus.Fields{"recipe": r.Name, "build": b.ID, "project_id": r.ProjectID}).Info("build triggered: " + d.reason)
		}
		return err
	})
}

// schedule fires where a moment of the schedule has passed since it fired last; several that passed while no engine
// ran are one. A schedule that was not seen before counts from now.
func (w *Watch) schedule(ctx context.Context, r Recipe) error {
	if r.Spec.Triggers.Schedule == "" {
		return nil
	}
	return w.fire(ctx, r, BySchedule, func(ctx context.Context, r Recipe) (d decision, err error) {
		text := r.Spec.Triggers.Schedule
		if text == "" {
			return d, nil
		}
		cron, err := r.Spec.Triggers.Cron()
		if err != nil {
			return d, errs.Wrap(err, errs.Invalid, "kiln.recipe.value", "the schedule cannot be read")
		}
		marks, err := w.Store.ListMarks(ctx, r.ID, BySchedule)
		if err != nil {
			return d, err
		}
		now := w.Now().UTC()
		mark := Mark{Kind: BySchedule, Key: text, FiredAt: now}
		i := slices.IndexFunc(marks, func(m Mark) bool { return m.Key == text })
		switch {
		case i < 0:
			return decision{marks: []Mark{mark}, drop: true}, nil
		case cron.Next(marks[i].FiredAt.UTC()).After(now):
			return d, nil
		}
		return decision{reason: fmt.Sprintf("schedule %q", text), marks: []Mark{mark}, drop: true}, nil
	})
}

// base fires where the channel that the recipe stands on points to another version than the recipe's newest version
// was built from. A recipe that has no version yet is built by those who push it, and here where that failed or is not wanted.
func (w *Watch) base(ctx context.Context, r Recipe) error {
	if !r.Spec.Triggers.Base {
		return nil
	}
	return w.fire(ctx, r, ByBase, func(ctx context.Context, r Recipe) (d decision, err error) {
		whole, err := w.resolved(ctx, r)
		if err != nil || !r.Spec.Triggers.Base || whole.From.Family == "" {
			return d, err
		}
		on, _, err := catalog.Resolve(ctx, w.Catalog, r.ProjectID, whole.From.Family, whole.From.Channel)
		if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Conflict) { // no version yet, or one that nothing may be built from
			return d, nil
		}
		if err != nil {
			return d, err
		}
		newest, err := w.newest(ctx, r, func(v catalog.Version) bool { return v.Origin == "build" })
		name := on.Label()
		if err != nil || newest != nil && (newest.Base == "" || newest.Base == name) {
			return d, err
		}
		if newest == nil && !r.Spec.Triggers.NoPush { // its first build may have failed because the base was not there yet
			if failed, err := w.lastFailed(ctx, r.ID); err != nil || !failed {
				return d, err
			}
		}
		fresh, err := w.unmarked(ctx, r, ByBase, name)
		if err != nil || len(fresh) == 0 {
			return d, err
		}
		return decision{reason: fmt.Sprintf("base %s moved to %s", on.Family, on.Name), marks: w.marks(ByBase, fresh), drop: true}, nil
	})
}

// advisories fires where the recipe's newest version lacks a published fix that is urgent enough.
func (w *Watch) advisories(ctx context.Context, r Recipe) error {
	if r.Spec.Triggers.Advisory == "" {
		return nil
	}
	return w.fire(ctx, r, ByAdvisory, func(ctx context.Context, r Recipe) (d decision, err error) {
		least := recipe.UrgencyRank(r.Spec.Triggers.Advisory)
		if least == 0 {
			return d, nil
		}
		newest, err := w.newest(ctx, r, func(catalog.Version) bool { return true })
		if err != nil || newest == nil {
			return d, err
		}
		fixes, err := w.Fixes.UrgentFixes(ctx, newest.ImageID, urgentAs(least))
		if err != nil {
			return d, err
		}
		ids := make([]string, len(fixes))
		for i, f := range fixes {
			ids[i] = f.AdvisoryID
		}
		fresh, err := w.unmarked(ctx, r, ByAdvisory, ids...)
		if err != nil || len(fresh) == 0 {
			return d, err
		}
		fixes = slices.DeleteFunc(fixes, func(f Fix) bool { return !slices.Contains(fresh, f.AdvisoryID) })
		return decision{reason: advisoryReason(fixes), marks: w.marks(ByAdvisory, fresh)}, nil
	})
}

// urgentAs are the words of changelogs that are as urgent as the rank or more.
func urgentAs(least int) []string {
	words := slices.Clone(recipe.Urgencies()[least-1:])
	return append(words, "emergency") // means the same as critical
}

// namedFixes is how many packages a reason names.
const namedFixes = 5

func advisoryReason(fixes []Fix) string {
	var names []string
	urgency := fixes[0].Urgency
	for _, f := range fixes {
		if !slices.Contains(names, f.Package) {
			names = append(names, f.Package)
		}
		if recipe.UrgencyRank(f.Urgency) > recipe.UrgencyRank(urgency) {
			urgency = f.Urgency
		}
	}
	slices.Sort(names)
	more := ""
	if len(names) > namedFixes {
		more = fmt.Sprintf(" and %d more", len(names)-namedFixes)
		names = names[:namedFixes]
	}
	return fmt.Sprintf("advisory of urgency %s for %s%s", urgency, strings.Join(names, ", "), more)
}

// newest is the youngest published version of the recipe's family that fits; nil for none.
func (w *Watch) newest(ctx context.Context, r Recipe, fits func(catalog.Version) bool) (*catalog.Version, error) {
	f, err := w.Catalog.FindFamily(ctx, r.ProjectID, r.Spec.Family)
	if err != nil {
		return nil, missing(err)
	}
	q := listing.All().Where("family_id", f.ID)
	q.Sort = []listing.Key{{Field: "created_at", Desc: true}}
	for v, err := range listing.Rows(ctx, q, w.Catalog.ListVersions, func(v catalog.Version) string { return v.ID }) {
		if err != nil {
			return nil, err
		}
		if v.State.Usable() && fits(v) {
			return &v, nil
		}
	}
	return nil, nil
}

// unmarked are the keys that did not fire yet, or whose build failed a while ago.
func (w *Watch) unmarked(ctx context.Context, r Recipe, t Trigger, keys ...string) ([]string, error) {
	marks, err := w.Store.ListMarks(ctx, r.ID, t)
	if err != nil {
		return nil, err
	}
	fired := map[string]time.Time{}
	for _, m := range marks {
		fired[m.Key] = m.FiredAt
	}
	var asked, failed bool
	var out []string
	for _, k := range keys {
		at, marked := fired[k]
		if marked && w.Now().Sub(at) >= retryAfter && !asked {
			if failed, err = w.lastFailed(ctx, r.ID); err != nil {
				return nil, err
			}
			asked = true
		}
		if !marked || w.Now().Sub(at) >= retryAfter && failed {
			out = append(out, k)
		}
	}
	return out, nil
}

// lastFailed tells whether the newest build of the recipe failed.
func (w *Watch) lastFailed(ctx context.Context, recipeID string) (bool, error) {
	q := listing.Query{Limit: 1, Sort: []listing.Key{{Field: "created_at", Desc: true}}}
	newest, err := w.Store.ListBuilds(ctx, q.Where("recipe_id", recipeID))
	return err == nil && len(newest) > 0 && newest[0].State == Failed, err
}

func (w *Watch) marks(t Trigger, keys []string) []Mark {
	out := make([]Mark, len(keys))
	for i, k := range keys {
		out[i] = Mark{Kind: t, Key: k, FiredAt: w.Now().UTC()}
	}
	return out
}
