package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// RabbitConfig says where the brokers are. URLs are tried one after the other ("amqp://user:pw@host:5672/vhost").
type RabbitConfig struct {
	URLs           []string
	Name           string        // of the connection, as RabbitMQ's management shows it
	PublishTimeout time.Duration // bound of Publish where the context has no earlier one; 10 s
	Heartbeat      time.Duration // 10 s; a broker that is silent for two of them is gone
	RetryMin       time.Duration // first pause between connects, 200 ms
	RetryMax       time.Duration // last pause between connects, and how often missing exchanges are looked for; 10 s
	Log            logrus.FieldLogger
}

// Rabbit is a bus over RabbitMQ. One supervised connection is made again whenever it breaks, and everything that
// was declared on it is declared again.
type Rabbit struct {
	cfg  RabbitConfig
	ctx  context.Context //nolint:containedctx // the life of the connection, ended by Close
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	conn    *amqp.Connection // nil while there is none
	changed chan struct{}    // closed at each change of conn
	why     error            // why there is none
	blocked string           // the broker's reason for not taking messages now

	pubMu sync.Mutex
	pub   *publisher
}

// NewRabbit starts connecting and returns at once: a broker that is away shows in Health and Publish.
func NewRabbit(cfg RabbitConfig) (*Rabbit, error) {
	if len(cfg.URLs) == 0 {
		return nil, errs.New(errs.Invalid, "kiln.bus.url", "no URL of a RabbitMQ broker is configured")
	}
	for _, u := range cfg.URLs {
		if _, err := amqp.ParseURI(u); err != nil { // the text of the error may hold the password
			return nil, errs.New(errs.Invalid, "kiln.bus.url", "the URL of a RabbitMQ broker cannot be read: it looks like amqp://user:password@host:5672/vhost")
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.PublishTimeout, 10 * time.Second}, {&cfg.Heartbeat, 10 * time.Second}, {&cfg.RetryMin, 200 * time.Millisecond}, {&cfg.RetryMax, 10 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Rabbit{cfg: cfg, ctx: ctx, stop: stop, done: make(chan struct{}), changed: make(chan struct{}), why: errors.New("not connected yet")}
	go r.supervise()
	return r, nil
}

// FromTransportURL reads oslo.messaging's transport_url: "rabbit://user:pw@host:5672,user:pw@host2:5672/vhost".
func FromTransportURL(transport string) ([]string, error) {
	bad := errs.New(errs.Invalid, "kiln.bus.url", "transport_url cannot be read: it looks like rabbit://user:password@host:5672/vhost")
	scheme, rest, ok := strings.Cut(transport, "://")
	scheme, _, _ = strings.Cut(scheme, "+")
	if !ok || (scheme != "rabbit" && scheme != "kombu" && scheme != "amqp") {
		return nil, bad
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, vhost, _ := strings.Cut(rest, "/")
	scheme = "amqp://"
	if q, err := url.ParseQuery(query); err == nil && (q.Get("ssl") == "1" || strings.EqualFold(q.Get("ssl"), "true")) {
		scheme = "amqps://"
	}
	var out []string
	for host := range strings.SplitSeq(hosts, ",") {
		u := scheme + strings.TrimSpace(host) + "/" + vhost
		if vhost == "" {
			u = strings.TrimSuffix(u, "/") // the broker's default vhost
		}
		if _, err := amqp.ParseURI(u); err != nil {
			return nil, bad
		}
		out = append(out, u)
	}
	return out, nil
}

// supervise holds one connection until Close.
func (r *Rabbit) supervise() {
	defer close(r.done)
	wait := r.cfg.RetryMin
	for n := 0; r.ctx.Err() == nil; n++ {
		conn, err := r.dial(r.cfg.URLs[n%len(r.cfg.URLs)])
		if err != nil {
			r.set(nil, err)
			r.cfg.Log.WithError(err).WithField("retry_in", wait.String()).Warning("RabbitMQ is not available")
			pause(r.ctx, wait/2+rand.N(wait/2+1)) //nolint:gosec // jitter
			wait = min(wait*2, r.cfg.RetryMax)
			continue
		}
		wait = r.cfg.RetryMin
		r.cfg.Log.Info("connected to RabbitMQ")
		r.watch(conn)
	}
	r.set(nil, errClosed)
}

func (r *Rabbit) dial(u string) (*amqp.Connection, error) {
	props := amqp.NewConnectionProperties()
	props.SetClientConnectionName(r.cfg.Name)
	conn, err := amqp.DialConfig(u, amqp.Config{Heartbeat: r.cfg.Heartbeat, Dial: amqp.DefaultDial(5 * time.Second), Properties: props, Locale: "en_US"})
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = ch.ExchangeDeclare(Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.Close()
	}
	if err != nil {
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	return conn, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

// watch serves one connection to its end.
func (r *Rabbit) watch(conn *amqp.Connection) {
	gone := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	r.set(conn, nil)
	for {
		select {
		case <-r.ctx.Done():
			if err := ignoreClosed(conn.CloseDeadline(time.Now().Add(3 * time.Second))); err != nil {
				r.cfg.Log.WithError(err).Debug("closing the connection to RabbitMQ")
			}
			return
		case err := <-gone:
			r.set(nil, err)
			r.cfg.Log.WithField("error", err).Warning("the connection to RabbitMQ broke; connecting again")
			return
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			r.setBlocked(b)
		}
	}
}

func (r *Rabbit) setBlocked(b amqp.Blocking) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blocked = ""
	if b.Active {
		r.blocked = b.Reason
		r.cfg.Log.WithField("reason", b.Reason).Warning("RabbitMQ takes no messages for now")
	}
}

func (r *Rabbit) set(conn *amqp.Connection, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.why, r.blocked = conn, why, ""
	close(r.changed)
	r.changed = make(chan struct{})
}

// connection waits for a connection.
func (r *Rabbit) connection(ctx context.Context) (*amqp.Connection, error) {
	for {
		r.mu.Lock()
		conn, changed, why := r.conn, r.changed, r.why
		r.mu.Unlock()
		if conn != nil && !conn.IsClosed() {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, unavailable(errors.Join(ctx.Err(), why), "RabbitMQ is not available")
		case <-r.ctx.Done():
			return nil, errClosed
		case <-time.After(time.Second): // a connection that is closed but not yet seen as such
		}
	}
}

// Health implements Bus.
func (r *Rabbit) Health() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ctx.Err() != nil:
		return errClosed
	case r.conn == nil || r.conn.IsClosed():
		return unavailable(r.why, "RabbitMQ is not available")
	case r.blocked != "":
		return unavailable(nil, "RabbitMQ takes no messages for now: %s", r.blocked)
	}
	return nil
}

// Close implements Bus.
func (r *Rabbit) Close() error {
	r.stop()
	<-r.done
	return nil
}
