package store

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var _ advisory.Store = (*DB)(nil)

var advisoryTable = tableOf[advisory.Advisory](spec{
	name: "advisories", resource: "advisory",
	filters: []string{"id", "package", "source", "version", "suite", "security", "urgency"},
	sorts:   []string{"created_at", "updated_at", "package", "source", "suite", "urgency"},
	order:   newestFirst,
})

var pendingTable = tableOf[advisory.Pending](spec{
	name: "pending", resource: "pending", key: "advisory_id",
	from:  "`pending` LEFT JOIN `gaps` ON `gaps`.`id` = `pending`.`gap`",
	exprs: map[string]string{"cves": "`gaps`.`cves`"},
})

// gapRow is an advisory.Gap with its CVEs by number alone: their urgencies stand in gap_cves.
type gapRow struct {
	ID      string   `json:"id"`
	Source  string   `json:"source"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	Urgency string   `json:"urgency"`
	CVEs    []string `json:"cves"`
}

var gapTable = tableOf[gapRow](spec{name: "gaps", resource: "gap"})

type gapCVE struct {
	CVE     string `json:"cve"`
	Gap     string `json:"gap"`
	Urgency string `json:"urgency"`
}

var gapCVETable = tableOf[gapCVE](spec{name: "gap_cves", resource: "gap", key: "cve"})

var changelogTable = tableOf[advisory.Changelog](spec{name: "changelogs", resource: "changelog", key: "source,version"})

// PutAdvisories implements advisory.Store.
func (db *DB) PutAdvisories(ctx context.Context, as []advisory.Advisory) error {
	if len(as) == 0 {
		return nil
	}
	tail := advisoryTable.replaceTail(db, "cves", "urgency") + ", " + strings.Join([]string{
		"`cves` = CASE WHEN COALESCE(" + db.d.given("cves") + ", '[]') = '[]' THEN `advisories`.`cves` ELSE " + db.d.given("cves") + " END",
		"`urgency` = CASE WHEN " + db.d.given("urgency") + " = '' THEN `advisories`.`urgency` ELSE " + db.d.given("urgency") + " END",
	}, ", ")
	return db.InTx(ctx, func(ctx context.Context) error {
		return advisoryTable.insert(ctx, db, tail, as...)
	})
}

// manyIDs keeps an IN list within what both databases take.
const manyIDs = 500

// KnownAdvisories implements advisory.Store.
func (db *DB) KnownAdvisories(ctx context.Context, ids []string) (map[string]advisory.Advisory, error) {
	out := make(map[string]advisory.Advisory, len(ids))
	for chunk := range slices.Chunk(ids, manyIDs) {
		rows, err := advisoryTable.query(ctx, db, " WHERE `id` IN ("+marks(len(chunk))+")", anys(chunk)...)
		if err != nil {
			return nil, err
		}
		for _, a := range rows {
			out[a.ID] = a
		}
	}
	return out, nil
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}

// FindAdvisory implements advisory.Store.
func (db *DB) FindAdvisory(ctx context.Context, id string) (advisory.Advisory, error) {
	return advisoryTable.byID(ctx, db, id)
}

// ListAdvisories implements advisory.Store.
func (db *DB) ListAdvisories(ctx context.Context, q listing.Query) ([]advisory.Advisory, error) {
	return advisoryTable.list(ctx, db, q)
}

// ReplacePending implements advisory.Store.
func (db *DB) ReplacePending(ctx context.Context, imageID string, ps []advisory.Pending) error {
	seen := map[string]bool{}
	rows := make([]advisory.Pending, 0, len(ps))
	for _, p := range ps {
		if !seen[p.AdvisoryID] {
			p.ImageID = imageID
			rows, seen[p.AdvisoryID] = append(rows, p), true
		}
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		if _, err := db.exec(ctx, "image", imageID, "DELETE FROM `pending` WHERE `image_id` = ?", imageID); err != nil {
			return err
		}
		return pendingTable.insert(ctx, db, "", rows...)
	})
}

// ListPending implements advisory.Store.
func (db *DB) ListPending(ctx context.Context, imageID string) ([]advisory.Pending, error) {
	return pendingTable.all(ctx, db, map[string]string{"image_id": imageID}, " ORDER BY `package`, `advisory_id`")
}

// PutGaps implements advisory.Store.
func (db *DB) PutGaps(ctx context.Context, gaps []advisory.Gap) error {
	for chunk := range slices.Chunk(gaps, rowsOfOneInsert) {
		err := db.InTx(ctx, func(ctx context.Context) error { return db.putGaps(ctx, chunk) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) putGaps(ctx context.Context, gaps []advisory.Gap) error {
	var rows []gapRow
	var cves []gapCVE
	ids := make([]string, 0, len(gaps))
	for _, g := range gaps {
		row := gapRow{ID: g.ID, Source: g.Source, From: g.From, To: g.To, Urgency: g.Urgency, CVEs: []string{}}
		for _, c := range g.CVEs {
			row.CVEs = append(row.CVEs, c.ID)
			cves = append(cves, gapCVE{c.ID, g.ID, c.Urgency})
		}
		rows, ids = append(rows, row), append(ids, g.ID)
	}
	if _, err := db.exec(ctx, "gap", "", "DELETE FROM `gap_cves` WHERE `gap` IN ("+marks(len(ids))+")", anys(ids)...); err != nil {
		return err
	}
	if err := gapTable.insert(ctx, db, gapTable.replaceTail(db), rows...); err != nil {
		return err
	}
	return gapCVETable.insert(ctx, db, "", cves...)
}

// DropGaps implements advisory.Store.
func (db *DB) DropGaps(ctx context.Context) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		for _, q := range []string{
			"DELETE FROM `gaps` WHERE NOT EXISTS (SELECT 1 FROM `pending` WHERE `pending`.`gap` = `gaps`.`id`)",
			"DELETE FROM `gap_cves` WHERE NOT EXISTS (SELECT 1 FROM `gaps` WHERE `gaps`.`id` = `gap_cves`.`gap`)",
		} {
			if _, err := db.exec(ctx, "gap", "", q); err != nil {
				return err
			}
		}
		return nil
	})
}

// FindChangelog implements advisory.Store.
func (db *DB) FindChangelog(ctx context.Context, source, version string) (advisory.Changelog, error) {
	return changelogTable.find(ctx, db, source+" "+version, map[string]string{"source": source, "version": version})
}

// PutChangelog implements advisory.Store.
func (db *DB) PutChangelog(ctx context.Context, c advisory.Changelog) error {
	sets := make([]string, 0, 3)
	for _, name := range []string{"changes", "problem", "read_at"} {
		sets = append(sets, quote(name)+" = "+db.d.given(name))
	}
	return changelogTable.insert(ctx, db, db.d.upsert("source,version")+strings.Join(sets, ", "), c)
}

// PutFindings implements advisory.Store. A few images are one transaction: a refresh of a whole cloud must not hold
// SQLite's one writer, or thousands of MariaDB's locks, to its end.
func (db *DB) PutFindings(ctx context.Context, fs []advisory.Finding) error {
	for chunk := range slices.Chunk(fs, 20) {
		err := db.InTx(ctx, func(ctx context.Context) error {
			for _, f := range chunk {
				if err := db.putFinding(ctx, f); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) putFinding(ctx context.Context, f advisory.Finding) error {
	if err := db.ReplacePending(ctx, f.ImageID, f.Pending); err != nil {
		return err
	}
	lacks, err := jsonArg(f.Lacks)
	if err != nil {
		return err
	}
	weight := advisory.Weight(f.Lacks)
	_, err = db.exec(ctx, "image", f.ImageID, "UPDATE `images` SET `pending_updates` = ?, `lacks` = ?, `weight` = ?, `rank` = ? * (1 + `running`), `updated_at` = ?,"+
		" `pending_since` = (SELECT MIN(`advisories`.`created_at`) FROM `pending` JOIN `advisories` ON `advisories`.`id` = `pending`.`advisory_id` WHERE `pending`.`image_id` = ?)"+
		" WHERE `id` = ?", len(f.Pending), lacks, weight, weight, stamp(f.At), f.ImageID, f.ImageID)
	if err != nil {
		return err
	}
	_, err = db.exec(ctx, "image", f.ImageID, "UPDATE `image_systems` SET `compared` = ? WHERE `image_id` = ?", f.Stamp, f.ImageID)
	return err
}

// SetRunning implements advisory.RunStore.
func (db *DB) SetRunning(ctx context.Context, byID, byName map[string]int) error {
	changed := map[string]int{}
	err := db.each(ctx, "image", "", func(r *sqlx.Rows) error {
		var id, name string
		var was int
		if err := r.Scan(&id, &name, &was); err != nil {
			return err
		}
		if n := byID[id] + byName[name]; n != was {
			changed[id] = n
		}
		return nil
	}, "SELECT `id`, `name`, `running` FROM `images`")
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(changed)), rowsOfOneInsert) {
		err := db.InTx(ctx, func(ctx context.Context) error {
			for _, id := range chunk {
				n := changed[id]
				if _, err := db.exec(ctx, "image", id, "UPDATE `images` SET `running` = ?, `rank` = `weight` * (1 + ?) WHERE `id` = ?", n, n, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
