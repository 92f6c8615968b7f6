package daemon

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Engine places workloads and reconciles.
func Engine(ctx context.Context, p *Parts) error {
	return Serve(ctx, p.Engine(), p.Relay(), p.Monitor(), p.prune)
}

// Engine is the loops of one engine.
func (p *Parts) Engine() Loop {
	e := engine.New(engine.Deps{
		Store: p.DB, Glance: p.Glance, Nova: p.Nova, Zun: p.Zun, Providers: p.Providers,
		SyncInterval: p.Config.Engine.SyncInterval, PlaceTimeout: p.Config.Engine.PlaceTimeout, Log: p.Log,
	})
	r := p.runner([]job.Queue{job.EngineQueue}, e.Handlers(), p.Config.Engine.Parallel)
	return func(ctx context.Context) error {
		if err := p.WaitSchema(ctx); err != nil {
			return err
		}
		return Serve(ctx, e.Serve, r.Serve, p.notices(e))
	}
}

// notices follows the notifications of Nova and Glance on the cloud's own bus.
func (p *Parts) notices(e *engine.Engine) Loop {
	return func(ctx context.Context) error {
		from, closeBus := p.Bus, func() {}
		if p.Config.Notifications.TransportURL != p.Config.Default.TransportURL {
			other, err := openBus(p.Config.Notifications.TransportURL, p.Program, p.Log)
			if err != nil {
				return err
			}
			from, closeBus = other, func() { other.Close() } //nolint:errcheck // the program ends
		}
		defer closeBus()
		var bindings []bus.Binding
		for _, topic := range p.Config.Notifications.Topics {
			bindings = append(bindings, bus.Binding{Exchange: "glance", Key: topic + ".info", Passive: true})
		}
		for _, level := range []string{".info", ".error"} {
			bindings = append(bindings, bus.Binding{Exchange: "nova", Key: p.Config.Notifications.NovaTopic + level, Passive: true})
		}
		return from.Consume(ctx, bus.ConsumerSpec{Queue: p.Config.Notifications.Queue, Bindings: bindings, Prefetch: 16},
			func(ctx context.Context, d bus.Delivery) error {
				n, err := bus.OpenEnvelope(d.Body)
				if err != nil {
					return err // Invalid: it goes to the dead letters
				}
				return e.Notice(ctx, n.EventType, n.Payload)
			})
	}
}

// kept is how long what the outbox sent is kept for people to look at.
const kept = 24 * time.Hour

func (p *Parts) prune(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if _, err := p.DB.PruneOutbox(ctx, time.Now().Add(-kept)); err != nil {
				p.Log.WithError(err).Warning("old messages stay in the outbox for another hour")
			}
		}
	}
}
