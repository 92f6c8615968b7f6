// Package bus carries wake-ups and events: over RabbitMQ between programs, or inside one process.
//
// A message that is lost or repeated may cost time and never work: what matters is in the store, and the relay
// publishes what the store's outbox holds.
package bus

import (
	"context"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Exchange is Kiln's own topic exchange. It is durable.
const Exchange = "kiln"

// NotificationKey is the routing key of Kiln's notifications, as oslo.messaging builds it from topic and priority.
const NotificationKey = "notifications.info"

const wakePrefix = "wake."

// Message is what Publish sends. Exchange "" sends straight to the queue that Key names.
type Message struct {
	Exchange  string
	Key       string
	Body      []byte
	Headers   map[string]any
	ID        string // "" for none
	Mandatory bool   // errs.NotFound where no queue takes it
}

// Delivery is a message that a handler gets. Attempt counts from 1.
type Delivery struct {
	Exchange string
	Key      string
	Body     []byte
	Headers  map[string]any
	ID       string
	Attempt  int
}

// Binding says which messages come into a queue. Key may hold the wildcards of a topic exchange, * and #.
// Passive is for an exchange that belongs to somebody else: it is never declared, and while it is missing the
// binding is tried again from time to time.
type Binding struct {
	Exchange string
	Key      string
	Passive  bool
}

// DeadSuffix is what a queue's name gets for the queue of the messages that its handler could not work on.
const DeadSuffix = ".dead"

// ConsumerSpec is one durable queue with its consumer.
type ConsumerSpec struct {
	Queue       string
	Bindings    []Binding
	Prefetch    int           // 1 where 0; handlers run one after the other
	MaxAttempts int           // 5 where 0; then the message goes to Queue + DeadSuffix
	RetryDelay  time.Duration // pause before a message is given back, 200 ms where 0
}

func (s *ConsumerSpec) defaults() error {
	if s.Queue == "" || strings.HasPrefix(s.Queue, "amq.") {
		return errs.New(errs.Invalid, "kiln.bus.queue", "%q is not a name for a queue", s.Queue)
	}
	s.Prefetch = max(s.Prefetch, 1)
	if s.MaxAttempts < 1 {
		s.MaxAttempts = 5
	}
	if s.RetryDelay <= 0 {
		s.RetryDelay = 200 * time.Millisecond
	}
	return nil
}

// Handler works on one delivery. An error gives the message back for another attempt; an errs.Invalid one sends
// it to the dead letters at once, because trying again cannot help.
type Handler func(ctx context.Context, d Delivery) error

// Bus is RabbitMQ or the process itself. All methods may be called by many goroutines.
type Bus interface {
	// Publish returns when the broker has taken the message over. errs.Unavailable where it could not by the
	// deadline: the message may have been sent or not.
	Publish(ctx context.Context, m Message) error
	// Wake implements job.Waker. It works without a connection too; a wake-up is sent after each connect,
	// because earlier ones may have been missed.
	Wake(ctx context.Context, queues []job.Queue) (<-chan struct{}, error)
	// Consume declares the queue and works on it until ctx ends, over all reconnects. It returns ctx's error, or
	// errs.Invalid for a spec that cannot work.
	Consume(ctx context.Context, spec ConsumerSpec, h Handler) error
	// Health is nil while messages can be sent.
	Health() error
	// Close ends the connection and everything that uses it; repeating it is safe.
	Close() error
}

var (
	_ Bus       = (*Local)(nil)
	_ Bus       = (*Rabbit)(nil)
	_ job.Waker = Bus(nil)
)

const codeUnavailable = "kiln.bus.unavailable"

func unavailable(cause error, format string, args ...any) error {
	return errs.Wrap(cause, errs.Unavailable, codeUnavailable, format, args...).After(5 * time.Second)
}

var errClosed = errs.New(errs.Unavailable, codeUnavailable, "the bus is closed")

// WakeMessage tells the runners of a queue that there is work.
func WakeMessage(queue job.Queue) Message {
	return Message{Exchange: Exchange, Key: wakePrefix + string(queue)}
}

// call runs a handler; a defect in it must not end the consumer.
func call(ctx context.Context, h Handler, d Delivery) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errs.New(errs.Internal, "kiln.bus.panic", "the handler of %s met a defect: %v", d.Key, p)
		}
	}()
	return h(ctx, d)
}

// matches reports whether a topic exchange routes key to a queue bound with pattern
// (https://www.rabbitmq.com/tutorials/tutorial-five-go: * is one word, # is any number of them).
func matches(pattern, key string) bool {
	return matchWords(strings.Split(pattern, "."), strings.Split(key, "."))
}

func matchWords(pattern, key []string) bool {
	if len(pattern) == 0 {
		return len(key) == 0
	}
	if pattern[0] == "#" {
		for i := range len(key) + 1 {
			if matchWords(pattern[1:], key[i:]) {
				return true
			}
		}
		return false
	}
	return len(key) > 0 && (pattern[0] == "*" || pattern[0] == key[0]) && matchWords(pattern[1:], key[1:])
}
