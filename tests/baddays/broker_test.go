package baddays

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Without a broker the programs start, jobs are found by polling, and what happened is told once it comes.
func TestBrokerAwayAtStart(t *testing.T) {
	w := newWorld(t)
	queue := w.subscribe()
	if err := w.bus.Stop(); err != nil {
		t.Fatal(err)
	}
	programs := []*program{w.startAPI(), w.start("kiln-engine"), w.start("kiln-worker")}
	w.red("bus")
	for _, p := range programs {
		p.says("RabbitMQ is not available")
	}
	w.nodesKnown()
	image := w.small()
	inspection := w.inspect(image)
	w.allPlaced(w.place(image, 6))
	if j, log := w.ended(inspection, 30*time.Second); j.State != job.Succeeded {
		t.Errorf("the inspection: %+v\n%v", j, log)
	}
	if w.waiting() == 0 {
		t.Error("no message waits in the outbox")
	}
	if err := w.bus.Start(); err != nil {
		t.Fatal(err)
	}
	w.green()
	w.allTold(queue)
	stillRun(t, programs...)
}

// The broker is killed in the middle of work: the work goes on without it, and no event is lost.
func TestBrokerKilled(t *testing.T) {
	w := newWorld(t)
	queue := w.subscribe()
	programs := []*program{w.startAPI(), w.start("kiln-engine"), w.start("kiln-worker")}
	w.nodesKnown()
	w.green()
	w.slowly(400 * time.Millisecond)
	image := w.small()
	jobs := w.place(image, 12)
	eventually(t, 30*time.Second, func() error {
		if n := len(w.instances()); n < 3 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	if err := w.bus.Kill(); err != nil {
		t.Fatal(err)
	}
	inspection := w.inspect(image)
	w.red("bus")
	w.allPlaced(jobs)
	if j, log := w.ended(inspection, 30*time.Second); j.State != job.Succeeded {
		t.Errorf("the inspection: %+v\n%v", j, log)
	}
	if err := w.bus.Start(); err != nil {
		t.Fatal(err)
	}
	w.green()
	w.allTold(queue)
	stillRun(t, programs...)
}

// subscribe makes a queue that gets every event from now on, and gives its name.
func (w *world) subscribe() string {
	w.t.Helper()
	name := "test-" + uuid.NewString()
	w.channel(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(bus.Exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
			return err
		}
		return ch.QueueBind(name, bus.NotificationKey, bus.Exchange, false, nil)
	})
	return name
}

func (w *world) channel(use func(ch *amqp.Channel) error) {
	w.t.Helper()
	conn, err := amqp.DialConfig(w.bus.URL(), amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		err = use(ch)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// waiting counts the messages that wait in the outbox.
func (w *world) waiting() int {
	w.t.Helper()
	return w.count("SELECT COUNT(*) FROM outbox WHERE published_at IS NULL")
}

// allTold waits until the outbox is empty, and expects every event of the store in the queue, once or more.
func (w *world) allTold(queue string) {
	w.t.Helper()
	eventually(w.t, 60*time.Second, func() error {
		if n := w.waiting(); n > 0 {
			return fmt.Errorf("%d messages wait in the outbox", n)
		}
		return nil
	})
	told := map[int64]int{}
	w.channel(func(ch *amqp.Channel) error {
		for {
			m, ok, err := ch.Get(queue, true)
			if err != nil || !ok {
				return err
			}
			n, err := bus.OpenEnvelope(m.Body)
			if err != nil {
				return err
			}
			var e event.Event
			if err := json.Unmarshal(n.Payload, &e); err != nil {
				return err
			}
			told[e.ID]++
		}
	})
	events, err := w.store().After(w.t.Context(), 0, "", 1000)
	if err != nil || len(events) == 0 {
		w.t.Fatalf("%d events, error %v", len(events), err)
	}
	again := 0
	for _, e := range events {
		if told[e.ID] == 0 {
			w.t.Errorf("event %d, %s of %s, was never told", e.ID, e.Type, e.Resource)
		}
		again += max(0, told[e.ID]-1)
	}
	w.t.Logf("%d events, %d of them told again", len(events), again)
}

// An API is killed after it committed a job and before it could tell anybody: another program tells it.
func TestAPIKilledBeforeItPublished(t *testing.T) {
	w := newWorld(t)
	queue := w.subscribe()
	image := w.small()
	api := w.startAPI("[DEFAULT]\ntransport_url = rabbit://kiln:kiln@127.0.0.1:1/\n")
	inspection := w.inspect(image)
	api.kill()
	if n := w.waiting(); n < 2 { // the wake-up and the event
		t.Fatalf("%d messages wait in the outbox", n)
	}
	w.start("kiln-worker")
	w.startAPI()
	if j, log := w.ended(inspection, 30*time.Second); j.State != job.Succeeded || j.Attempt != 1 {
		t.Errorf("the inspection: %+v\n%v", j, log)
	}
	w.allTold(queue)
}
