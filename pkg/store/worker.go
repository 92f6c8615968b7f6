package store

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var _ build.Workers = (*DB)(nil)

var workerTable = tableOf[build.Worker](spec{
	name: "workers", resource: "worker", key: "name",
	filters: []string{"name", "host", "arch"},
	sorts:   []string{"name", "host", "free_disk", "seen_at"},
	order:   byName(),
})

// PutWorker implements build.Workers.
func (db *DB) PutWorker(ctx context.Context, w build.Worker) error {
	return workerTable.insert(ctx, db, workerTable.replaceTail(db), w)
}

// FindWorker implements build.Workers.
func (db *DB) FindWorker(ctx context.Context, name string) (build.Worker, error) {
	return workerTable.byID(ctx, db, name)
}

// ListWorkers implements build.Workers.
func (db *DB) ListWorkers(ctx context.Context, q listing.Query) ([]build.Worker, error) {
	return workerTable.list(ctx, db, q)
}

// ForgetWorkers implements build.Workers.
func (db *DB) ForgetWorkers(ctx context.Context, before time.Time) error {
	_, err := db.exec(ctx, "worker", "", "DELETE FROM `workers` WHERE `seen_at` < ?", stamp(before))
	return err
}
