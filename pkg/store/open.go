package store

import (
	"context"
	"database/sql"
	"maps"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// mysqlConfig is the driver's configuration with what this package counts on.
func (db *DB) mysqlConfig() (*mysql.Config, error) {
	m, err := mysql.ParseDSN(db.cfg.DSN)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.store.dsn", "the database's DSN cannot be read")
	}
	m.Logger = db.cfg.Log
	m.ClientFoundRows = true // guarded updates count the rows that they match, also where nothing changes
	m.InterpolateParams = true
	m.ParseTime, m.Loc = false, time.UTC // times travel as UTC text of one form, see mapper.go
	orDefault(&m.Timeout, 5*time.Second)
	orDefault(&m.ReadTimeout, 30*time.Second)
	orDefault(&m.WriteTimeout, 30*time.Second)
	if m.Params == nil {
		m.Params = map[string]string{}
	}
	maps.Copy(m.Params, map[string]string{
		// A locking read followed by a plain one must see what the lock's last holder committed.
		"tx_isolation":             "'READ-COMMITTED'",
		"innodb_lock_wait_timeout": strconv.Itoa(int(db.cfg.LockWait / time.Second)),
		"sql_mode":                 "'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'",
		"time_zone":                "'+00:00'",
	})
	return m, nil
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

func (db *DB) openMySQL() error {
	m, err := db.mysqlConfig()
	if err != nil {
		return err
	}
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.store.dsn", "the database's DSN cannot be used")
	}
	pool := sqlx.NewDb(sql.OpenDB(connector), MySQL)
	pool.SetMaxOpenConns(db.cfg.MaxOpen)
	pool.SetMaxIdleConns(db.cfg.MaxOpen)
	pool.SetConnMaxLifetime(5 * time.Minute) // a proxy in front of Galera may have chosen another node by then
	db.reads, db.writes, db.d = pool, pool, mysqlDialect
	return nil
}

// sqliteDSN keeps writers waiting for each other instead of failing, and begins every transaction as a writer:
// a transaction that reads first and writes later could otherwise fail with SQLITE_BUSY in its middle.
func sqliteDSN(path string, lockWait time.Duration) string {
	q := url.Values{}
	q.Add("_pragma", "busy_timeout("+strconv.FormatInt(lockWait.Milliseconds(), 10)+")")
	q.Add("_pragma", "journal_mode(WAL)")
	q.Add("_pragma", "synchronous(NORMAL)")
	q.Set("_txlock", "immediate")
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String()
}

func (db *DB) openSQLite(ctx context.Context) error {
	if db.cfg.DSN == "" || strings.Contains(db.cfg.DSN, ":memory:") {
		return errs.New(errs.Invalid, "kiln.store.dsn", "SQLite needs the path of a file: a database in memory has one connection's content only")
	}
	path, err := filepath.Abs(db.cfg.DSN)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.store.dsn", "the path of the database cannot be used")
	}
	db.cfg.DSN, db.d = path, sqliteDialect
	for _, p := range []struct {
		pool **sqlx.DB
		open int
	}{{&db.writes, 1}, {&db.reads, db.cfg.MaxOpen}} {
		raw, err := sql.Open(SQLite, sqliteDSN(path, db.cfg.LockWait))
		if err != nil {
			return errs.Wrap(err, errs.Invalid, "kiln.store.dsn", "the database's DSN cannot be used")
		}
		raw.SetMaxOpenConns(p.open)
		raw.SetMaxIdleConns(p.open)
		*p.pool = sqlx.NewDb(raw, SQLite)
		// One connection after the other: the first makes the file and turns WAL on.
		if err := raw.PingContext(ctx); err != nil {
			return db.fail(ctx, err, "store", "")
		}
	}
	return nil
}
