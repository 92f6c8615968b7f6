package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratemysql "github.com/golang-migrate/migrate/v4/database/mysql"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

//go:embed migrations
var migrations embed.FS

// Migrate brings the schema to the newest version. Many programs may call it at the same moment: one does the
// work, the others wait (GET_LOCK on MariaDB, a lock file beside SQLite's). A migration that was killed in its
// middle is run again from its beginning, so each statement of a migration must be safe to repeat.
func (db *DB) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	unlock, err := db.lockFile(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		err := db.migrateOnce(ctx)
		if !errors.Is(err, migrate.ErrLocked) && !errors.Is(err, database.ErrLocked) && !errors.Is(err, migrate.ErrLockTimeout) {
			return db.fail(ctx, err, "schema", "")
		}
		select {
		case <-ctx.Done():
			return db.fail(ctx, err, "schema", "")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (db *DB) migrateOnce(ctx context.Context) (err error) {
	m, err := db.migrator(ctx)
	if err != nil {
		return err
	}
	defer func() {
		serr, derr := m.Close()
		if joined := errors.Join(serr, derr); joined != nil && err == nil {
			err = joined
		}
	}()
	if version, dirty, verr := m.Version(); verr == nil && dirty {
		db.cfg.Log.WithField("version", version).Warning("the last migration did not end; running it again")
		if err := m.Force(before(version)); err != nil {
			return err
		}
	}
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
}

// before is the version that the schema had when the migration to version began.
func before(version uint) int {
	if version <= 1 {
		return database.NilVersion
	}
	return int(version) - 1
}

func (db *DB) migrator(ctx context.Context) (*migrate.Migrate, error) {
	source, err := iofs.New(migrations, "migrations/"+db.cfg.Driver)
	if err != nil {
		return nil, err
	}
	pool, err := db.migrationPool()
	if err != nil {
		return nil, err
	}
	var driver database.Driver
	if err = pool.PingContext(ctx); err == nil {
		if db.cfg.Driver == MySQL {
			driver, err = migratemysql.WithInstance(pool, &migratemysql.Config{})
		} else {
			driver, err = migratesqlite.WithInstance(pool, &migratesqlite.Config{})
		}
	}
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return migrate.NewWithInstance("iofs", source, db.cfg.Driver, driver)
}

// migrationPool is a pool of its own: migrations need several statements at a time, which all other code must not
// be able to send, and golang-migrate closes what it is given.
func (db *DB) migrationPool() (*sql.DB, error) {
	if db.cfg.Driver == SQLite {
		return sql.Open(SQLite, sqliteDSN(db.cfg.DSN, db.cfg.LockWait))
	}
	m, err := db.mysqlConfig()
	if err != nil {
		return nil, err
	}
	m.MultiStatements, m.ReadTimeout = true, 5*time.Minute
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// lockFile keeps programs that share an SQLite file apart: golang-migrate's driver only locks within itself.
func (db *DB) lockFile(ctx context.Context) (unlock func(), err error) {
	if db.cfg.Driver != SQLite {
		return func() {}, nil
	}
	f, err := os.OpenFile(db.cfg.DSN+".migrate", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, codeUnavailable, "the folder of the database cannot be written")
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing ends the lock
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(errs.Wrap(err, errs.Unavailable, codeBusy, "another program migrates the database").After(5*time.Second), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Version is the version of the schema that the database has, 0 for none. A migration that did not end is an error.
func (db *DB) Version(ctx context.Context) (uint, error) {
	n, err := db.countOf(ctx, "schema", "SELECT CASE WHEN `dirty` THEN -`version` ELSE `version` END FROM `schema_migrations`")
	switch {
	case errs.CodeOf(err) == codeSchema:
		return 0, nil
	case err != nil:
		return 0, err
	case n < 0:
		return 0, errs.New(errs.Unavailable, codeSchema, "migration %d did not end: run kiln-manage db sync", -n)
	}
	return uint(n), nil
}

// LatestVersion is the version that Migrate brings the schema to.
func LatestVersion() (uint, error) {
	names, err := fs.Glob(migrations, "migrations/mysql/*.up.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("the migrations are not embedded: %w", errors.Join(err, fs.ErrNotExist))
	}
	return uint(len(names)), nil
}
