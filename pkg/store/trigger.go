package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/build"
)

var (
	_ build.TriggerStore = (*DB)(nil)
	_ build.Fixes        = (*DB)(nil)
)

// LockRecipe implements build.TriggerStore by a write, as LockSource does.
func (db *DB) LockRecipe(ctx context.Context, id string) error {
	n, err := db.exec(ctx, "recipe", id, "UPDATE `recipes` SET `locks` = `locks` + 1 WHERE `id` = ?", id)
	if err == nil && n == 0 {
		err = notFound("recipe", id)
	}
	return err
}

// BeginBuild implements build.TriggerStore: the write comes before the read, so that nothing joins in between.
func (db *DB) BeginBuild(ctx context.Context, id, worker string, now time.Time) (b build.Build, err error) {
	err = db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "build", id, "UPDATE `builds` SET `state` = ?, `worker` = ?, `error` = '', `updated_at` = ? WHERE `id` = ?",
			string(build.Running), worker, stamp(now), id)
		if err == nil && n == 0 {
			err = notFound("build", id)
		}
		if err != nil {
			return err
		}
		b, err = buildTable.byID(ctx, db, id)
		return err
	})
	return b, err
}

// JoinBuild implements build.TriggerStore.
func (db *DB) JoinBuild(ctx context.Context, b build.Build) (joined bool, err error) {
	needs, err := jsonArg(b.Needs)
	if err != nil {
		return false, db.fail(ctx, err, "build", b.ID)
	}
	err = db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "build", b.ID, "UPDATE `builds` SET `commit` = ?, `family` = ?, `reason` = ?, `builder` = ?, `needs` = ?, `updated_at` = ?"+
			" WHERE `id` = ? AND `state` = ?", b.Commit, string(b.Family), b.Reason, b.Builder, needs, stamp(b.UpdatedAt), b.ID, string(build.Queued))
		joined = n > 0
		if err != nil || !joined {
			return err
		}
		_, err = db.exec(ctx, "job", b.JobID, "UPDATE `jobs` SET `needs` = ? WHERE `id` = ? AND `state` = 'pending'", needs, b.JobID)
		return err
	})
	return joined && err == nil, err
}

// SetAgain implements build.TriggerStore.
func (db *DB) SetAgain(ctx context.Context, a build.Again) error {
	text, err := jsonArg(a)
	if err != nil {
		return db.fail(ctx, err, "recipe", a.RecipeID)
	}
	n, err := db.exec(ctx, "recipe", a.RecipeID, "UPDATE `recipes` SET `again` = ? WHERE `id` = ?", text, a.RecipeID)
	if err == nil && n == 0 {
		err = notFound("recipe", a.RecipeID)
	}
	return err
}

// ClearAgain implements build.TriggerStore.
func (db *DB) ClearAgain(ctx context.Context, recipeID string) error {
	_, err := db.exec(ctx, "recipe", recipeID, "UPDATE `recipes` SET `again` = NULL WHERE `id` = ?", recipeID)
	return err
}

// FindAgain implements build.TriggerStore.
func (db *DB) FindAgain(ctx context.Context, recipeID string) (*build.Again, error) {
	found, err := db.agains(ctx, "`id` = ? AND `again` IS NOT NULL", recipeID)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// ListAgain implements build.TriggerStore.
func (db *DB) ListAgain(ctx context.Context, limit int) ([]build.Again, error) {
	return db.agains(ctx, "`again` IS NOT NULL ORDER BY `id` LIMIT ?", limit)
}

func (db *DB) agains(ctx context.Context, where string, arg any) ([]build.Again, error) {
	var out []build.Again
	err := db.each(ctx, "recipe", "", func(r *sqlx.Rows) error {
		var id, text string
		if err := r.Scan(&id, &text); err != nil {
			return err
		}
		a := build.Again{}
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return err
		}
		a.RecipeID = id
		out = append(out, a)
		return nil
	}, "SELECT `id`, `again` FROM `recipes` WHERE "+where, arg)
	return out, err
}

// NoteMark implements build.TriggerStore.
func (db *DB) NoteMark(ctx context.Context, recipeID string, m build.Mark) error {
	_, err := db.exec(ctx, "recipe", recipeID, "INSERT INTO `trigger_marks` (`recipe_id`, `kind`, `key`, `fired_at`) VALUES (?, ?, ?, ?)"+
		db.d.upsert("recipe_id,kind,key")+"`fired_at` = "+db.d.given("fired_at"), recipeID, string(m.Kind), m.Key, stamp(m.FiredAt))
	return err
}

// ListMarks implements build.TriggerStore.
func (db *DB) ListMarks(ctx context.Context, recipeID string, kind build.Trigger) ([]build.Mark, error) {
	var out []build.Mark
	err := db.each(ctx, "recipe", recipeID, func(r *sqlx.Rows) error {
		m := build.Mark{Kind: kind}
		var fired string
		if err := r.Scan(&m.Key, &fired); err != nil {
			return err
		}
		var err error
		m.FiredAt, err = parseTime(fired)
		out = append(out, m)
		return err
	}, "SELECT `key`, `fired_at` FROM `trigger_marks` WHERE `recipe_id` = ? AND `kind` = ? ORDER BY `key`", recipeID, string(kind))
	return out, err
}

// ForgetMarks implements build.TriggerStore.
func (db *DB) ForgetMarks(ctx context.Context, recipeID string, kind build.Trigger, but string) error {
	_, err := db.exec(ctx, "recipe", recipeID, "DELETE FROM `trigger_marks` WHERE `recipe_id` = ? AND `kind` = ? AND `key` <> ?", recipeID, string(kind), but)
	return err
}

// UrgentFixes implements build.Fixes.
func (db *DB) UrgentFixes(ctx context.Context, imageID string, urgencies []string) ([]build.Fix, error) {
	if len(urgencies) == 0 {
		return nil, nil
	}
	args := []any{imageID}
	for _, u := range urgencies {
		args = append(args, u)
	}
	// What this image lacks of it, not what the oldest one does.
	const urgency = "COALESCE(NULLIF(`pending`.`urgency`, ''), `advisories`.`urgency`)"
	var out []build.Fix
	err := db.each(ctx, "advisory", "", func(r *sqlx.Rows) error {
		f := build.Fix{}
		err := r.Scan(&f.AdvisoryID, &f.Package, &f.Urgency)
		out = append(out, f)
		return err
	}, "SELECT `pending`.`advisory_id`, `pending`.`package`, "+urgency+" FROM `pending` JOIN `advisories` ON `advisories`.`id` = `pending`.`advisory_id`"+
		" WHERE `pending`.`image_id` = ? AND "+urgency+" IN ("+marks(len(urgencies))+") ORDER BY `pending`.`advisory_id`", args...)
	return out, err
}
