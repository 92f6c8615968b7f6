package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// packPart is the most bytes of a pack in one row: well below MariaDB's max_allowed_packet, whose default is 16 MiB.
const packPart = 1 << 20

// readTries bounds how often a repository is read again because a push changed it meanwhile.
const readTries = 5

// FindRepository implements build.Repositories. It takes no lock: what a push changed meanwhile is read again.
func (db *DB) FindRepository(ctx context.Context, sourceID string, packs bool) (build.Repository, error) {
	for range readTries {
		r, err := db.readRepository(ctx, sourceID, packs)
		if err != nil {
			return build.Repository{}, err
		}
		now, err := db.repositoryVersion(ctx, sourceID)
		if err != nil {
			return build.Repository{}, err
		}
		if now == r.Version {
			return r, nil
		}
	}
	return build.Repository{}, errs.New(errs.Unavailable, codeBusy, "the repository of source %s changes all the time: try again", sourceID).After(time.Second)
}

func (db *DB) repositoryVersion(ctx context.Context, sourceID string) (int64, error) {
	var version int64
	found, err := db.one(ctx, "source", sourceID, []any{&version}, "SELECT `pushes` FROM `sources` WHERE `id` = ?", sourceID)
	if err == nil && !found {
		err = notFound("source", sourceID)
	}
	return version, err
}

func (db *DB) readRepository(ctx context.Context, sourceID string, packs bool) (r build.Repository, err error) {
	if r.Version, err = db.repositoryVersion(ctx, sourceID); err != nil {
		return r, err
	}
	r.Refs = []build.Ref{}
	err = db.each(ctx, "source", sourceID, func(rows *sqlx.Rows) error {
		var ref build.Ref
		err := rows.Scan(&ref.Name, &ref.Hash)
		r.Refs = append(r.Refs, ref)
		return err
	}, "SELECT `name`, `hash` FROM `git_refs` WHERE `source_id` = ? ORDER BY `name`", sourceID)
	if err != nil {
		return r, err
	}
	if r.Bytes, err = db.countOf(ctx, "source", "SELECT COALESCE(SUM(`size`), 0) FROM `git_packs` WHERE `source_id` = ?", sourceID); err != nil || !packs {
		return r, err
	}
	r.Packs, err = db.packs(ctx, sourceID)
	return r, err
}

func (db *DB) packs(ctx context.Context, sourceID string) ([]build.Pack, error) {
	var out []build.Pack
	err := db.each(ctx, "source", sourceID, func(rows *sqlx.Rows) error {
		var p build.Pack
		if err := rows.Scan(&p.Seq, &p.SHA256, &p.Data); err != nil {
			return err
		}
		if n := len(out); n > 0 && out[n-1].Seq == p.Seq {
			out[n-1].Data = append(out[n-1].Data, p.Data...)
			return nil
		}
		out = append(out, p)
		return nil
	}, "SELECT `seq`, `sha256`, `body` FROM `git_packs` WHERE `source_id` = ? ORDER BY `seq`, `part`", sourceID)
	if err != nil {
		return nil, err
	}
	for _, p := range out {
		if digestOf(p.Data) != p.SHA256 {
			return nil, errs.New(errs.Internal, "kiln.store.internal", "pack %d of source %s is not what was written", p.Seq, sourceID)
		}
	}
	return out, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// ChangeRepository implements build.Repositories. The guarded update comes first: it locks the source for all that
// follows, also between the nodes of a Galera cluster.
func (db *DB) ChangeRepository(ctx context.Context, sourceID string, version int64, c build.RepositoryChange) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "source", sourceID, "UPDATE `sources` SET `pushes` = `pushes` + 1 WHERE `id` = ? AND `pushes` = ?", sourceID, version)
		if err != nil {
			return err
		}
		if n == 0 {
			if _, err := db.repositoryVersion(ctx, sourceID); err != nil {
				return err
			}
			return build.ErrMoved
		}
		for _, m := range c.Moves {
			if err := db.moveRef(ctx, sourceID, m); err != nil {
				return err
			}
		}
		if c.Whole {
			if _, err := db.exec(ctx, "source", sourceID, "DELETE FROM `git_packs` WHERE `source_id` = ?", sourceID); err != nil {
				return err
			}
		}
		return db.addPack(ctx, sourceID, version+1, c.Pack)
	})
}

