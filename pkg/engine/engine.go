// Package engine is the loop of kiln-engine: it places and removes workloads, keeps the view of the nodes and
// the ledger equal to what Nova, Zun and Placement say, and picks up what was lost. Any number may run.
package engine

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Store is what the engine keeps things in.
type Store interface {
	job.Store
	job.Transactor
	event.Recorder
	catalog.Store
	cache.Store
	placement.Store
}

// Glance is the image service with the switch that bars people from an image.
type Glance interface {
	catalog.Glance
	// Deactivate bars everybody but administrators from the image's bytes, Reactivate takes it back; again is no error.
	Deactivate(ctx context.Context, id string) error
	Reactivate(ctx context.Context, id string) error
}

// Deps is all that an engine needs.
type Deps struct {
	Store        Store
	Glance       Glance
	Nova         placement.Nova
	Zun          placement.Zun // nil where the cloud has no Zun
	Providers    placement.Providers
	SyncInterval time.Duration
	PlaceTimeout time.Duration
	PollEvery    time.Duration // how often a server or container is asked for its state
	Users        []ImageUsers  // who is asked before retention deletes an image
	Life         Life
	Collect      Collect
	Now          func() time.Time
	Log          logrus.FieldLogger
}

// Engine runs the handlers and loops of one process.
type Engine struct {
	Deps
	nudge chan struct{}
	// zunSaid is what was last said of a Zun that is away; only the loop of Sync uses it.
	zunSaid string
	// retained is the window that retention was last looked at for; only the loop of Sync uses it.
	retained time.Time
}

// New makes an engine.
func New(d Deps) *Engine {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.PollEvery == 0 {
		d.PollEvery = time.Second
	}
	return &Engine{Deps: d, nudge: make(chan struct{}, 1)}
}

// Handlers are those of the engine queue.
func (e *Engine) Handlers() []job.Handler {
	return []job.Handler{&placeHandler{e}, &removeHandler{e}, &settleHandler{e}, &retainHandler{e}}
}

// Serve reconciles until ctx ends: at once, every SyncInterval, and soon after Nudge.
func (e *Engine) Serve(ctx context.Context) error {
	tick := time.NewTicker(e.SyncInterval)
	defer tick.Stop()
	for {
		if err := e.Sync(ctx); err != nil && ctx.Err() == nil {
			e.Log.WithError(err).Warning("reconciling was not complete; the next round tries again")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-e.nudge:
		}
	}
}

// Nudge asks for a round of reconciling soon; it never blocks.
func (e *Engine) Nudge() {
	select {
	case e.nudge <- struct{}{}:
	default:
	}
}

// Sync is one round: nodes and ledger from Placement, Glance's hidden flags and leftovers from the catalog, and
// servers and containers of workloads that were deleted, and when it is time the start of retention.
// Each part goes on where another failed.
func (e *Engine) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return errors.Join(e.SyncNodes(ctx), e.sweepImages(ctx), e.sweepInstances(ctx), e.scheduleRetention(ctx))
}

func (e *Engine) manager(k placement.Kind) manager {
	if k == placement.Container {
		return containers{e.Zun}
	}
	return servers{e.Nova}
}
