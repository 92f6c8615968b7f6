package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack/cinder"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
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
		Users: []engine.ImageUsers{
			{Service: "Nova", Thing: "server", Find: p.Nova.UsersOfImage},
			{Service: "Cinder", Thing: "volume", Optional: true, Find: cinder.New(p.Cloud).UsersOfImage},
			{Service: "Zun", Thing: "container", Optional: true, Find: p.Zun.UsersOfImage},
		},
		Life: engine.Life{
			Limits:            catalog.Limits{KeepCount: p.Config.Life.KeepVersions, KeepDays: p.Config.Life.KeepDays},
			RetentionEvery:    p.Config.Life.RetentionInterval,
			DeactivateRevoked: p.Config.Life.DeactivateRevoked,
		},
		Collect: p.collect(),
	})
	r := p.runner([]job.Queue{job.EngineQueue}, e.Handlers(), p.Config.Engine.Parallel)
	return func(ctx context.Context) error {
		if err := p.WaitSchema(ctx); err != nil {
			return err
		}
		return Serve(ctx, e.Serve, r.Serve, p.notices(e), engine.Every(p.Config.Engine.TriggerInterval, "triggers", p.Log, p.watch().Round),
			engine.Every(sourcesEvery, "sources", p.Log, p.pullSources), p.sweep(e), p.knowledge(), p.running(),
			engine.Every(p.Config.Engine.CampaignInterval, "campaigns", p.Log, p.campaigns().Round))
	}
}

// sweep finds the images that no notification told of.
func (p *Parts) sweep(e *engine.Engine) Loop {
	every := p.Config.Collect.Interval
	if every <= 0 {
		return func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	}
	return engine.Every(every, "images", p.Log, e.Sweep)
}

// sourcesEvery is how often is looked for sources that are due; their own intervals are longer.
const sourcesEvery = 15 * time.Second

// deliveriesKept is how long a webhook that is sent again is known.
const deliveriesKept = 90 * 24 * time.Hour

// pullSources starts reading the sources whose interval is over.
func (p *Parts) pullSources(ctx context.Context) error {
	desk := job.Desk{Jobs: p.DB, Tx: p.DB, Events: p.DB, Now: time.Now, NewID: uuid.NewString}
	service := build.Service{Desk: desk, Store: p.DB}
	_, err := service.SyncDue(ctx, job.By{})
	return errors.Join(err, p.DB.ForgetDeliveries(ctx, time.Now().Add(-deliveriesKept)))
}

// watch asks for the builds that nobody asks for in person.
func (p *Parts) watch() *build.Watch {
	desk := job.Desk{Jobs: p.DB, Tx: p.DB, Events: p.DB, Now: time.Now, NewID: uuid.NewString}
	return &build.Watch{
		Service: &build.Service{Desk: desk, Store: p.DB}, Catalog: p.DB, Fixes: p.DB, Log: p.Log,
	}
}

// campaigns moves campaigns and fires standing upgrade policies.
func (p *Parts) campaigns() *campaign.Rounds {
	desk := job.Desk{Jobs: p.DB, Tx: p.DB, Events: p.DB, Now: time.Now, NewID: uuid.NewString}
	return &campaign.Rounds{
		Service: &campaign.Service{Desk: desk, Store: p.DB, Upgrades: p.DB},
		Catalog: &catalog.Service{Desk: desk, Store: p.DB}, Upgrade: &upgrade.Service{Desk: desk, Store: p.DB},
		Planner: &upgrade.Planning{Desk: desk, Plans: p.DB},
		Chooser: &campaign.Chooser{Store: p.DB, Catalog: p.DB, Glance: p.Glance},
		Settle:  p.Config.Engine.PolicySettle, PolicyEvery: p.Config.Engine.TriggerInterval, Log: p.Log,
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
			p.pruneLogs(ctx)
		}
	}
}

// pruneLogs removes the logs of jobs that ended long ago, a part at a time.
func (p *Parts) pruneLogs(ctx context.Context) {
	if p.Config.Engine.KeepLogsDays == 0 {
		return
	}
	before := time.Now().AddDate(0, 0, -p.Config.Engine.KeepLogsDays)
	for {
		n, err := p.DB.PruneJobLogs(ctx, before)
		if err != nil {
			p.Log.WithError(err).Warning("old logs stay for another hour")
		}
		if n == 0 || err != nil {
			return
		}
		p.Log.WithField("jobs", n).Info("removed the logs of jobs that ended long ago")
	}
}
