package bus

import (
	"context"
	"errors"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Consume implements Bus with a quorum queue, https://www.rabbitmq.com/docs/quorum-queues. The broker counts the
// attempts, also those that ended with the consumer's death, and moves the message to the dead letters.
func (r *Rabbit) Consume(ctx context.Context, spec ConsumerSpec, h Handler) error {
	if err := spec.defaults(); err != nil {
		return err
	}
	log := r.cfg.Log.WithField("queue", spec.Queue)
	return r.hold(ctx, log, func(ctx context.Context, conn *amqp.Connection) error {
		return r.consumeOn(ctx, conn, spec, h, log)
	})
}

// hold runs session on each connection in turn until ctx or the bus ends.
func (r *Rabbit) hold(ctx context.Context, log logrus.FieldLogger, session func(context.Context, *amqp.Connection) error) error {
	for {
		conn, err := r.connection(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		err = session(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case r.ctx.Err() != nil:
			return errClosed
		case errs.Is(err, errs.Invalid):
			return err
		case err != nil:
			log.WithError(err).Warning("a consumer stopped; starting it again")
		}
		pause(ctx, r.cfg.RetryMin)
	}
}

func (r *Rabbit) consumeOn(ctx context.Context, conn *amqp.Connection, spec ConsumerSpec, h Handler, log logrus.FieldLogger) error {
	c, err := bounded(ctx, r.cfg.PublishTimeout, func() (consumer, error) { return r.setUp(conn, spec, log) },
		func(late consumer) { closeChannel(late.ch, log) }) // or it would keep messages that nobody works on
	if err != nil {
		return err
	}
	defer closeChannel(c.ch, log)
	missing := c.missing
	again := time.NewTicker(r.cfg.RetryMax)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C: // also those that were there: their owner may have made the exchange anew
			if missing, err = r.rebind(conn, spec, missing, log); err != nil {
				return err
			}
		case d, ok := <-c.deliveries:
			if !ok {
				if reason := <-c.gone; reason != nil {
					return reason
				}
				return amqp.ErrClosed
			}
			if err := work(ctx, spec, d, h, log); err != nil {
				return err
			}
		}
	}
}

// consumer is what one session of Consume holds.
type consumer struct {
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	gone       chan *amqp.Error
	missing    int
}

func (r *Rabbit) setUp(conn *amqp.Connection, spec ConsumerSpec, log logrus.FieldLogger) (c consumer, err error) {
	if c.ch, err = conn.Channel(); err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			closeChannel(c.ch, log)
		}
	}()
	if err = declareQueues(c.ch, spec); err != nil {
		return c, err
	}
	if c.missing, err = r.bind(conn, spec, log); err != nil {
		return c, err
	}
	if err = c.ch.Qos(spec.Prefetch, 0, false); err != nil {
		return c, err
	}
	c.gone = c.ch.NotifyClose(make(chan *amqp.Error, 1))
	c.deliveries, err = c.ch.Consume(spec.Queue, "", false, false, false, false, nil)
	return c, err
}

// bounded waits for calls of the library, which know no context: a quorum queue without a leader never answers.
// What a call brings that was left behind goes to late.
func bounded[T any](ctx context.Context, d time.Duration, f func() (T, error), late func(T)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		v, err := f()
		answers <- answer{v, err}
	}()
	var err error
	select {
	case a := <-answers:
		return a.v, a.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(d):
		err = unavailable(context.DeadlineExceeded, "RabbitMQ does not answer")
	}
	go func() {
		if a := <-answers; a.err == nil {
			late(a.v)
		}
	}()
	var none T
	return none, err
}

func closeChannel(ch *amqp.Channel, log logrus.FieldLogger) {
	_, err := bounded(context.Background(), 3*time.Second, func() (struct{}, error) { return struct{}{}, ch.Close() }, func(struct{}) {})
	if ignoreClosed(err) != nil {
		log.WithError(err).Debug("closing a channel")
	}
}

// declareQueues makes the queue and that of its dead letters. A queue of dead letters has none of its own.
func declareQueues(ch *amqp.Channel, spec ConsumerSpec) error {
	dead := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	if strings.HasSuffix(spec.Queue, DeadSuffix) {
		return declare(ch, spec.Queue, dead)
	}
	if err := declare(ch, spec.Queue+DeadSuffix, dead); err != nil {
		return err
	}
	return declare(ch, spec.Queue, amqp.Table{
		amqp.QueueTypeArg:           amqp.QueueTypeQuorum,
		"x-delivery-limit":          int64(spec.MaxAttempts - 1), // counts what comes after the first delivery
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": spec.Queue + DeadSuffix,
	})
}

