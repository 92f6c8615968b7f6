package store_test

import (
	"path/filepath"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/store/storetest"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
)

// The question "who has openssl < 3.0.17" over 1,000 images of 400 packages, all pages of the answer:
// go test -run '^$' -bench WhoHas ./pkg/store/
func BenchmarkWhoHas(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) {
		benchmarkWhoHas(b, store.Config{Driver: store.SQLite, DSN: filepath.Join(b.TempDir(), "kiln.db")})
	})
	b.Run("MariaDB", func(b *testing.B) {
		dsn := mariadb.StartServer(b).NewDatabase(b)
		benchmarkWhoHas(b, store.Config{Driver: store.MySQL, DSN: dsn})
	})
}

func benchmarkWhoHas(b *testing.B, cfg store.Config) {
	db, err := store.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := db.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	took, err := storetest.Fleet(b.Context(), db, 1000, 400)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(took.Seconds(), "s-to-fill")
	for b.Loop() {
		found, q := 0, advisory.Question{Name: "openssl", Op: advisory.LT, Version: "3.0.17", Limit: listing.MaxLimit}
		for {
			page, err := db.Holdings(b.Context(), q)
			if err != nil {
				b.Fatal(err)
			}
			found += len(page)
			if len(page) < q.Limit {
				break
			}
			q.Marker = page[len(page)-1].ID
		}
		if found != 600 {
			b.Fatalf("%d images have it", found)
		}
	}
}
