package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
)

func mustOpen(t *testing.T, cfg store.Config) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestMariaDBComesAndGoes: away at the start, killed in the middle of transactions, back again each time.
func TestMariaDBComesAndGoes(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real MariaDB")
	}
	t.Parallel()
	server := mariadb.StartServer(t)
	dsn := server.NewDatabase(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, store.Config{Driver: store.MySQL, DSN: dsn})
	_, findErr := db.FindJob(t.Context(), "j1")
	for what, err := range map[string]error{"ping": db.Ping(t.Context()), "migrate": db.Migrate(t.Context()), "find": findErr,
		"write": db.SeenNode(t.Context(), "n1", time.Now()), "transaction": db.InTx(t.Context(), func(context.Context) error { return nil })} {
		var own *errs.Error
		if !errors.As(err, &own) || own.Kind != errs.Unavailable || own.Code != "kiln.store.unavailable" || own.RetryAfter != 5*time.Second {
			t.Errorf("%s without a server: %v", what, err)
		}
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.FindJob(t.Context(), "j1"); errs.CodeOf(err) != "kiln.store.schema" {
		t.Errorf("without a schema: %v", err)
	}
	if v, err := db.Version(t.Context()); v != 0 || err != nil {
		t.Errorf("version without a schema: %d %v", v, err)
	}
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := writeThroughKill(t, db, server)
	for _, id := range done {
		if _, err := db.FindJob(t.Context(), id); err != nil {
			t.Errorf("a job that was committed is gone: %v", err)
		}
	}
	es, err := db.After(t.Context(), 0, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	js, err := db.ListJobs(t.Context(), listing.All())
	if err != nil || len(js) != len(es) {
		t.Errorf("%d jobs and %d events, which were written together (%v)", len(js), len(es), err)
	}
}

// writeThroughKill commits jobs with their events while the server is killed, and gives the ids that were committed.
func writeThroughKill(t *testing.T, db *store.DB, server *mariadb.Server) []string {
	t.Helper()
	var mu sync.Mutex
	var done []string
	failed := 0
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range 300 {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				id := fmt.Sprintf("%d-%d", w, i)
				err := db.InTx(t.Context(), func(ctx context.Context) error {
					if err := db.AddJob(ctx, job.Job{ID: id, Queue: job.WorkerQueue}); err != nil {
						return err
					}
					return db.Record(ctx, event.Event{Type: "job.created", Resource: "jobs/" + id})
				})
				mu.Lock()
				switch {
				case err == nil:
					done = append(done, id)
				case errs.Is(err, errs.Unavailable):
					failed++
				default:
					t.Errorf("write: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	err := server.Kill()
	time.Sleep(100 * time.Millisecond)
	err = errors.Join(err, server.Start())
	time.Sleep(200 * time.Millisecond)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if failed == 0 || len(done) == 0 {
		t.Fatalf("%d writes worked and %d failed: the kill was not in the middle", len(done), failed)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Fatalf("the pool does not recover: %v", err)
	}
	return done
}

// TestMariaDBLockWait: a lock that somebody keeps is a bounded wait and a 503 with Retry-After.
func TestMariaDBLockWait(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real MariaDB")
	}
	t.Parallel()
	dsn := mariadb.New(t)
	db := mustOpen(t, store.Config{Driver: store.MySQL, DSN: dsn, LockWait: time.Second})
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.PutNode(t.Context(), placement.Node{Name: "n1", Capacity: placement.Resources{VCPUs: 8}}); err != nil {
		t.Fatal(err)
	}
	holding, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	end := make(chan error, 1)
	go func() {
		end <- db.InTx(t.Context(), func(ctx context.Context) error {
			err := db.SeenNode(ctx, "n1", time.Now())
			once.Do(func() { close(holding) })
			<-release
			return err
		})
	}()
	<-holding
	began := time.Now()
	err := db.Hold(t.Context(), placement.Claim{WorkloadID: "w1", Node: "n1"})
	var own *errs.Error
	if !errors.As(err, &own) || own.Kind != errs.Unavailable || own.Code != "kiln.store.busy" || own.RetryAfter <= 0 {
		t.Errorf("held row: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the wait took %v", took)
	}
	close(release)
	if err := <-end; err != nil {
		t.Fatal(err)
	}
	if err := db.Hold(t.Context(), placement.Claim{WorkloadID: "w1", Node: "n1"}); err != nil {
		t.Fatal(err)
	}
}

// testMigrateTogether starts on an empty database with several programs at once.
func testMigrateTogether(t *testing.T, cfg store.Config) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		db := mustOpen(t, cfg)
		wg.Go(func() {
			if err := db.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
			if err := db.AddJob(t.Context(), job.Job{ID: "j1", Queue: job.WorkerQueue}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	db := mustOpen(t, cfg)
	latest, err := store.LatestVersion()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := db.Version(t.Context()); v != latest || err != nil {
		t.Fatalf("version %d %v", v, err)
	}
	if js, err := db.ListJobs(t.Context(), listing.All()); err != nil || len(js) != 1 {
		t.Fatalf("%d jobs of one id, %v", len(js), err)
	}
}

func TestMigrateTogetherSQLite(t *testing.T) {
	t.Parallel()
	testMigrateTogether(t, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")})
}

func TestMigrateTogetherMariaDB(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real MariaDB")
	}
	t.Parallel()
	testMigrateTogether(t, store.Config{Driver: store.MySQL, DSN: mariadb.New(t)})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []store.Config{{}, {Driver: "postgres"}, {Driver: store.SQLite}, {Driver: store.SQLite, DSN: ":memory:"}, {Driver: store.MySQL, DSN: "no dsn"}} {
		if _, err := store.Open(t.Context(), cfg); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	for in, want := range map[string]string{
		"mysql+pymysql://root:p%40s%2Fs@127.0.0.1/kiln?charset=utf8&plugin=dbcounter": "root:p@s/s@tcp(127.0.0.1:3306)/kiln",
		"mysql://kiln@[::1]:3307/kiln": "kiln@tcp([::1]:3307)/kiln",
		"sqlite:////var/lib/kiln.db":   "/var/lib/kiln.db",
		"sqlite:///kiln.db":            "kiln.db",
	} {
		got, err := store.FromURL(in)
		if dsn, _, _ := strings.Cut(got.DSN, "?"); err != nil || dsn != want {
			t.Errorf("%s: %q %v, want %q", in, got.DSN, err, want)
		}
	}
	for _, in := range []string{"postgresql://a:secret@h/db", "mysql://a:secret@h:port/db", "kiln"} {
		if _, err := store.FromURL(in); !errs.Is(err, errs.Invalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}
