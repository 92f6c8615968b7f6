package bus

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// The topics of the outbox that the relay knows; store writes them.
const (
	topicWake  = "kiln.wake"  // Key is a job.Queue
	topicEvent = "kiln.event" // Body is an event.Event as JSON
)

// OutboxRow is one message that waits. It is an alias of a plain struct, so that the store and the bus, which
// stand on one floor, need not import each other.
type OutboxRow = struct {
	ID        int64
	Topic     string
	Key       string
	Body      string
	CreatedAt time.Time
}

// Outbox is what the relay needs of the store; see store.Outbox for what each method promises.
type Outbox interface {
	NextOutbox(ctx context.Context, limit int) ([]OutboxRow, error)
	MarkPublished(ctx context.Context, ids []int64) error
	ReturnOutbox(ctx context.Context, ids []int64) error
	PruneOutbox(ctx context.Context, before time.Time) (int64, error)
	OutboxChanged() <-chan struct{}
}

// Relay publishes what the outbox holds: job wake-ups as wake.<queue>, events as notifications in oslo.messaging's
// envelope. Each message is sent at least once; a repeated one has the same message_id. Many relays may run.
type Relay struct {
	Outbox    Outbox
	Bus       Bus
	Log       logrus.FieldLogger
	Every     time.Duration // how often it looks without being told; 1 s
	Keep      time.Duration // how long published rows stay for people to see; 1 h
	Publisher string        // publisher_id of the notifications: "kiln.<host>"
	Now       func() time.Time

	failing bool
	pruned  time.Time
}

const relayBatch = 100

// Serve works until ctx ends, and returns its error.
func (r *Relay) Serve(ctx context.Context) error {
	if r.Every <= 0 {
		r.Every = time.Second
	}
	if r.Keep <= 0 {
		r.Keep = time.Hour
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Publisher == "" {
		r.Publisher = "kiln"
	}
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	for {
		err := r.drain(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.tell(err)
		var changed <-chan struct{} // after a fault not at once again: the broker or the database is away
		if err == nil {
			changed = r.Outbox.OutboxChanged()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

// tell logs a fault when it begins and when it ends, not each second.
func (r *Relay) tell(err error) {
	switch {
	case err != nil && !r.failing:
		r.Log.WithError(err).Warning("messages wait in the outbox; trying again")
	case err == nil && r.failing:
		r.Log.Info("the messages of the outbox are published again")
	}
	r.failing = err != nil
}

// drain publishes until the outbox is empty.
func (r *Relay) drain(ctx context.Context) error {
	for {
		rows, err := r.Outbox.NextOutbox(ctx, relayBatch)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return r.prune(ctx)
		}
		if err := r.publish(ctx, rows); err != nil {
			return err
		}
	}
}

func (r *Relay) publish(ctx context.Context, rows []OutboxRow) error {
	var sent, left []int64
	var failed error
	woken := map[string]bool{}
	for _, row := range rows {
		if failed != nil {
			left = append(left, row.ID)
			continue
		}
		if row.Topic == topicWake && woken[row.Key] { // one wake-up is as good as many
			sent = append(sent, row.ID)
			continue
		}
		err := r.send(ctx, row)
		if errs.Is(err, errs.Invalid) {
			r.Log.WithError(err).WithField("outbox", row.ID).Error("a row of the outbox cannot be sent; leaving it out")
			err = nil
		}
		if err != nil {
			failed, left = err, append(left, row.ID)
			continue
		}
		woken[row.Key] = row.Topic == topicWake
		sent = append(sent, row.ID)
	}
	// The program may be stopping: what was sent is still marked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := r.Outbox.MarkPublished(ctx, sent); err != nil && failed == nil {
		failed = err
	}
	if err := r.Outbox.ReturnOutbox(ctx, left); err != nil && failed == nil {
		failed = err
	}
	return failed
}

func (r *Relay) send(ctx context.Context, row OutboxRow) error {
	switch row.Topic {
	case topicWake:
		return r.Bus.Publish(ctx, WakeMessage(job.Queue(row.Key)))
	case topicEvent:
		m, err := r.notification(row)
		if err != nil {
			return err
		}
		return r.Bus.Publish(ctx, m)
	}
	return errs.New(errs.Invalid, "kiln.bus.topic", "the outbox has a row of the unknown topic %q", row.Topic)
}

func (r *Relay) notification(row OutboxRow) (Message, error) {
	var e event.Event
	if err := json.Unmarshal([]byte(row.Body), &e); err != nil {
		return Message{}, errs.Wrap(err, errs.Invalid, "kiln.bus.event", "an event in the outbox cannot be read")
	}
	// The same event has the same id, whichever relay sends it and however often.
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("kiln event "+row.Body)).String()
	body, err := Envelope(Notification{
		MessageID: id, PublisherID: r.Publisher, EventType: e.Type, Priority: "INFO", Payload: json.RawMessage(row.Body),
		Timestamp: Stamp(e.CreatedAt), UniqueID: id, RequestID: e.RequestID, ProjectID: e.ProjectID,
	})
	return Message{Exchange: Exchange, Key: NotificationKey, Body: body, ID: id}, err
}

func (r *Relay) prune(ctx context.Context) error {
	now := r.Now()
	if now.Sub(r.pruned) < r.Keep/10 {
		return nil
	}
	r.pruned = now
	_, err := r.Outbox.PruneOutbox(ctx, now.Add(-r.Keep))
	return err
}
