package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var (
	_ job.Store      = (*DB)(nil)
	_ job.Transactor = (*DB)(nil)
)

var jobTable = tableOf[job.Job](spec{
	name: "jobs", resource: "job",
	filters: []string{"id", "kind", "queue", "state", "user_id", "request_id", "resource", "lease_owner", "cancel_requested"},
	sorts:   []string{"created_at", "updated_at", "run_after", "kind", "queue", "state", "resource", "attempt"},
	order:   newestFirst,
})

// due is the condition of a job that may be leased; its two arguments are now.
const due = "((`state` = 'pending' AND `run_after` <= ?) OR (`state` = 'running' AND `lease_expires` < ?))"

// held is the condition of a job that the owner may write.
const held = " WHERE `id` = ? AND `state` = 'running' AND `lease_owner` = ?"

// AddJob implements job.Store.
func (db *DB) AddJob(ctx context.Context, j job.Job) error {
	if j.State == "" {
		j.State = job.Pending
	}
	if j.RunAfter.IsZero() {
		j.RunAfter = db.now()
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.countOf(ctx, "job", "SELECT COUNT(*) FROM `jobs` WHERE `id` = ?", j.ID)
		if err != nil || n > 0 {
			return err
		}
		if err := jobTable.insert(ctx, db, db.d.keep("id"), j); err != nil {
			return err
		}
		return db.wake(ctx, string(j.Queue))
	})
}

// LeaseJob implements job.Store.
func (db *DB) LeaseJob(ctx context.Context, queues []job.Queue, labels []string, owner string, now, until time.Time) (*job.Job, error) {
	if len(queues) == 0 {
		return nil, nil
	}
	// Several owners look at the same candidates; each loses some of them to the others.
	for range 4 {
		ids, err := db.dueJobs(ctx, queues, labels, now)
		if err != nil || len(ids) == 0 {
			return nil, err
		}
		for _, id := range ids {
			j, err := db.leaseOne(ctx, id, owner, now, until)
			if err != nil || j != nil {
				return j, err
			}
		}
	}
	return nil, nil
}

// candidates bounds how many due jobs an owner tries to lease in one go, lookedAt how many it reads to find them:
// behind so many that nobody here can do, another would wait.
const (
	candidates = 16
	lookedAt   = 1000
)

// dueJobs reads without locks: a locking read with ORDER BY would lock every row that it sorts.
func (db *DB) dueJobs(ctx context.Context, queues []job.Queue, labels []string, now time.Time) ([]string, error) {
	var args []any
	for _, q := range queues {
		args = append(args, string(q))
	}
	args = append(args, stamp(now), stamp(now), lookedAt)
	query := "SELECT `id`, COALESCE(`needs`, '') FROM `jobs` WHERE `queue` IN (" + marks(len(queues)) + ") AND " + due + " ORDER BY `created_at`, `id` LIMIT ?"
	var ids []string
	err := db.each(ctx, "job", "", func(r *sqlx.Rows) error {
		var id, text string
		if err := r.Scan(&id, &text); err != nil {
			return err
		}
		var needs []string
		if text != "" {
			if err := json.Unmarshal([]byte(text), &needs); err != nil {
				return err
			}
		}
		if len(ids) < candidates && job.Fits(needs, labels) {
			ids = append(ids, id)
		}
		return nil
	}, query, args...)
	return ids, err
}

func (db *DB) leaseOne(ctx context.Context, id, owner string, now, until time.Time) (*job.Job, error) {
	var leased *job.Job
	err := db.InTx(ctx, func(ctx context.Context) error {
		leased = nil
		var got string
		found, err := db.one(ctx, "job", id, []any{&got}, "SELECT `id` FROM `jobs` WHERE `id` = ? AND "+due+db.d.skipLocked, id, stamp(now), stamp(now))
		if err != nil || !found {
			return err
		}
		n, err := db.exec(ctx, "job", id, "UPDATE `jobs` SET `state` = 'running', `lease_owner` = ?, `lease_expires` = ?, `attempt` = `attempt` + 1,"+
			" `started_at` = COALESCE(`started_at`, ?), `updated_at` = ? WHERE `id` = ? AND "+due,
			owner, stamp(until), stamp(now), stamp(now), id, stamp(now), stamp(now))
		if err != nil || n == 0 {
			return err
		}
		j, err := jobTable.byID(ctx, db, id)
		leased = &j
		return err
	})
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// Heartbeat implements job.Store.
func (db *DB) Heartbeat(ctx context.Context, id, owner string, now, until time.Time, p job.Progress) (bool, error) {
	progress, err := jsonArg(p)
	if err != nil {
		return false, db.fail(ctx, err, "job", id)
	}
	n, err := db.exec(ctx, "job", id, "UPDATE `jobs` SET `lease_expires` = ?, `progress` = ?, `updated_at` = ?"+held,
		stamp(until), progress, stamp(now), id, owner)
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, job.ErrLeaseLost
	}
	var cancel bool
	_, err = db.one(ctx, "job", id, []any{&cancel}, "SELECT `cancel_requested` FROM `jobs` WHERE `id` = ?", id)
	return cancel, err
}

