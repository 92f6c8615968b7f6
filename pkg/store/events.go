package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
)

var (
	_ event.Recorder = (*DB)(nil)
	_ event.Log      = (*DB)(nil)
)

// Record implements event.Recorder. The event and the outbox row of its notification are written at the end of
// the transaction, see flushEvents.
func (db *DB) Record(ctx context.Context, e event.Event) error {
	if len(e.Payload) > 0 && !json.Valid(e.Payload) {
		return errs.New(errs.Internal, "kiln.event.payload", "the payload of event %s is not JSON", e.Type)
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		t := db.txOf(ctx)
		t.events = append(t.events, e)
		return nil
	})
}

// flushEvents gives the events of the transaction their ids and writes them, right before the commit.
//
// The ids come from one counter row, whose lock is held until the commit: whoever gets the next ids commits
// later. So a reader that has seen id n never meets a smaller one afterwards, which AUTO_INCREMENT does not
// give. The counter is always the last lock of a transaction, so it takes part in no deadlock, and it is held
// for the time of one commit only.
func (db *DB) flushEvents(ctx context.Context, t *txn) error {
	count := int64(len(t.events))
	if count == 0 {
		return nil
	}
	if _, err := db.exec(ctx, "event", "", "UPDATE `event_ids` SET `last` = `last` + ? WHERE `id` = 1", count); err != nil {
		return err
	}
	last, err := db.countOf(ctx, "event", "SELECT `last` FROM `event_ids` WHERE `id` = 1")
	if err != nil {
		return err
	}
	for i := range t.events {
		e := &t.events[i]
		e.ID, e.CreatedAt = last-count+1+int64(i), db.now().UTC().Truncate(time.Microsecond)
		if err := db.writeEvent(ctx, *e); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) writeEvent(ctx context.Context, e event.Event) error {
	var payload any
	if len(e.Payload) > 0 {
		payload = string(e.Payload)
	}
	_, err := db.exec(ctx, "event", e.Type, "INSERT INTO `events` (`id`, `type`, `resource`, `project_id`, `request_id`, `payload`, `created_at`) VALUES ("+marks(7)+")",
		e.ID, e.Type, e.Resource, e.ProjectID, e.RequestID, payload, stamp(e.CreatedAt))
	if err != nil {
		return err
	}
	body, err := json.Marshal(e)
	if err != nil {
		return db.fail(ctx, err, "event", e.Type)
	}
	return db.addOutbox(ctx, TopicEvent, e.Type, string(body))
}

// After implements event.Log.
func (db *DB) After(ctx context.Context, after int64, projectID string, limit int) ([]event.Event, error) {
	query, args := "SELECT `id`, `type`, `resource`, `project_id`, `request_id`, `payload`, `created_at` FROM `events` WHERE `id` > ?", []any{after}
	if projectID != "" {
		query, args = query+" AND `project_id` = ?", append(args, projectID)
	}
	out := []event.Event{}
	err := db.each(ctx, "event", "", func(r *sqlx.Rows) error {
		var e event.Event
		var at string
		var payload []byte
		if err := r.Scan(&e.ID, &e.Type, &e.Resource, &e.ProjectID, &e.RequestID, &payload, &at); err != nil {
			return err
		}
		e.Payload = payload
		var err error
		e.CreatedAt, err = parseTime(at)
		out = append(out, e)
		return err
	}, query+" ORDER BY `id` LIMIT ?", append(args, limitOf(limit))...)
	return out, err
}

// LastID implements event.Log. It stays what it was when old events are pruned.
func (db *DB) LastID(ctx context.Context) (int64, error) {
	return db.countOf(ctx, "event", "SELECT `last` FROM `event_ids` WHERE `id` = 1")
}

// PruneEvents removes the events that were written before the time, and gives their number.
func (db *DB) PruneEvents(ctx context.Context, before time.Time) (int64, error) {
	return db.exec(ctx, "event", "", "DELETE FROM `events` WHERE `created_at` < ?", stamp(before))
}
