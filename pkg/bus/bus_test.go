package bus_test

import (
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/bus/bustest"
	"github.com/kiln-cloud/kiln/pkg/testkit/rabbitmq"
)

func logger(t *testing.T) logrus.FieldLogger {
	t.Helper()
	l := logrus.New()
	l.SetOutput(io.Discard)
	if testing.Verbose() {
		l.SetOutput(t.Output())
		l.SetLevel(logrus.DebugLevel)
	}
	return l
}

func TestLocal(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T) bus.Bus { return bus.NewLocal(logger(t)) })
}

func newRabbit(t *testing.T, urls ...string) *bus.Rabbit {
	t.Helper()
	r, err := bus.NewRabbit(bus.RabbitConfig{URLs: urls, Name: t.Name(), Heartbeat: 2 * time.Second, RetryMax: time.Second, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRabbit(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a real RabbitMQ")
	}
	t.Parallel()
	url := rabbitmq.New(t)
	bustest.Run(t, func(t *testing.T) bus.Bus { return newRabbit(t, url) })
}
