package bus

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Local is a bus inside one process, for the embedded default and for tests. It keeps queues in memory for as
// long as it lives, with the same routing, retries and dead letters as Rabbit.
type Local struct {
	log    logrus.FieldLogger
	mu     sync.Mutex
	queues map[string]*localQueue
	wakers map[*localWaker]struct{}
	closed chan struct{}
	once   sync.Once
}

type localQueue struct {
	bindings []Binding
	waiting  []Delivery
	more     chan struct{} // holds one token while messages wait
}

type localWaker struct {
	keys []string
	ch   chan struct{}
}

// NewLocal makes an empty bus.
func NewLocal(log logrus.FieldLogger) *Local {
	return &Local{log: log, queues: map[string]*localQueue{}, wakers: map[*localWaker]struct{}{}, closed: make(chan struct{})}
}

// Publish implements Bus.
func (l *Local) Publish(ctx context.Context, m Message) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err, "the message was not sent in time")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.Health(); err != nil {
		return err
	}
	taken := l.route(Delivery{Exchange: m.Exchange, Key: m.Key, Body: slices.Clone(m.Body), Headers: m.Headers, ID: m.ID})
	if !taken && m.Mandatory {
		return unroutable(m)
	}
	return nil
}

func unroutable(m Message) error {
	return errs.New(errs.NotFound, "kiln.bus.unroutable", "no queue takes messages with key %s of exchange %q", m.Key, m.Exchange)
}

func (l *Local) route(d Delivery) (taken bool) {
	for name, q := range l.queues {
		if q.takes(name, d) {
			q.push(d, false)
			taken = true
		}
	}
	if d.Exchange == Exchange {
		for w := range l.wakers {
			if slices.Contains(w.keys, d.Key) {
				signal(w.ch)
				taken = true
			}
		}
	}
	return taken
}

func (q *localQueue) takes(name string, d Delivery) bool {
	if d.Exchange == "" {
		return name == d.Key
	}
	return slices.ContainsFunc(q.bindings, func(b Binding) bool { return b.Exchange == d.Exchange && matches(b.Key, d.Key) })
}

func (q *localQueue) push(d Delivery, front bool) {
	if front {
		q.waiting = slices.Insert(q.waiting, 0, d)
	} else {
		q.waiting = append(q.waiting, d)
	}
	signal(q.more)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (l *Local) declare(name string, bindings []Binding) *localQueue {
	q := l.queues[name]
	if q == nil {
		q = &localQueue{more: make(chan struct{}, 1)}
		l.queues[name] = q
	}
	for _, b := range bindings {
		if !slices.Contains(q.bindings, b) {
			q.bindings = append(q.bindings, b)
		}
	}
	return q
}

// Consume implements Bus. Every exchange is there, so Passive makes no difference.
func (l *Local) Consume(ctx context.Context, spec ConsumerSpec, h Handler) error {
	if err := spec.defaults(); err != nil {
		return err
	}
	l.mu.Lock()
	q := l.declare(spec.Queue, spec.Bindings)
	l.mu.Unlock()
	for {
		d, ok := l.take(q)
		if !ok {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-l.closed:
				return errClosed
			case <-q.more:
			}
			continue
		}
		if ctx.Err() != nil {
			l.giveBack(q, d)
			return ctx.Err()
		}
		l.handle(ctx, spec, q, d, h)
	}
}

func (l *Local) take(q *localQueue) (Delivery, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(q.waiting) == 0 {
		return Delivery{}, false
	}
	d := q.waiting[0]
	q.waiting = q.waiting[1:]
	if len(q.waiting) > 0 {
		signal(q.more)
	}
	return d, true
}

func (l *Local) giveBack(q *localQueue, d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q.push(d, true)
}

func (l *Local) handle(ctx context.Context, spec ConsumerSpec, q *localQueue, d Delivery, h Handler) {
	d.Attempt++
	err := call(ctx, h, d)
	if err == nil {
		return
	}
	log := l.log.WithError(err).WithFields(logrus.Fields{"queue": spec.Queue, "key": d.Key, "attempt": d.Attempt})
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		d.Attempt--
		l.giveBack(q, d)
	case errs.Is(err, errs.Invalid) || d.Attempt >= spec.MaxAttempts:
		log.Error("a message could not be worked on; it is with the dead letters now")
		l.mu.Lock()
		defer l.mu.Unlock()
		l.declare(spec.Queue+DeadSuffix, nil).push(d, false)
	default:
		log.Warning("a message could not be worked on; trying again")
		pause(ctx, spec.RetryDelay)
		l.giveBack(q, d)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Wake implements Bus.
func (l *Local) Wake(ctx context.Context, queues []job.Queue) (<-chan struct{}, error) {
	w := &localWaker{ch: make(chan struct{}, 1)}
	for _, q := range queues {
		w.keys = append(w.keys, WakeMessage(q).Key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.Health(); err != nil {
		return nil, err
	}
	l.wakers[w] = struct{}{}
	signal(w.ch)
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wakers, w)
	})
	return w.ch, nil
}

// Health implements Bus.
func (l *Local) Health() error {
	select {
	case <-l.closed:
		return errClosed
	default:
		return nil
	}
}

// Close implements Bus.
func (l *Local) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
