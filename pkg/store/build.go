package store

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

var (
	_ build.Store   = (*DB)(nil)
	_ upgrade.Store = (*DB)(nil)
)

var sourceTable = tableOf[build.Source](spec{
	name: "sources", resource: "source",
	filters: []string{"id", "name", "url", "hosted", "ref", "state", "commit", "job_id"},
	sorts:   []string{"name", "created_at", "updated_at", "state"},
	order:   byName(),
})

var recipeTable = tableOf[build.Recipe](spec{
	name: "recipes", resource: "recipe",
	filters: []string{"id", "source_id", "name", "path", "commit", "digest"},
	sorts:   []string{"name", "path", "updated_at"},
	order:   byName(),
})

var buildTable = tableOf[build.Build](spec{
	name: "builds", resource: "build",
	filters: []string{"id", "source_id", "recipe_id", "recipe", "commit", "family", "state", "job_id", "version", "image_id", "input_digest", "force",
		"trigger", "user_id", "builder", "worker"},
	sorts: []string{"created_at", "updated_at", "recipe", "family", "state", "version"},
	order: newestFirst,
})

var upgradeTable = tableOf[upgrade.Upgrade](spec{
	name: "upgrades", resource: "upgrade",
	filters: []string{"id", "family", "from_version", "from_image_id", "to_version", "to_image_id", "state", "job_id", "campaign_id"},
	sorts:   []string{"created_at", "updated_at", "family", "state", "from_version", "to_version"},
	order:   newestFirst,
})

// CreateSource implements build.Store.
func (db *DB) CreateSource(ctx context.Context, s build.Source) error {
	return sourceTable.insert(ctx, db, "", s)
}

// UpdateSource implements build.Store.
func (db *DB) UpdateSource(ctx context.Context, s build.Source) error {
	return sourceTable.update(ctx, db, s)
}

// FindSource implements build.Store.
func (db *DB) FindSource(ctx context.Context, id string) (build.Source, error) {
	return sourceTable.byID(ctx, db, id)
}

// ListSources implements build.Store.
func (db *DB) ListSources(ctx context.Context, q listing.Query) ([]build.Source, error) {
	return sourceTable.list(ctx, db, q)
}

// DeleteSource implements build.Store.
func (db *DB) DeleteSource(ctx context.Context, id string) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		// The source first: ReplaceRecipes locks it too, so no recipe is written behind this back.
		found, err := sourceTable.delete(ctx, db, id)
		if err != nil {
			return err
		}
		if !found {
			return notFound("source", id)
		}
		if _, err := db.exec(ctx, "source", id, "DELETE FROM `trigger_marks` WHERE `recipe_id` IN (SELECT `id` FROM `recipes` WHERE `source_id` = ?)", id); err != nil {
			return err
		}
		for _, table := range []string{"recipes", "git_refs", "git_packs", "webhook_deliveries"} {
			if _, err := db.exec(ctx, "source", id, "DELETE FROM "+quote(table)+" WHERE `source_id` = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// ReplaceRecipes implements build.Store; errs.NotFound where the source was deleted.
func (db *DB) ReplaceRecipes(ctx context.Context, sourceID string, rs []build.Recipe) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		var id string
		found, err := db.one(ctx, "source", sourceID, []any{&id}, "SELECT `id` FROM `sources` WHERE `id` = ?"+db.d.forUpdate, sourceID)
		if err != nil {
			return err
		}
		if !found {
			return notFound("source", sourceID)
		}
		old, err := db.recipeIDs(ctx, sourceID)
		if err != nil {
			return err
		}
		for _, r := range rs {
			r.SourceID = sourceID
			if known, ok := old[r.Path]; ok {
				r.ID = known
				err = recipeTable.update(ctx, db, r)
			} else {
				err = recipeTable.insert(ctx, db, "", r)
			}
			if err != nil {
				return err
			}
			delete(old, r.Path)
		}
		for _, id := range old {
			if _, err := recipeTable.delete(ctx, db, id); err != nil {
				return err
			}
			if _, err := db.exec(ctx, "recipe", id, "DELETE FROM `trigger_marks` WHERE `recipe_id` = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) recipeIDs(ctx context.Context, sourceID string) (map[string]string, error) {
	ids := map[string]string{}
	err := db.each(ctx, "recipe", "", func(r *sqlx.Rows) error {
		var id, path string
		err := r.Scan(&id, &path)
		ids[path] = id
		return err
	}, "SELECT `id`, `path` FROM `recipes` WHERE `source_id` = ?", sourceID)
	return ids, err
}

// FindRecipe implements build.Store.
func (db *DB) FindRecipe(ctx context.Context, id string) (build.Recipe, error) {
	return recipeTable.byID(ctx, db, id)
}

// ListRecipes implements build.Store.
func (db *DB) ListRecipes(ctx context.Context, q listing.Query) ([]build.Recipe, error) {
	return recipeTable.list(ctx, db, q)
}

// CreateBuild implements build.Store.
func (db *DB) CreateBuild(ctx context.Context, b build.Build) error {
	return buildTable.insert(ctx, db, "", b)
}

// UpdateBuild implements build.Store.
func (db *DB) UpdateBuild(ctx context.Context, b build.Build) error {
	return buildTable.update(ctx, db, b, "trigger", "reason") // JoinBuild may add to the reason meanwhile
}

// FindBuild implements build.Store.
func (db *DB) FindBuild(ctx context.Context, id string) (build.Build, error) {
	return buildTable.byID(ctx, db, id)
}

// ListBuilds implements build.Store.
func (db *DB) ListBuilds(ctx context.Context, q listing.Query) ([]build.Build, error) {
	return buildTable.list(ctx, db, q)
}

// CreateUpgrade implements upgrade.Store; the index upgrades_open refuses a second open one of a version.
func (db *DB) CreateUpgrade(ctx context.Context, u upgrade.Upgrade) error {
	err := upgradeTable.insert(ctx, db, "", u)
	if errs.Is(err, errs.Conflict) && !ended(u.State) {
		return errs.Wrap(err, errs.Conflict, upgrade.CodeOpen, "an upgrade of version %s is open", u.FromVersion)
	}
	return err
}

func ended(s upgrade.State) bool { return s != upgrade.Queued && s != upgrade.Running }

// UpdateUpgrade implements upgrade.Store.
func (db *DB) UpdateUpgrade(ctx context.Context, u upgrade.Upgrade) error {
	return upgradeTable.update(ctx, db, u)
}

// FindUpgrade implements upgrade.Store.
func (db *DB) FindUpgrade(ctx context.Context, id string) (upgrade.Upgrade, error) {
	return upgradeTable.byID(ctx, db, id)
}

// ListUpgrades implements upgrade.Store.
func (db *DB) ListUpgrades(ctx context.Context, q listing.Query) ([]upgrade.Upgrade, error) {
	return upgradeTable.list(ctx, db, q)
}
