// Package store keeps everything that Kiln knows in MariaDB, or in SQLite for the embedded default.
//
// *DB implements the Store interfaces of the domain. A transaction is carried by the context (InTx), so that a
// job, the change that it belongs to and the event that tells of it commit together. Foreign errors become
// *errs.Error here: callers never see a driver's error type.
package store

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/sirupsen/logrus"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// The drivers.
const (
	MySQL  = "mysql"
	SQLite = "sqlite"
)

// Config says where the database is. DSN is go-sql-driver's for MySQL ("user:pw@tcp(host:3306)/kiln") and the
// path of a file for SQLite. The other fields have defaults.
type Config struct {
	Driver   string
	DSN      string
	MaxOpen  int                // connections; 20
	LockWait time.Duration      // how long a statement waits for a row lock; whole seconds, 3 s
	Log      logrus.FieldLogger // nil is silent
	Now      func() time.Time   // for the times that callers do not pass
	NewID    func() string      // for rows that the store makes itself
}

// DB is one database with its pool of connections. All methods may be called by many goroutines.
type DB struct {
	cfg     Config
	d       dialect
	reads   *sqlx.DB
	writes  *sqlx.DB // the same pool on MariaDB; one connection on SQLite, which has one writer
	changed chan struct{}
}

// Open checks the configuration and prepares the pool. It does not connect to MariaDB: a server that is away
// shows in Ping and in every call as errs.Unavailable, and comes good by itself when it returns.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg.defaults()
	db := &DB{cfg: cfg, changed: make(chan struct{}, 1)}
	var err error
	switch cfg.Driver {
	case MySQL:
		err = db.openMySQL()
	case SQLite:
		err = db.openSQLite(ctx)
	default:
		err = errs.New(errs.Invalid, "kiln.store.driver", "%q is not a database driver: use %s or %s", cfg.Driver, MySQL, SQLite)
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

func (c *Config) defaults() {
	if c.MaxOpen < 1 {
		c.MaxOpen = 20
	}
	if c.LockWait < time.Second {
		c.LockWait = 3 * time.Second
	}
	if c.Log == nil {
		c.Log = log.Discard()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = uuid.NewString
	}
}

// FromURL reads a connection as OpenStack services write it in [database] connection:
// "mysql+pymysql://user:pw@host:3306/kiln?charset=utf8" or "sqlite:////var/lib/kiln/kiln.db". The driver after
// "+" and the query keys (which are SQLAlchemy's) are ignored, user and password are percent-decoded.
func FromURL(connection string) (Config, error) {
	u, err := url.Parse(connection)
	if err != nil { // the text of the error may hold the password
		return Config{}, errs.New(errs.Invalid, "kiln.store.url", "the database connection is not a URL")
	}
	scheme, _, _ := strings.Cut(u.Scheme, "+")
	switch scheme {
	case "mysql", "mariadb":
		m := mysql.NewConfig()
		m.Net, m.Addr, m.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
		if u.Port() == "" {
			m.Addr += ":3306"
		}
		if socket := u.Query().Get("unix_socket"); socket != "" {
			m.Net, m.Addr = "unix", socket
		}
		if u.User != nil {
			m.User = u.User.Username()
			m.Passwd, _ = u.User.Password()
		}
		return Config{Driver: MySQL, DSN: m.FormatDSN()}, nil
	case "sqlite":
		return Config{Driver: SQLite, DSN: strings.TrimPrefix(u.Path, "/")}, nil
	}
	return Config{}, errs.New(errs.Invalid, "kiln.store.url", "%q is not a database that Kiln knows: use mysql+pymysql://… or sqlite:///…", u.Scheme)
}

// Ping asks the database for an answer; the health check calls it.
func (db *DB) Ping(ctx context.Context) error {
	return db.fail(ctx, db.reads.PingContext(ctx), "store", "")
}

// Close ends all connections.
func (db *DB) Close() error {
	err := db.reads.Close()
	if db.writes != db.reads {
		if werr := db.writes.Close(); err == nil {
			err = werr
		}
	}
	return err
}

// Driver is "mysql" or "sqlite".
func (db *DB) Driver() string { return db.cfg.Driver }