func declare(ch *amqp.Channel, name string, args amqp.Table) error {
	_, err := ch.QueueDeclare(name, true, false, false, false, args)
	var reason *amqp.Error
	if errors.As(err, &reason) && reason.Code == amqp.PreconditionFailed {
		return errs.Wrap(err, errs.Invalid, "kiln.bus.queue_differs", "queue %s exists with other arguments: delete it and start again", name)
	}
	return err
}

// bind makes the bindings; missing counts those whose foreign exchange is not there yet.
func (r *Rabbit) bind(conn *amqp.Connection, spec ConsumerSpec, log logrus.FieldLogger) (missing int, err error) {
	for _, b := range spec.Bindings {
		err := bindOne(conn, spec.Queue, b)
		var reason *amqp.Error
		switch {
		case err == nil:
		case b.Passive && errors.As(err, &reason) && reason.Code == amqp.NotFound:
			missing++
		default:
			return missing, err
		}
	}
	if missing > 0 {
		log.WithField("missing", missing).Warning("an exchange whose messages are wanted does not exist yet; looking again from time to time")
	}
	return missing, nil
}

func (r *Rabbit) rebind(conn *amqp.Connection, spec ConsumerSpec, missing int, log logrus.FieldLogger) (int, error) {
	quiet := silentAs(log, missing)
	now, err := r.bind(conn, spec, quiet)
	if err == nil && now < missing {
		log.WithField("missing", now).Info("an exchange that was missing is there now")
	}
	return now, err
}

// silentAs keeps the warning about missing exchanges to one for each time that they go missing.
func silentAs(log logrus.FieldLogger, missing int) logrus.FieldLogger {
	if missing == 0 {
		return log
	}
	quiet := logrus.New()
	quiet.SetLevel(logrus.PanicLevel)
	return quiet
}

// bindOne uses a channel of its own: the broker closes the channel of a declaration that it refuses.
func bindOne(conn *amqp.Connection, queue string, b Binding) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if b.Passive {
		err = ch.ExchangeDeclarePassive(b.Exchange, amqp.ExchangeTopic, false, false, false, false, nil)
	} else {
		err = ch.ExchangeDeclare(b.Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(queue, b.Key, b.Exchange, false, nil)
	}
	if cerr := ignoreClosed(ch.Close()); err == nil {
		err = cerr
	}
	return err
}

// work gives one delivery to the handler and answers the broker.
func work(ctx context.Context, spec ConsumerSpec, d amqp.Delivery, h Handler, log logrus.FieldLogger) error {
	attempt := 1
	if n, ok := d.Headers["x-delivery-count"].(int64); ok {
		attempt += int(n)
	}
	err := call(ctx, h, Delivery{Exchange: d.Exchange, Key: d.RoutingKey, Body: d.Body, Headers: d.Headers, ID: d.MessageId, Attempt: attempt})
	if err == nil {
		return d.Ack(false)
	}
	log = log.WithError(err).WithFields(logrus.Fields{"key": d.RoutingKey, "attempt": attempt})
	switch {
	case errs.Is(err, errs.Invalid):
		log.Error("a message could not be worked on; it is with the dead letters now")
		return d.Nack(false, false)
	case ctx.Err() != nil:
		return d.Nack(false, true)
	case attempt >= spec.MaxAttempts:
		log.Error("a message could not be worked on; it is with the dead letters now")
	default:
		log.Warning("a message could not be worked on; trying again")
		pause(ctx, spec.RetryDelay)
	}
	return d.Nack(false, true)
}

// Wake implements Bus. Each call has an exclusive queue that ends with the connection; wake-ups that nobody
// listens to are worth nothing, so nothing of this is durable.
func (r *Rabbit) Wake(ctx context.Context, queues []job.Queue) (<-chan struct{}, error) {
	if r.ctx.Err() != nil {
		return nil, errClosed
	}
	ch := make(chan struct{}, 1)
	log := r.cfg.Log.WithField("wake", len(queues))
	go func() {
		err := r.hold(ctx, log, func(ctx context.Context, conn *amqp.Connection) error { return r.wakeOn(ctx, conn, queues, ch) })
		log.WithError(err).Debug("no longer listening to wake-ups")
	}()
	return ch, nil
}

func (r *Rabbit) wakeOn(ctx context.Context, conn *amqp.Connection, queues []job.Queue, wake chan struct{}) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer closeChannel(ch, r.cfg.Log)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return err
	}
	for _, name := range queues {
		if err := ch.QueueBind(q.Name, WakeMessage(name).Key, Exchange, false, nil); err != nil {
			return err
		}
	}
	deliveries, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		return err
	}
	signal(wake)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-deliveries:
			if !ok {
				return amqp.ErrClosed
			}
			signal(wake)
		}
	}
}
