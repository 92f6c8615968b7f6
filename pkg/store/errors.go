package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/sirupsen/logrus"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// The codes of the store's own faults; those of a resource are kiln.<resource>.not_found and .exists.
const (
	codeUnavailable = "kiln.store.unavailable"
	codeBusy        = "kiln.store.busy"
	codeTimeout     = "kiln.store.timeout"
	codeSchema      = "kiln.store.schema"
)

// fault is what a driver's error means to us.
type fault int

const (
	unknown fault = iota
	duplicate
	deadlock // rolled back by the database: the whole transaction may be tried again
	lockWait // somebody held a lock for too long
	away
	noSchema
	tooLong
	full
)

// MariaDB's error numbers, https://mariadb.com/kb/en/mariadb-error-code-reference/.
var mysqlFaults = map[uint16]fault{
	1062: duplicate, 1586: duplicate,
	1213: deadlock, 1020: deadlock, // 1020: "record has changed since last read"
	1205: lockWait,
	1040: away, 1203: away, 1226: away, // too many connections
	1044: away, 1045: away, 1049: away, // the database or the user is not set up yet
	1053: away, 1152: away, 1158: away, 1159: away, 1160: away, 1161: away, 1927: away,
	1047: away, 1290: away, 1836: away, // Galera node that is not ready, or read only
	1146: noSchema, 1054: noSchema,
	1406: tooLong, 1264: tooLong, 1366: tooLong,
	1021: full, 1114: full,
}

func classify(err error) fault {
	if m, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return mysqlFaults[m.Number]
	}
	if s, ok := errors.AsType[*sqlite.Error](err); ok {
		return classifySQLite(s)
	}
	var netErr net.Error
	switch {
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.As(err, &netErr):
		return away
	}
	return unknown
}

// classifySQLite follows https://www.sqlite.org/rescode.html.
func classifySQLite(err *sqlite.Error) fault {
	switch err.Code() {
	case lib.SQLITE_CONSTRAINT_UNIQUE, lib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return duplicate
	}
	switch err.Code() & 0xff {
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return lockWait
	case lib.SQLITE_IOERR, lib.SQLITE_CANTOPEN, lib.SQLITE_READONLY:
		return away
	case lib.SQLITE_FULL:
		return full
	case lib.SQLITE_ERROR:
		if strings.Contains(err.Error(), "no such table") || strings.Contains(err.Error(), "no such column") {
			return noSchema
		}
	}
	return unknown
}

// fail turns a driver's error into an *errs.Error; errors that are one already pass.
// resource and id name what was asked for.
func (db *DB) fail(ctx context.Context, err error, resource, id string) error {
	if err == nil {
		return nil
	}
	var own *errs.Error
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, sql.ErrNoRows):
		return notFound(resource, id)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errs.Wrap(err, errs.Timeout, codeTimeout, "the database did not answer in time").After(5 * time.Second)
	case errors.Is(err, context.Canceled) || ctx.Err() != nil:
		return errs.Wrap(err, errs.Cancelled, "kiln.store.cancelled", "the call to the database was cancelled")
	}
	switch classify(err) {
	case duplicate:
		return errs.Wrap(err, errs.Conflict, "kiln."+resource+".exists", "%s exists already", named(resource, id))
	case deadlock, lockWait:
		db.cfg.Log.WithError(err).WithFields(logrus.Fields{"resource": resource, "id": id}).Info("the database is busy with a lock")
		return errs.Wrap(err, errs.Unavailable, codeBusy, "another request holds %s: try again", named(resource, id)).After(time.Second)
	case away:
		return errs.Wrap(err, errs.Unavailable, codeUnavailable, "the database is not available: try again").After(5 * time.Second)
	case noSchema:
		return errs.Wrap(err, errs.Unavailable, codeSchema, "the database's schema is missing or old: run kiln-manage db sync").After(5 * time.Second)
	case tooLong:
		return errs.Wrap(err, errs.Invalid, "kiln.store.value", "a value of %s is longer or larger than the database takes", named(resource, id))
	case full:
		return errs.Wrap(err, errs.TooLarge, "kiln.store.full", "the database's disk is full")
	}
	return errs.Wrap(err, errs.Internal, "kiln.store.internal", "the database refused a statement about %s", named(resource, id))
}

func named(resource, id string) string { return strings.TrimSpace(resource + " " + id) }

func notFound(resource, id string) error {
	return errs.New(errs.NotFound, "kiln."+resource+".not_found", "%s does not exist", named(resource, id))
}
