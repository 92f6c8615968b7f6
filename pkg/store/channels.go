package store

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var moveTable = tableOf[catalog.ChannelMove](spec{
	name: "channel_moves", resource: "channel_move",
	filters: []string{"id", "family_id", "channel", "kind", "version"},
	sorts:   []string{"seq", "at"},
	order:   []listing.Key{{Field: "seq", Desc: true}},
})

// LockFamily implements catalog.Store. The same value again takes the row's lock like a new one.
func (db *DB) LockFamily(ctx context.Context, id string) error {
	_, err := db.exec(ctx, "family", id, "UPDATE `families` SET `updated_at` = `updated_at` WHERE `id` = ?", id)
	return err
}

// UpdateFamily implements catalog.Store.
func (db *DB) UpdateFamily(ctx context.Context, f catalog.Family) error {
	return familyTable.update(ctx, db, f, "project_id", "name")
}

// UpdateVersion implements catalog.Store.
func (db *DB) UpdateVersion(ctx context.Context, v catalog.Version, from catalog.VersionState) error {
	n, err := db.exec(ctx, "version", v.ID,
		"UPDATE `versions` SET `state` = ?, `pinned` = ?, `note` = ?, `revoked_with` = ? WHERE `id` = ? AND `state` = ?",
		string(v.State), v.Pinned, valid(v.Note), v.RevokedWith, v.ID, string(from))
	if err != nil || n > 0 {
		return err
	}
	have, err := versionTable.byID(ctx, db, v.ID)
	if err != nil {
		return err
	}
	if have.State == from && v.State == from {
		return nil // the same values again change no row in MariaDB
	}
	return errs.New(errs.Conflict, "kiln.version.state", "version %s is %s, not %s", have.Name, have.State, from)
}

// SetChannel implements catalog.Store; errs.NotFound where the family or the version does not exist.
func (db *DB) SetChannel(ctx context.Context, familyID, channel, version string) error {
	_, err := db.MoveChannel(ctx, catalog.ChannelMove{FamilyID: familyID, Channel: channel, Version: version, Kind: catalog.MovePublish})
	return err
}

// MoveChannel implements catalog.Store; errs.NotFound where the family or the version does not exist.
func (db *DB) MoveChannel(ctx context.Context, m catalog.ChannelMove) (catalog.ChannelMove, error) {
	asked := m
	err := db.InTx(ctx, func(ctx context.Context) error {
		m = asked // the transaction may run more than once
		n, err := db.exec(ctx, "family", m.FamilyID, "UPDATE `families` SET `updated_at` = ? WHERE `id` = ?", stamp(db.now()), m.FamilyID)
		if err != nil {
			return err
		}
		if n == 0 {
			if _, err := db.FamilyByID(ctx, m.FamilyID); err != nil {
				return err
			}
		}
		if m.Version != "" {
			if _, err := db.FindVersion(ctx, m.FamilyID, m.Version); err != nil {
				return err
			}
		}
		if err := db.before(ctx, &m); err != nil || m.Before == m.Version {
			return err
		}
		if err := db.point(ctx, m); err != nil {
			return err
		}
		return moveTable.insert(ctx, db, "", m)
	})
	return m, err
}

// before fills what a move must know of where the channel points and of its history.
func (db *DB) before(ctx context.Context, m *catalog.ChannelMove) error {
	now := ""
	err := db.each(ctx, "family", m.FamilyID, func(r *sqlx.Rows) error { return r.Scan(&now) },
		"SELECT `version` FROM `channels` WHERE `family_id` = ? AND `name` = ?", m.FamilyID, m.Channel)
	if err != nil {
		return err
	}
	if m.Before != "" && m.Before != now {
		return errs.New(errs.Conflict, "kiln.channel.moved", "channel %s was moved from %s to %s in the meantime", m.Channel, m.Before, now)
	}
	m.Before = now
	if m.ID == "" {
		m.ID = db.cfg.NewID()
	}
	if m.At.IsZero() {
		m.At = db.now().UTC()
	}
	return db.each(ctx, "family", m.FamilyID, func(r *sqlx.Rows) error { return r.Scan(&m.Seq) },
		"SELECT COALESCE(MAX(`seq`), 0) + 1 FROM `channel_moves` WHERE `family_id` = ? AND `channel` = ?", m.FamilyID, m.Channel)
}

func (db *DB) point(ctx context.Context, m catalog.ChannelMove) error {
	if m.Version == "" {
		_, err := db.exec(ctx, "family", m.FamilyID, "DELETE FROM `channels` WHERE `family_id` = ? AND `name` = ?", m.FamilyID, m.Channel)
		return err
	}
	_, err := db.exec(ctx, "family", m.FamilyID, "INSERT INTO `channels` (`family_id`, `name`, `version`, `updated_at`) VALUES (?, ?, ?, ?)"+
		db.d.upsert("family_id,name")+"`version` = "+db.d.given("version")+", `updated_at` = "+db.d.given("updated_at"),
		m.FamilyID, m.Channel, m.Version, stamp(db.now()))
	return err
}

// ListChannelMoves implements catalog.Store.
func (db *DB) ListChannelMoves(ctx context.Context, q listing.Query) ([]catalog.ChannelMove, error) {
	return moveTable.list(ctx, db, q)
}
