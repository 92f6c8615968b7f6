package bus

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// publisher is one channel in confirm mode. Returns of mandatory messages come before their confirms, so that
// whoever waits for a confirm finds its return in the channel's buffer.
type publisher struct {
	ch      *amqp.Channel
	returns chan amqp.Return
	seen    map[string]bool // ids of messages that came back; guarded by Rabbit.pubMu
}

// Publish implements Bus: persistent, and confirmed by the broker before it returns.
func (r *Rabbit) Publish(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PublishTimeout)
	defer cancel()
	if m.Mandatory && m.ID == "" {
		m.ID = uuid.NewString()
	}
	// A broker that is frozen holds calls of the library, which know no context, until its heartbeats are missed.
	result := make(chan error, 1)
	go func() { result <- r.publish(ctx, m) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		select {
		case err := <-result:
			return err
		case <-time.After(20 * time.Millisecond): // the better reason may be on its way
			return unavailable(ctx.Err(), "RabbitMQ did not take the message in time")
		}
	}
}

func (r *Rabbit) publish(ctx context.Context, m Message) error {
	if _, err := r.connection(ctx); err != nil {
		return err
	}
	if err := r.Health(); err != nil { // blocked: the message would wait in the socket
		return err
	}
	p, err := r.publisher(ctx)
	if err != nil {
		return err
	}
	confirm, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, m.Exchange, m.Key, m.Mandatory, false, amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent,
		MessageId: m.ID, Headers: m.Headers, Timestamp: time.Now().UTC(), Body: m.Body,
	})
	if err != nil {
		r.drop(p)
		return unavailable(err, "RabbitMQ did not take the message")
	}
	acked, err := confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return unavailable(err, "RabbitMQ did not confirm the message in time")
	case !acked:
		r.drop(p)
		return unavailable(errors.New("not confirmed"), "RabbitMQ did not take the message")
	case m.Mandatory && r.cameBack(p, m.ID):
		return unroutable(m)
	}
	return nil
}

// publisher gives the channel that all publishers share, opened again where it is closed.
func (r *Rabbit) publisher(ctx context.Context) (*publisher, error) {
	r.pubMu.Lock()
	defer r.pubMu.Unlock()
	if r.pub != nil && !r.pub.ch.IsClosed() {
		return r.pub, nil
	}
	conn, err := r.connection(ctx)
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		return nil, unavailable(err, "RabbitMQ gives no channel")
	}
	r.pub = &publisher{ch: ch, returns: ch.NotifyReturn(make(chan amqp.Return, 1024)), seen: map[string]bool{}}
	return r.pub, nil
}

// drop forgets a channel that failed.
func (r *Rabbit) drop(p *publisher) {
	r.pubMu.Lock()
	defer r.pubMu.Unlock()
	if r.pub == p {
		r.pub = nil
	}
	if err := ignoreClosed(p.ch.Close()); err != nil {
		r.cfg.Log.WithError(err).Debug("closing a channel")
	}
}

// cameBack tells whether the message of that id was returned as unroutable.
func (r *Rabbit) cameBack(p *publisher, id string) bool {
	r.pubMu.Lock()
	defer r.pubMu.Unlock()
	for {
		select {
		case ret, ok := <-p.returns:
			if ok {
				p.seen[ret.MessageId] = true
				continue
			}
		default:
		}
		break
	}
	back := p.seen[id]
	delete(p.seen, id)
	return back
}
