package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/bus/bustest"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/testkit/rabbitmq"
)

func publishWithin(t *testing.T, b bus.Bus, d time.Duration, m bus.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	began := time.Now()
	err := b.Publish(ctx, m)
	if took := time.Since(began); took > d+2*time.Second {
		t.Errorf("Publish took %v with a deadline of %v", took, d)
	}
	return err
}

// healthy waits until messages can be sent again.
func healthy(t *testing.T, b bus.Bus) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for b.Health() != nil {
		if time.Now().After(deadline) {
			t.Fatalf("the bus does not come good: %v", b.Health())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestRabbitComesAndGoes: the broker is away at the start, killed in the middle, frozen, and comes back each time.
func TestRabbitComesAndGoes(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real RabbitMQ")
	}
	t.Parallel()
	server := rabbitmq.StartServer(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	b := newRabbit(t, "amqp://kiln:kiln@127.0.0.1:1/", server.URL()) // the first of two brokers never answers
	queue := bus.ConsumerSpec{Queue: "work", Prefetch: 8, MaxAttempts: 20, Bindings: []bus.Binding{{Exchange: bus.Exchange, Key: "work"}}}
	reader := bustest.Read(t, b, queue, nil)
	wake, err := b.Wake(t.Context(), []job.Queue{"worker"})
	if err != nil {
		t.Fatal(err)
	}
	err = publishWithin(t, b, 300*time.Millisecond, bus.Message{Exchange: bus.Exchange, Key: "work"})
	var own *errs.Error
	if !errors.As(err, &own) || own.Kind != errs.Unavailable || own.RetryAfter == 0 || !errs.Is(b.Health(), errs.Unavailable) {
		t.Fatalf("broker away at start: publish %v, health %v", err, b.Health())
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	healthy(t, b)
	awaitSignal(t, wake)
	bustest.Ready(t, b, bus.Exchange, "work")

	confirmed := publishThroughKill(t, b, server)
	seen := map[string]bool{}
	for deadline := time.After(time.Minute); !all(seen, confirmed); {
		select {
		case d := <-reader.Got:
			seen[string(d.Body)] = true
		case <-deadline:
			t.Fatalf("of %d confirmed messages %d came", len(confirmed), len(seen))
		}
	}
	awaitSignal(t, wake) // after the reconnect

	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	err = publishWithin(t, b, 500*time.Millisecond, bus.Message{Exchange: bus.Exchange, Key: "work", Body: []byte("frozen")})
	if !errs.Is(err, errs.Unavailable) {
		t.Fatalf("frozen broker: %v", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for b.Health() == nil { // heartbeats are missed
		if time.Now().After(deadline) {
			t.Fatal("a frozen broker is thought healthy")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	healthy(t, b)
	bustest.Ready(t, b, bus.Exchange, "work")
}

func all(seen map[string]bool, want []string) bool {
	for _, w := range want {
		if !seen[w] {
			return false
		}
	}
	return true
}

func awaitSignal(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatal("no wake-up")
	}
}

// publishThroughKill sends messages while the broker is killed and started again, and gives those that were confirmed.
func publishThroughKill(t *testing.T, b bus.Bus, server *rabbitmq.Server) []string {
	t.Helper()
	var mu sync.Mutex
	var confirmed []string
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for p := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf("%d-%d", p, i)
				err := publishWithin(t, b, 2*time.Second, bus.Message{Exchange: bus.Exchange, Key: "work", Body: []byte(body)})
				if err == nil {
					mu.Lock()
					confirmed = append(confirmed, body)
					mu.Unlock()
				} else if !errs.Is(err, errs.Unavailable) {
					t.Errorf("publish: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	// RabbitMQ 3.10 writes a new quorum queue's term to its disk after some seconds only. A broker that is killed
	// before that comes back with a queue that never finds a leader (rabbitmq-server issue 10070).
	time.Sleep(8 * time.Second)
	mu.Lock()
	before := len(confirmed)
	mu.Unlock()
	err := errors.Join(server.Kill(), server.Start())
	healthy(t, b)
	bustest.Ready(t, b, bus.Exchange, "work")
	time.Sleep(300 * time.Millisecond)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if before == 0 || len(confirmed) <= before {
		t.Fatalf("%d messages were confirmed before the kill and %d after it", before, len(confirmed)-before)
	}
	return confirmed
}

// TestRabbitForeignExchange: Nova's exchange is not durable, not ours to declare, and may come later and go.
func TestRabbitForeignExchange(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real RabbitMQ")
	}
	t.Parallel()
	url := rabbitmq.New(t)
	b := newRabbit(t, url)
	foreign, queue := fmt.Sprintf("nova-%d", time.Now().UnixNano()), fmt.Sprintf("listener-%d", time.Now().UnixNano())
	reader := bustest.Read(t, b, bus.ConsumerSpec{Queue: queue, Bindings: []bus.Binding{
		{Exchange: foreign, Key: "versioned_notifications.*", Passive: true},
		{Exchange: bus.Exchange, Key: queue},
	}}, nil)
	bustest.Ready(t, b, bus.Exchange, queue) // the binding that can be made works meanwhile
	reader.Next(t)

	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := ch.ExchangeDeclare(foreign, amqp.ExchangeTopic, false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		bustest.Ready(t, b, foreign, "versioned_notifications.info")
		if d := reader.Next(t); d.Exchange != foreign {
			t.Fatalf("%+v", d)
		}
		// Its owner makes it anew: the binding went with it.
		if err := ch.ExchangeDelete(foreign, false, false); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRabbitQueueDiffers: a queue that somebody declared in another way is a clear error, not a loop.
func TestRabbitQueueDiffers(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real RabbitMQ")
	}
	t.Parallel()
	url := rabbitmq.New(t)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("classic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	err = newRabbit(t, url).Consume(t.Context(), bus.ConsumerSpec{Queue: "classic"}, func(context.Context, bus.Delivery) error { return nil })
	if errs.CodeOf(err) != "kiln.bus.queue_differs" {
		t.Fatalf("%v", err)
	}
}

func TestTransportURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"rabbit://kiln:p%40ss@127.0.0.1:5672/":       {"amqp://kiln:p%40ss@127.0.0.1:5672"},
		"rabbit://a:b@h1:5672,a:b@h2:5673//kiln":     {"amqp://a:b@h1:5672//kiln", "amqp://a:b@h2:5673//kiln"},
		"rabbit://a:b@h1/v?ssl=1":                    {"amqps://a:b@h1/v"},
		"kombu+rabbit://a:b@[::1]:5672/v?heartbeat=": {"amqp://a:b@[::1]:5672/v"},
	} {
		got, err := bus.FromTransportURL(in)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "fake://", "rabbit://a:b@h:port/", "kafka://h"} {
		if got, err := bus.FromTransportURL(in); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	if _, err := bus.NewRabbit(bus.RabbitConfig{}); !errs.Is(err, errs.Invalid) {
		t.Errorf("no URL: %v", err)
	}
}
