package store

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

var _ upgrade.PlanStore = (*DB)(nil)

var planTable = tableOf[upgrade.Plan](spec{
	name: "upgrade_plans", resource: "plan", key: "image_id",
	filters: []string{"image_id", "release", "architecture", "kernel", "boot_loader", "group"},
	sorts:   []string{"created_at", "release", "download_bytes", "group"},
	order:   newestFirst,
})

// PutPlan implements upgrade.PlanStore. A plan that is made again has a new time.
func (db *DB) PutPlan(ctx context.Context, p upgrade.Plan) error {
	tail := planTable.replaceTail(db) + ", " + quote("created_at") + " = " + db.d.given("created_at")
	return planTable.insert(ctx, db, tail, p)
}

// FindPlan implements upgrade.PlanStore.
func (db *DB) FindPlan(ctx context.Context, imageID string) (upgrade.Plan, error) {
	return planTable.byID(ctx, db, imageID)
}

// ListPlans implements upgrade.PlanStore.
func (db *DB) ListPlans(ctx context.Context, q listing.Query) ([]upgrade.Plan, error) {
	return planTable.list(ctx, db, q)
}
