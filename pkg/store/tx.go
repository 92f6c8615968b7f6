package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
)

// How often a transaction that the database refused because of another one is tried. A deadlock is found at
// once, a lock wait took Config.LockWait already.
const (
	deadlockTries = 10
	lockWaitTries = 2
)

type txKey struct{ db *DB }

// txn is the transaction that a context carries.
type txn struct {
	tx     *sqlx.Tx
	events []event.Event // written right before the commit, see flushEvents
	outbox bool          // rows for the relay were written
	doomed error         // the database rolled back: nothing more may be sent, or it would commit on its own
}

func (db *DB) txOf(ctx context.Context) *txn {
	t, _ := ctx.Value(txKey{db}).(*txn)
	return t
}

// InTx runs fn in one transaction that its context carries. See job.Transactor. fn may run more than once and
// must not keep what an earlier run left in memory.
func (db *DB) InTx(ctx context.Context, fn func(ctx context.Context) error) error {
	if t := db.txOf(ctx); t != nil {
		return fn(ctx)
	}
	return db.retry(ctx, func() error { return db.tryTx(ctx, fn) })
}

// retry repeats try while the database says that only another transaction was in the way.
func (db *DB) retry(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		kind := classify(err)
		again := kind == deadlock && n < deadlockTries || kind == lockWait && n < lockWaitTries
		if !again {
			return err
		}
		// Twice as long each time: where the machine is slow, transactions stay in each other's way for longer.
		pause := rand.N(15 * time.Millisecond << min(n, 6)) //nolint:gosec // jitter
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (db *DB) tryTx(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	t := &txn{}
	conn, err := db.conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(); cerr != nil && !errors.Is(cerr, sql.ErrConnDone) && err == nil {
			db.cfg.Log.WithError(cerr).Debug("giving back a connection")
		}
	}()
	if t.tx, err = conn.BeginTxx(ctx, nil); err != nil {
		return db.fail(ctx, err, "store", "")
	}
	committed := false
	defer func() { // also where fn panics
		if !committed {
			if rerr := t.tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
				db.cfg.Log.WithError(rerr).Debug("rolling back")
			}
		}
	}()
	txCtx := context.WithValue(ctx, txKey{db}, t)
	if err = fn(txCtx); err == nil {
		err = db.flushEvents(txCtx, t)
	}
	if t.doomed != nil {
		return t.doomed
	}
	if err != nil {
		return err
	}
	if err = t.tx.Commit(); err != nil {
		return db.fail(ctx, err, "store", "")
	}
	committed = true
	if t.outbox {
		db.nudge()
	}
	return nil
}

// conn takes a connection for writing, with a bound on the wait: a caller that holds SQLite's one writer and
// asks for a second transaction with another context would otherwise wait for itself for ever.
func (db *DB) conn(ctx context.Context) (*sqlx.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := db.writes.Connx(wait)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, errs.Wrap(err, errs.Unavailable, codeBusy, "all connections to the database are in use: try again").After(5 * time.Second)
	}
	return conn, db.fail(ctx, err, "store", "")
}

// note remembers that the database ended the transaction.
func (t *txn) note(err error) error {
	if k := classify(err); err != nil && (k == deadlock || k == lockWait || k == away) {
		t.doomed = err
	}
	return err
}

// exec runs a statement that writes and gives the number of rows that it matched.
func (db *DB) exec(ctx context.Context, resource, id, query string, args ...any) (int64, error) {
	var n int64
	run := func(e sqlx.ExecerContext) error {
		res, err := e.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return db.fail(ctx, err, resource, id)
	}
	t := db.txOf(ctx)
	switch {
	case t == nil:
		return n, db.retry(ctx, func() error { return run(db.writes) })
	case t.doomed != nil:
		return 0, t.doomed
	}
	err := t.note(run(t.tx))
	return n, err
}

// each runs a query and calls scan for each row.
func (db *DB) each(ctx context.Context, resource, id string, scan func(*sqlx.Rows) error, query string, args ...any) error {
	var q sqlx.QueryerContext = db.reads
	t := db.txOf(ctx)
	if t != nil {
		if t.doomed != nil {
			return t.doomed
		}
		q = t.tx
	}
	err := db.rows(ctx, q, scan, query, args)
	err = db.fail(ctx, err, resource, id)
	if t != nil {
		err = t.note(err)
	}
	return err
}

func (db *DB) rows(ctx context.Context, q sqlx.QueryerContext, scan func(*sqlx.Rows) error, query string, args []any) (err error) {
	rows, err := q.QueryxContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// one reads one row of plain values; found is false where there is none.
func (db *DB) one(ctx context.Context, resource, id string, dest []any, query string, args ...any) (found bool, err error) {
	err = db.each(ctx, resource, id, func(r *sqlx.Rows) error {
		found = true
		return r.Scan(dest...)
	}, query, args...)
	return found, err
}

// OutboxChanged receives soon after a commit that wrote rows for the relay in this process. It has one receiver.
func (db *DB) OutboxChanged() <-chan struct{} { return db.changed }

func (db *DB) nudge() {
	select {
	case db.changed <- struct{}{}:
	default:
	}
}
