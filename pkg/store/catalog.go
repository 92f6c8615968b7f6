package store

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var _ catalog.Store = (*DB)(nil)

var familyTable = tableOf[catalog.Family](spec{
	name: "families", resource: "family",
	skip:    []string{"channels"},
	filters: []string{"id", "name"},
	sorts:   []string{"name", "created_at", "updated_at"},
	order:   byName(),
})

var versionTable = tableOf[catalog.Version](spec{
	name: "versions", resource: "version",
	filters: []string{"id", "family_id", "family", "name", "image_id", "parent_version", "origin", "origin_id", "input_digest", "state"},
	sorts:   []string{"created_at", "name", "family", "state"},
	order:   newestFirst,
})

func imageSpec() spec {
	return spec{
		name: "images", resource: "image",
		filters: []string{"id", "name", "state", "digest", "visibility", "status"},
		sorts:   []string{"created_at", "updated_at", "name", "state", "size", "pending_updates", "running", "rank"},
		order:   newestFirst,
	}
}

var imageTable = tableOf[catalog.Image](imageSpec())

// presentTable is the images that Glance has.
var presentTable = func() table[catalog.Image] {
	s := imageSpec()
	s.from = "(SELECT * FROM `images` WHERE `state` <> 'deleted') AS `images`"
	return tableOf[catalog.Image](s)
}()

var imageHeadTable = func() table[catalog.Image] {
	s := imageSpec()
	s.skip = []string{"facts"}
	return tableOf[catalog.Image](s)
}()

// EnsureFamily implements catalog.Store.
func (db *DB) EnsureFamily(ctx context.Context, projectID string, name catalog.FamilyName) (catalog.Family, error) {
	f, err := db.FindFamily(ctx, projectID, name)
	if !errs.Is(err, errs.NotFound) {
		return f, err
	}
	err = familyTable.insert(ctx, db, db.d.keep("id"), catalog.Family{ID: db.cfg.NewID(), ProjectID: projectID, Name: name})
	if err != nil {
		return catalog.Family{}, err
	}
	return db.FindFamily(ctx, projectID, name)
}

// CreateFamily implements catalog.Store. Its channels are not written: SetChannel needs their versions first.
func (db *DB) CreateFamily(ctx context.Context, f catalog.Family) error {
	return familyTable.insert(ctx, db, "", f)
}

// FindFamily implements catalog.Store.
func (db *DB) FindFamily(ctx context.Context, projectID string, name catalog.FamilyName) (catalog.Family, error) {
	f, err := familyTable.find(ctx, db, string(name), map[string]string{"project_id": projectID, "name": string(name)})
	if err != nil {
		return f, err
	}
	return f, db.fillChannels(ctx, []*catalog.Family{&f})
}

// FamilyByID implements catalog.Store.
func (db *DB) FamilyByID(ctx context.Context, id string) (catalog.Family, error) {
	f, err := familyTable.byID(ctx, db, id)
	if err != nil {
		return f, err
	}
	return f, db.fillChannels(ctx, []*catalog.Family{&f})
}

// ListFamilies implements catalog.Store.
func (db *DB) ListFamilies(ctx context.Context, q listing.Query) ([]catalog.Family, error) {
	fs, err := familyTable.list(ctx, db, q)
	if err != nil {
		return nil, err
	}
	ptrs := make([]*catalog.Family, len(fs))
	for i := range fs {
		ptrs[i] = &fs[i]
	}
	return fs, db.fillChannels(ctx, ptrs)
}

func (db *DB) fillChannels(ctx context.Context, fs []*catalog.Family) error {
	if len(fs) == 0 {
		return nil
	}
	byID, args := map[string]*catalog.Family{}, make([]any, len(fs))
	for i, f := range fs {
		f.Channels = map[string]string{}
		byID[f.ID], args[i] = f, f.ID
	}
	return db.each(ctx, "family", "", func(r *sqlx.Rows) error {
		var id, channel, version string
		if err := r.Scan(&id, &channel, &version); err != nil {
			return err
		}
		byID[id].Channels[channel] = version
		return nil
	}, "SELECT `family_id`, `name`, `version` FROM `channels` WHERE `family_id` IN ("+marks(len(args))+")", args...)
}

// NameVersion implements catalog.Store; errs.NotFound where the family does not exist.
func (db *DB) NameVersion(ctx context.Context, familyID, originID string, day time.Time) (name string, err error) {
	err = db.InTx(ctx, func(ctx context.Context) error {
		var id string
		found, err := db.one(ctx, "family", familyID, []any{&id}, "SELECT `id` FROM `families` WHERE `id` = ?"+db.d.forUpdate, familyID)
		if err != nil {
			return err
		}
		if !found {
			return notFound("family", familyID)
		}
		if found, err = db.one(ctx, "version", originID, []any{&name},
			"SELECT `name` FROM `version_names` WHERE `family_id` = ? AND `origin_id` = ?", familyID, originID); err != nil || found {
			return err
		}
		var taken []string
		err = db.each(ctx, "version", "", func(r *sqlx.Rows) error {
			var n string
			err := r.Scan(&n)
			taken = append(taken, n)
			return err
		}, "SELECT `name` FROM `version_names` WHERE `family_id` = ? UNION SELECT `name` FROM `versions` WHERE `family_id` = ?", familyID, familyID)
		if err != nil {
			return err
		}
		name = laterName(day, taken)
		_, err = db.exec(ctx, "version", originID, "INSERT INTO `version_names` (`family_id`, `name`, `origin_id`) VALUES (?, ?, ?)", familyID, name, originID)
		return err
	})
	return name, err
}

