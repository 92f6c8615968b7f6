// Package bustest is the contract of the bus: the one inside the process and RabbitMQ pass it.
package bustest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// patience is how long a message may take in a test on a busy machine.
const patience = 30 * time.Second

// Run holds a bus against the contract. open gives a bus for each call; several may share one broker.
func Run(t *testing.T, open func(t *testing.T) bus.Bus) {
	for name, test := range map[string]func(*testing.T, bus.Bus){
		"Deliver":        testDeliver,
		"Wildcards":      testWildcards,
		"KeptUntilRead":  testKept,
		"Retry":          testRetry,
		"DeadLetters":    testDeadLetters,
		"Panic":          testPanic,
		"GivenBack":      testGivenBack,
		"Share":          testShare,
		"Wake":           testWake,
		"Mandatory":      testMandatory,
		"ConsumeTwice":   testConsumeTwice,
		"RefusesNames":   testRefusesNames,
		"ContextIsOver":  testContextIsOver,
		"Closed":         testClosed,
		"ManyPublishers": testManyPublishers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, b)
		})
	}
}

// unique is a name that no other test uses.
func unique(prefix string) string { return prefix + "-" + uuid.NewString()[:8] }

// Reader runs a consumer and hands out what it got.
type Reader struct {
	Got  chan bus.Delivery
	stop context.CancelFunc
	end  chan error
}

// Read starts a consumer whose handler takes every message; answer may refuse them.
func Read(t *testing.T, b bus.Bus, spec bus.ConsumerSpec, answer func(context.Context, bus.Delivery) error) *Reader {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &Reader{Got: make(chan bus.Delivery, 1000), stop: stop, end: make(chan error, 1)}
	go func() {
		r.end <- b.Consume(ctx, spec, func(ctx context.Context, d bus.Delivery) error {
			r.Got <- d
			if answer == nil {
				return nil
			}
			return answer(ctx, d)
		})
	}()
	t.Cleanup(func() { r.Stop(t) })
	return r
}

// Stop ends the consumer and waits for it.
func (r *Reader) Stop(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err := <-r.end:
		r.end <- err
		if !errors.Is(err, context.Canceled) && !errs.Is(err, errs.Unavailable) {
			t.Errorf("Consume returned %v", err)
		}
	case <-time.After(patience):
		t.Error("Consume does not return after its context ended")
	}
}

// Next waits for one message.
func (r *Reader) Next(t *testing.T) bus.Delivery {
	t.Helper()
	select {
	case d := <-r.Got:
		return d
	case <-time.After(patience):
		t.Fatal("no message came")
		return bus.Delivery{}
	}
}

// None checks that nothing comes for a moment.
func (r *Reader) None(t *testing.T) {
	t.Helper()
	select {
	case d := <-r.Got:
		t.Fatalf("unexpected message %s %q (attempt %d)", d.Key, d.Body, d.Attempt)
	case <-time.After(300 * time.Millisecond):
	}
}

