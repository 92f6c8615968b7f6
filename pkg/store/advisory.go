package store

import (
	"context"
	"strings"

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
})

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
