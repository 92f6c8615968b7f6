package store

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"
)

// The topics of the outbox.
const (
	TopicWake  = "kiln.wake"  // Key is a job.Queue, Body is empty
	TopicEvent = "kiln.event" // Key is the event's type, Body the event as JSON
)

// outboxClaim is how long a relay has the rows that NextOutbox gave it to itself.
const outboxClaim = 30 * time.Second

// OutboxRow is one message that waits to be published. It is an alias of a plain struct, so that the relay can
// declare the interface that it needs without this package.
type OutboxRow = struct {
	ID        int64
	Topic     string
	Key       string
	Body      string
	CreatedAt time.Time
}

// Outbox is what the relay needs: messages that were written in the transaction of the change they tell of.
type Outbox interface {
	// NextOutbox gives up to limit unpublished rows, oldest first, and keeps other relays from them for half a
	// minute: a relay that dies delays its rows by that, and publishes none of them a second time.
	NextOutbox(ctx context.Context, limit int) ([]OutboxRow, error)
	// MarkPublished ends the rows; repeating it is safe.
	MarkPublished(ctx context.Context, ids []int64) error
	// ReturnOutbox gives rows back that could not be published.
	ReturnOutbox(ctx context.Context, ids []int64) error
	// PruneOutbox removes rows that were published before the time, and gives their number.
	PruneOutbox(ctx context.Context, before time.Time) (int64, error)
	// OutboxChanged receives soon after rows were committed by this process.
	OutboxChanged() <-chan struct{}
}

var _ Outbox = (*DB)(nil)

func (db *DB) wake(ctx context.Context, queue string) error {
	return db.addOutbox(ctx, TopicWake, queue, "")
}

// addOutbox runs inside a transaction.
func (db *DB) addOutbox(ctx context.Context, topic, key, body string) error {
	_, err := db.exec(ctx, "message", key, "INSERT INTO `outbox` (`topic`, `key`, `body`, `created_at`) VALUES (?, ?, ?, ?)", topic, key, body, stamp(db.now()))
	db.txOf(ctx).outbox = true
	return err
}

// NextOutbox implements Outbox.
func (db *DB) NextOutbox(ctx context.Context, limit int) ([]OutboxRow, error) {
	now := db.now()
	// A look without locks first: most polls find nothing.
	n, err := db.countOf(ctx, "message", "SELECT EXISTS (SELECT 1 FROM `outbox` WHERE `published_at` IS NULL AND (`claimed_until` IS NULL OR `claimed_until` < ?))", stamp(now))
	if err != nil || n == 0 {
		return nil, err
	}
	var out []OutboxRow
	err = db.InTx(ctx, func(ctx context.Context) error {
		out = nil
		err := db.each(ctx, "message", "", func(r *sqlx.Rows) error {
			var o OutboxRow
			var at string
			if err := r.Scan(&o.ID, &o.Topic, &o.Key, &o.Body, &at); err != nil {
				return err
			}
			var err error
			o.CreatedAt, err = parseTime(at)
			out = append(out, o)
			return err
		}, "SELECT `id`, `topic`, `key`, `body`, `created_at` FROM `outbox` WHERE `published_at` IS NULL AND (`claimed_until` IS NULL OR `claimed_until` < ?)"+
			" ORDER BY `id` LIMIT ?"+db.d.skipLocked, stamp(now), limitOf(limit))
		if err != nil {
			return err
		}
		return db.eachID(ctx, "UPDATE `outbox` SET `claimed_until` = ? WHERE `id` IN ", []any{stamp(now.Add(outboxClaim))}, idsOf(out))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func idsOf(rows []OutboxRow) []int64 {
	ids := make([]int64, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	return ids
}

// eachID runs a statement that ends with an IN list of ids.
func (db *DB) eachID(ctx context.Context, query string, args []any, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		args = append(args, id)
	}
	_, err := db.exec(ctx, "message", "", query+"("+marks(len(ids))+")", args...)
	return err
}

// MarkPublished implements Outbox.
func (db *DB) MarkPublished(ctx context.Context, ids []int64) error {
	return db.eachID(ctx, "UPDATE `outbox` SET `published_at` = ?, `claimed_until` = NULL WHERE `published_at` IS NULL AND `id` IN ", []any{stamp(db.now())}, ids)
}

// ReturnOutbox implements Outbox.
func (db *DB) ReturnOutbox(ctx context.Context, ids []int64) error {
	return db.eachID(ctx, "UPDATE `outbox` SET `claimed_until` = NULL WHERE `published_at` IS NULL AND `id` IN ", nil, ids)
}

// PruneOutbox implements Outbox.
func (db *DB) PruneOutbox(ctx context.Context, before time.Time) (int64, error) {
	return db.exec(ctx, "message", "", "DELETE FROM `outbox` WHERE `published_at` < ?", stamp(before))
}