// Ready waits until messages with the key reach a queue.
func Ready(t *testing.T, b bus.Bus, exchange, key string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := b.Publish(t.Context(), bus.Message{Exchange: exchange, Key: key, Body: []byte("ready?"), ID: "ready", Mandatory: true})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no queue takes %s: %v", key, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// started reads from a queue and waits until it is bound; the message of that is read away.
func started(t *testing.T, b bus.Bus, spec bus.ConsumerSpec, key string, answer func(context.Context, bus.Delivery) error) *Reader {
	t.Helper()
	r := Read(t, b, spec, func(ctx context.Context, d bus.Delivery) error {
		if d.ID == "ready" || answer == nil {
			return nil
		}
		return answer(ctx, d)
	})
	Ready(t, b, bus.Exchange, key)
	r.Next(t)
	return r
}

func publish(t *testing.T, b bus.Bus, key, body string) {
	t.Helper()
	if err := b.Publish(t.Context(), bus.Message{Exchange: bus.Exchange, Key: key, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func spec(queue string, keys ...string) bus.ConsumerSpec {
	s := bus.ConsumerSpec{Queue: queue, Prefetch: 4, MaxAttempts: 3, RetryDelay: 10 * time.Millisecond}
	for _, k := range keys {
		s.Bindings = append(s.Bindings, bus.Binding{Exchange: bus.Exchange, Key: k})
	}
	return s
}

func testDeliver(t *testing.T, b bus.Bus) {
	q := unique("deliver")
	r := started(t, b, spec(q, q+".a"), q+".a", nil)
	err := b.Publish(t.Context(), bus.Message{Exchange: bus.Exchange, Key: q + ".a", Body: []byte(`{"x":1}`), Headers: map[string]any{"h": "v"}, ID: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, q+".other", "not for us")
	d := r.Next(t)
	if d.Exchange != bus.Exchange || d.Key != q+".a" || string(d.Body) != `{"x":1}` || d.ID != "m1" || d.Attempt != 1 || d.Headers["h"] != "v" {
		t.Fatalf("%+v", d)
	}
	for i := range 20 { // in order
		publish(t, b, q+".a", strconv.Itoa(i))
	}
	for i := range 20 {
		if d := r.Next(t); string(d.Body) != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, d.Body)
		}
	}
	r.None(t)
	if err := b.Health(); err != nil {
		t.Fatal(err)
	}
}

func testWildcards(t *testing.T, b bus.Bus) {
	q := unique("wild")
	r := started(t, b, spec(q, q+".*.x", q+".all.#"), q+".all", nil)
	for key, want := range map[string]bool{q + ".1.x": true, q + ".1.2.x": false, q + ".x": false, q + ".all.1.2": true, q + ".1.y": false} {
		publish(t, b, key, key)
		if want {
			if d := r.Next(t); d.Key != key {
				t.Fatalf("got %s for %s", d.Key, key)
			}
		} else {
			r.None(t)
		}
	}
}

// testKept: a queue that was declared once takes messages while nobody reads.
func testKept(t *testing.T, b bus.Bus) {
	q := unique("kept")
	r := started(t, b, spec(q, q), q, nil)
	r.Stop(t)
	for i := range 3 {
		publish(t, b, q, strconv.Itoa(i))
	}
	again := Read(t, b, spec(q, q), nil)
	for i := range 3 {
		if d := again.Next(t); string(d.Body) != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, d.Body)
		}
	}
}

func testRetry(t *testing.T, b bus.Bus) {
	q := unique("retry")
	r := started(t, b, spec(q, q), q, func(_ context.Context, d bus.Delivery) error {
		if d.Attempt < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	publish(t, b, q, "m")
	for attempt := 1; attempt <= 3; attempt++ {
		if d := r.Next(t); d.Attempt != attempt || string(d.Body) != "m" {
			t.Fatalf("attempt %d: %+v", attempt, d)
		}
	}
	r.None(t)
}

func testDeadLetters(t *testing.T, b bus.Bus) {
	q := unique("poison")
	r := started(t, b, spec(q, q), q, func(_ context.Context, d bus.Delivery) error {
		switch string(d.Body) {
		case "poison":
			return errors.New("always")
		case "nonsense":
			return errs.New(errs.Invalid, "kiln.test.body", "cannot be read")
		}
		return nil
	})
	publish(t, b, q, "poison")
	for attempt := 1; attempt <= 3; attempt++ {
		if d := r.Next(t); d.Attempt != attempt {
			t.Fatalf("attempt %d: %+v", attempt, d)
		}
	}
	r.None(t)
	publish(t, b, q, "nonsense")
	r.Next(t)
	publish(t, b, q, "good") // the queue is not held up
	if d := r.Next(t); string(d.Body) != "good" {
		t.Fatalf("%+v", d)
	}
	dead := Read(t, b, bus.ConsumerSpec{Queue: q + bus.DeadSuffix}, nil)
	for _, want := range []string{"poison", "nonsense"} {
		if d := dead.Next(t); string(d.Body) != want {
			t.Fatalf("dead letter %q, want %q", d.Body, want)
		}
	}
	dead.None(t)
}

func testPanic(t *testing.T, b bus.Bus) {
	q := unique("panic")
	r := started(t, b, spec(q, q), q, func(_ context.Context, d bus.Delivery) error {
		if d.Attempt == 1 {
			panic("a defect")
		}
		return nil
	})
	publish(t, b, q, "m")
	r.Next(t)
	if d := r.Next(t); d.Attempt != 2 {
		t.Fatalf("%+v", d)
	}
}

// testGivenBack: a consumer that stops in the middle of its work loses nothing.
func testGivenBack(t *testing.T, b bus.Bus) {
	q := unique("stop")
	r := started(t, b, spec(q, q), q, func(ctx context.Context, _ bus.Delivery) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for i := range 5 {
		publish(t, b, q, strconv.Itoa(i))
	}
	r.Next(t)
	r.Stop(t)
	again := Read(t, b, spec(q, q), nil)
	got := map[string]bool{}
	for range 5 {
		got[string(again.Next(t).Body)] = true
	}
	if len(got) != 5 {
		t.Fatalf("got %v", got)
	}
}

func testShare(t *testing.T, b bus.Bus) {
	const n = 60
	q := unique("share")
	var mu sync.Mutex
	seen := map[string]int{}
	all := make(chan struct{})
	h := func(_ context.Context, d bus.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if d.ID == "ready" {
			return nil
		}
		if seen[string(d.Body)]++; len(seen) == n {
			close(all)
		}
		return nil
	}
	started(t, b, spec(q, q), q, h)
	Read(t, b, spec(q, q), h)
	for i := range n {
		publish(t, b, q, strconv.Itoa(i))
	}
	select {
	case <-all:
	case <-time.After(patience):
		t.Fatalf("%d of %d messages came", len(seen), n)
	}
	mu.Lock()
	defer mu.Unlock()
	for body, times := range seen {
		if times != 1 {
			t.Fatalf("message %s was worked on %d times", body, times)
		}
	}
}

func awaitWake(t *testing.T, wake <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-wake:
	case <-time.After(patience):
		t.Fatalf("no wake-up: %s", what)
	}
}

func testWake(t *testing.T, b bus.Bus) {
	mine, other := job.NodeQueue(unique("node")), job.ClusterQueue(unique("a"))
	ctx, cancel := context.WithCancel(t.Context())
	one, err := b.Wake(ctx, []job.Queue{mine, other})
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Wake(ctx, []job.Queue{mine})
	if err != nil {
		t.Fatal(err)
	}
	awaitWake(t, one, "after the connect")
	awaitWake(t, two, "after the connect")
	send := func(q job.Queue) {
		t.Helper()
		if err := b.Publish(t.Context(), bus.WakeMessage(q)); err != nil {
			t.Fatal(err)
		}
	}
	send(mine)
	awaitWake(t, one, "first of two")
	awaitWake(t, two, "second of two")
	send(other)
	awaitWake(t, one, "second queue")
	send(job.WorkerQueue + "-nobody")
	select {
	case <-two:
		t.Fatal("woken for another's queue")
	case <-time.After(300 * time.Millisecond):
	}
	for range 50 { // nobody reads: publishing is not held up
		send(mine)
	}
	cancel()
	deadline := time.Now().Add(patience)
	for {
		m := bus.WakeMessage(mine)
		m.Mandatory = true
		if err := b.Publish(t.Context(), m); errs.Is(err, errs.NotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the subscription outlives its context")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func testMandatory(t *testing.T, b bus.Bus) {
	q := unique("mandatory")
	m := bus.Message{Exchange: bus.Exchange, Key: q, Mandatory: true}
	for range 3 {
		if err := b.Publish(t.Context(), m); errs.CodeOf(err) != "kiln.bus.unroutable" {
			t.Fatalf("no queue: %v", err)
		}
	}
	r := started(t, b, spec(q, q), q, nil)
	if err := b.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	r.Next(t)
	m.Exchange = "" // straight to the queue
	if err := b.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if d := r.Next(t); d.Exchange != "" || d.Key != q {
		t.Fatalf("%+v", d)
	}
}

// testConsumeTwice: declaring what exists, with one more binding, keeps the first.
func testConsumeTwice(t *testing.T, b bus.Bus) {
	q := unique("twice")
	started(t, b, spec(q, q+".1"), q+".1", nil).Stop(t)
	r := started(t, b, spec(q, q+".2"), q+".2", nil)
	publish(t, b, q+".1", "1")
	publish(t, b, q+".2", "2")
	if a, c := r.Next(t), r.Next(t); string(a.Body) != "1" || string(c.Body) != "2" {
		t.Fatalf("%q %q", a.Body, c.Body)
	}
}

func testRefusesNames(t *testing.T, b bus.Bus) {
	for _, name := range []string{"", "amq.mine"} {
		err := b.Consume(t.Context(), bus.ConsumerSpec{Queue: name}, func(context.Context, bus.Delivery) error { return nil })
		if !errs.Is(err, errs.Invalid) {
			t.Fatalf("queue %q: %v", name, err)
		}
	}
}

func testContextIsOver(t *testing.T, b bus.Bus) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, bus.Message{Exchange: bus.Exchange, Key: "x"}); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("%v", err)
	}
	if err := b.Consume(ctx, spec(unique("over")), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

func testClosed(t *testing.T, b bus.Bus) {
	q := unique("closed")
	end := make(chan error, 1)
	go func() {
		end <- b.Consume(t.Context(), spec(q, q), func(context.Context, bus.Delivery) error { return nil })
	}()
	Ready(t, b, bus.Exchange, q)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-end:
		if !errs.Is(err, errs.Unavailable) {
			t.Fatalf("Consume: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Consume goes on after Close")
	}
	if err := b.Publish(t.Context(), bus.Message{Exchange: bus.Exchange, Key: q}); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("Publish: %v", err)
	}
	if err := b.Health(); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("Health: %v", err)
	}
	if _, err := b.Wake(t.Context(), []job.Queue{"x"}); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("Wake: %v", err)
	}
}

func testManyPublishers(t *testing.T, b bus.Bus) {
	q := unique("many")
	r := started(t, b, spec(q, q), q, nil)
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := range 10 {
				m := bus.Message{Exchange: bus.Exchange, Key: q, Body: []byte(fmt.Sprint(p, i)), Mandatory: true}
				if err := b.Publish(t.Context(), m); err != nil {
					t.Error(err)
				}
				m.Key += ".nobody"
				if err := b.Publish(t.Context(), m); !errs.Is(err, errs.NotFound) {
					t.Errorf("unroutable: %v", err)
				}
			}
		})
	}
	wg.Wait()
	got := map[string]bool{}
	for range 80 {
		got[string(r.Next(t).Body)] = true
	}
	if len(got) != 80 {
		t.Fatalf("%d of 80 messages came", len(got))
	}
}