func (db *DB) moveRef(ctx context.Context, sourceID string, m build.RefMove) error {
	var n int64
	var err error
	switch {
	case m.Old == "" && m.New == "":
		return nil
	case m.Old == "":
		n, err = db.exec(ctx, "ref", m.Name, "INSERT INTO `git_refs` (`source_id`, `name`, `hash`) VALUES (?, ?, ?)", sourceID, m.Name, m.New)
	case m.New == "":
		n, err = db.exec(ctx, "ref", m.Name, "DELETE FROM `git_refs` WHERE `source_id` = ? AND `name` = ? AND `hash` = ?", sourceID, m.Name, m.Old)
	default:
		n, err = db.exec(ctx, "ref", m.Name, "UPDATE `git_refs` SET `hash` = ? WHERE `source_id` = ? AND `name` = ? AND `hash` = ?", m.New, sourceID, m.Name, m.Old)
	}
	if errs.Is(err, errs.Conflict) || err == nil && n == 0 {
		return errs.New(errs.Conflict, "kiln.source.ref_moved", "%s is not where you saw it: fetch, and push again", m.Name)
	}
	return err
}

// addPack writes a pack under the version that it came with.
func (db *DB) addPack(ctx context.Context, sourceID string, seq int64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	digest, part := digestOf(data), 0
	for chunk := range slices.Chunk(data, packPart) {
		_, err := db.exec(ctx, "source", sourceID, "INSERT INTO `git_packs` (`source_id`, `seq`, `part`, `sha256`, `size`, `body`) VALUES (?, ?, ?, ?, ?, ?)",
			sourceID, seq, part, digest, len(chunk), chunk)
		if err != nil {
			return err
		}
		part++
	}
	return nil
}

// LockSource implements build.Store by a write, as lockNode does.
func (db *DB) LockSource(ctx context.Context, id string) error {
	n, err := db.exec(ctx, "source", id, "UPDATE `sources` SET `locks` = `locks` + 1 WHERE `id` = ?", id)
	if err == nil && n == 0 {
		err = notFound("source", id)
	}
	return err
}

// DueSources implements build.Store.
func (db *DB) DueSources(ctx context.Context, now time.Time, limit int) ([]build.Source, error) {
	return sourceTable.query(ctx, db, " WHERE `next_sync` IS NOT NULL AND `next_sync` <= ? ORDER BY `next_sync` LIMIT ?", stamp(now), limit)
}

// TakeSync implements build.Store.
func (db *DB) TakeSync(ctx context.Context, id string, was, next time.Time) (bool, error) {
	n, err := db.exec(ctx, "source", id, "UPDATE `sources` SET `next_sync` = ? WHERE `id` = ? AND `next_sync` = ?", stamp(next), id, stamp(was))
	return n > 0, err
}

// NoteDelivery implements build.Store. The digest of the id is kept: senders choose it, and its length.
func (db *DB) NoteDelivery(ctx context.Context, sourceID, delivery string, now time.Time) (bool, error) {
	_, err := db.exec(ctx, "delivery", sourceID, "INSERT INTO `webhook_deliveries` (`source_id`, `delivery`, `created_at`) VALUES (?, ?, ?)",
		sourceID, digestOf([]byte(delivery)), stamp(now))
	if errs.Is(err, errs.Conflict) {
		return false, nil
	}
	return err == nil, err
}

// ForgetDeliveries implements build.Store.
func (db *DB) ForgetDeliveries(ctx context.Context, before time.Time) error {
	_, err := db.exec(ctx, "delivery", "", "DELETE FROM `webhook_deliveries` WHERE `created_at` < ?", stamp(before))
	return err
}
