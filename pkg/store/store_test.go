package store_test

import (
	"path/filepath"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/store/storetest"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
)

func openSQLite(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openSQLite)
}

func openMariaDB(t *testing.T) *store.DB {
	t.Helper()
	return openDSN(t, mariadb.New(t))
}

func openDSN(t *testing.T, dsn string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Driver: store.MySQL, DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestMariaDB(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real MariaDB")
	}
	t.Parallel()
	storetest.Run(t, openMariaDB)
}