// ReleaseJob implements job.Store. The queue is woken where the job is due at once.
func (db *DB) ReleaseJob(ctx context.Context, id, owner string, now, runAfter time.Time, f *job.Failure) error {
	failure, err := jsonArg(f)
	if err != nil {
		return db.fail(ctx, err, "job", id)
	}
	uncounted := 0
	if f == nil {
		uncounted = 1
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "job", id, "UPDATE `jobs` SET `state` = 'pending', `lease_owner` = '', `lease_expires` = NULL,"+
			" `attempt` = `attempt` - ?, `run_after` = ?, `error` = COALESCE(?, `error`), `updated_at` = ?"+held, uncounted, stamp(runAfter), failure, stamp(now), id, owner)
		if err != nil {
			return err
		}
		if n == 0 {
			return job.ErrLeaseLost
		}
		if runAfter.After(now) {
			return nil
		}
		j, err := jobTable.byID(ctx, db, id)
		if err != nil {
			return err
		}
		return db.wake(ctx, string(j.Queue))
	})
}

// FinishJob implements job.Store. A repeat by the same owner with the same state is answered with success, and
// apply does not run again: the answer to the first call may have been lost with the connection.
func (db *DB) FinishJob(ctx context.Context, id, owner string, now time.Time, o job.Outcome, apply func(ctx context.Context) error) error {
	failure, err := jsonArg(o.Error)
	if err != nil {
		return db.fail(ctx, err, "job", id)
	}
	var result any
	if len(o.Result) > 0 {
		result = string(o.Result)
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "job", id, "UPDATE `jobs` SET `state` = ?, `result` = ?, `error` = ?, `lease_expires` = NULL,"+
			" `finished_at` = ?, `updated_at` = ?"+held, string(o.State), result, failure, stamp(now), stamp(now), id, owner)
		if err != nil {
			return err
		}
		if n == 0 {
			return db.finishedBy(ctx, id, owner, o.State)
		}
		if apply == nil {
			return nil
		}
		return apply(ctx)
	})
}

func (db *DB) finishedBy(ctx context.Context, id, owner string, s job.State) error {
	n, err := db.countOf(ctx, "job", "SELECT COUNT(*) FROM `jobs` WHERE `id` = ? AND `lease_owner` = ? AND `state` = ?", id, owner, string(s))
	if err == nil && n == 0 {
		return job.ErrLeaseLost
	}
	return err
}

// CancelJob implements job.Store.
func (db *DB) CancelJob(ctx context.Context, id string, now time.Time) (ended bool, err error) {
	err = db.InTx(ctx, func(ctx context.Context) error {
		ended = false
		var state string
		found, err := db.one(ctx, "job", id, []any{&state}, "SELECT `state` FROM `jobs` WHERE `id` = ?"+db.d.forUpdate, id)
		switch {
		case err != nil:
			return err
		case !found:
			return notFound("job", id)
		case job.State(state) == job.Pending:
			ended = true
			_, err = db.exec(ctx, "job", id, "UPDATE `jobs` SET `state` = 'cancelled', `cancel_requested` = 1, `finished_at` = ?, `updated_at` = ? WHERE `id` = ?",
				stamp(now), stamp(now), id)
		case job.State(state) == job.Running:
			_, err = db.exec(ctx, "job", id, "UPDATE `jobs` SET `cancel_requested` = 1, `updated_at` = ? WHERE `id` = ?", stamp(now), id)
		default:
			err = errs.New(errs.Conflict, "kiln.job.final", "job %s is %s already", id, state)
		}
		return err
	})
	return ended && err == nil, err
}

// FindJob implements job.Store.
func (db *DB) FindJob(ctx context.Context, id string) (job.Job, error) {
	return jobTable.byID(ctx, db, id)
}

// ListJobs implements job.Store.
func (db *DB) ListJobs(ctx context.Context, q listing.Query) ([]job.Job, error) {
	return jobTable.list(ctx, db, q)
}
