package store_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
)

// testMigrateAfterKill makes what a migration leaves that was killed in its middle: some tables, and a mark.
func testMigrateAfterKill(t *testing.T, cfg store.Config) {
	t.Helper()
	db := mustOpen(t, cfg)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open(cfg.Driver, cfg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"DROP TABLE `claims`", "DROP TABLE `workloads`", "UPDATE `schema_migrations` SET `dirty` = 1"} {
		if _, err := raw.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.AddJob(t.Context(), job.Job{ID: "kept", Queue: job.WorkerQueue}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Version(t.Context()); errs.CodeOf(err) != "kiln.store.schema" {
		t.Fatalf("version of a half migrated database: %v", err)
	}
	for range 2 {
		if err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.FindClaim(t.Context(), "none"); errs.CodeOf(err) != "kiln.claim.not_found" {
		t.Fatalf("the table is not there: %v", err)
	}
	if _, err := db.FindJob(t.Context(), "kept"); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateAfterKillSQLite(t *testing.T) {
	t.Parallel()
	testMigrateAfterKill(t, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")})
}

func TestMigrateAfterKillMariaDB(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real MariaDB")
	}
	t.Parallel()
	testMigrateAfterKill(t, store.Config{Driver: store.MySQL, DSN: mariadb.New(t)})
}