// laterName is the next name of the day, or of the latest day that has one where the clock went back.
func laterName(day time.Time, taken []string) string {
	name := catalog.NextVersionName(day, taken)
	for _, other := range taken {
		if catalog.CompareVersions(other, name) <= 0 {
			continue
		}
		if latest, err := time.Parse("20060102", other[:min(8, len(other))]); err == nil {
			name = catalog.NextVersionName(latest, taken)
		}
	}
	return name
}

// AddVersion implements catalog.Store.
func (db *DB) AddVersion(ctx context.Context, v catalog.Version) error {
	return versionTable.insert(ctx, db, "", v)
}

// FindVersion implements catalog.Store.
func (db *DB) FindVersion(ctx context.Context, familyID, name string) (catalog.Version, error) {
	return versionTable.find(ctx, db, name, map[string]string{"family_id": familyID, "name": name})
}

// VersionByImage implements catalog.Store.
func (db *DB) VersionByImage(ctx context.Context, imageID string) (catalog.Version, error) {
	return versionTable.find(ctx, db, "of image "+imageID, map[string]string{"image_id": imageID})
}

// ListVersions implements catalog.Store.
func (db *DB) ListVersions(ctx context.Context, q listing.Query) ([]catalog.Version, error) {
	return versionTable.list(ctx, db, q)
}

// SetVersionState implements catalog.Store.
func (db *DB) SetVersionState(ctx context.Context, id string, from, to catalog.VersionState) error {
	n, err := db.exec(ctx, "version", id, "UPDATE `versions` SET `state` = ? WHERE `id` = ? AND `state` = ?", string(to), id, string(from))
	if err != nil || n > 0 {
		return err
	}
	v, err := versionTable.byID(ctx, db, id)
	if err != nil {
		return err
	}
	return errs.New(errs.Conflict, "kiln.version.state", "version %s is %s, not %s", v.Name, v.State, from)
}

// SetVersionNote implements catalog.Store.
func (db *DB) SetVersionNote(ctx context.Context, id string, pinned bool, note string) error {
	n, err := db.exec(ctx, "version", id, "UPDATE `versions` SET `pinned` = ?, `note` = ? WHERE `id` = ?", pinned, valid(note), id)
	if err == nil && n == 0 {
		_, err = versionTable.byID(ctx, db, id) // the same values again change no row in MariaDB
	}
	return err
}

// PutImage implements catalog.Store. The table of installed packages follows the facts.
func (db *DB) PutImage(ctx context.Context, i catalog.Image) error {
	tail := imageTable.replaceTail(db, comparedColumns...)
	return db.InTx(ctx, func(ctx context.Context) error {
		if err := imageTable.insert(ctx, db, tail, i); err != nil {
			return err
		}
		return db.putPackages(ctx, i)
	})
}

// FindImage implements catalog.Store.
func (db *DB) FindImage(ctx context.Context, id string) (catalog.Image, error) {
	return imageTable.byID(ctx, db, id)
}

// ListImages implements catalog.Store.
func (db *DB) ListImages(ctx context.Context, q listing.Query) ([]catalog.Image, error) {
	if _, asked := q.Filter["state"]; asked {
		return imageTable.list(ctx, db, q)
	}
	return presentTable.list(ctx, db, q)
}

// BuryImage implements catalog.Store.
func (db *DB) BuryImage(ctx context.Context, id string, at time.Time) (buried bool, err error) {
	err = db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "image", id, "UPDATE `images` SET `state` = 'deleted', `status` = 'deleted', `pending_updates` = 0, `updated_at` = ? WHERE `id` = ? AND `state` <> 'deleted'", stamp(at), id)
		if buried = n > 0; err != nil || !buried {
			return err
		}
		return db.dropPackages(ctx, id)
	})
	return buried, err
}

// ListImageHeads implements catalog.Store.
func (db *DB) ListImageHeads(ctx context.Context, q listing.Query) ([]catalog.Image, error) {
	return imageHeadTable.list(ctx, db, q)
}

// PutImageHead implements catalog.Store.
func (db *DB) PutImageHead(ctx context.Context, i catalog.Image) error {
	i.Facts = nil
	tail := imageTable.replaceTail(db, append([]string{"facts", "facts_version", "digest", "size"}, comparedColumns...)...)
	return db.InTx(ctx, func(ctx context.Context) error {
		if err := imageTable.insert(ctx, db, tail, i); err != nil || i.State != catalog.Gone {
			return err
		}
		return db.dropPackages(ctx, i.ID)
	})
}
