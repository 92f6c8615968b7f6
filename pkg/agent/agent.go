// Package agent is the loop of kiln-agent, one on every compute node: it makes copies in the stores of its
// cluster, plants images in Nova's image cache on its node, and says that it is alive.
package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Store is what the agent keeps things in.
type Store interface {
	event.Recorder
	cache.Store
	SeenNode(ctx context.Context, name string, at time.Time) error
}

// Deps is all that an agent needs.
type Deps struct {
	Store  Store
	Glance catalog.Glance
	// Backend opens a store of the agent's cluster.
	Backend       func(ctx context.Context, spec cache.StoreSpec) (cache.Backend, error)
	Node          string
	InstancesPath string // Nova's
	MinFree       int64  // bytes that a copy must leave free
	BeatEvery     time.Duration
	Now           func() time.Time
	Log           logrus.FieldLogger
}

// Agent runs the handlers and the heartbeat of one node.
type Agent struct{ Deps }

// New makes an agent.
func New(d Deps) *Agent {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.BeatEvery == 0 {
		d.BeatEvery = 20 * time.Second
	}
	return &Agent{Deps: d}
}

// Handlers are those of the node's and the cluster's queues.
func (a *Agent) Handlers() []job.Handler {
	return []job.Handler{&warmUpHandler{a}, &plantHandler{a}, &evictHandler{a}}
}

// ClusterQueue is the queue that the agents of the node's cluster share; "" where the node is in none.
func (a *Agent) ClusterQueue(ctx context.Context) (job.Queue, error) {
	c, err := a.Store.ClusterOfNode(ctx, a.Node)
	switch {
	case errs.Is(err, errs.NotFound):
		return "", nil
	case err != nil:
		return "", err
	}
	return job.ClusterQueue(c.Name), nil
}

// Serve says that the node is alive, and keeps planted files young, until ctx ends.
func (a *Agent) Serve(ctx context.Context) error {
	if err := sweepPlanted(filepath.Join(a.InstancesPath, "_base")); err != nil {
		a.Log.WithError(err).Warning("half-planted files of an earlier life could not be removed")
	}
	tick := time.NewTicker(a.BeatEvery)
	defer tick.Stop()
	for {
		callCtx, cancel := context.WithTimeout(ctx, a.BeatEvery)
		err := errors.Join(a.Store.SeenNode(callCtx, a.Node, a.Now()), a.keepYoung(callCtx))
		cancel()
		if err != nil && ctx.Err() == nil {
			a.Log.WithError(err).Warning("the node could not say that it is alive; trying again")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// keepYoung renews the times of planted files: Nova's cache manager removes unused ones that are older than a
// day (remove_unused_original_minimum_age_seconds), and a copy is there to be unused.
func (a *Agent) keepYoung(ctx context.Context) error {
	q := listing.All().Where("node", a.Node).Where("state", string(cache.CopyVerified))
	copies, err := listing.Read(ctx, q, a.Store.ListCopies, func(c cache.Copy) string { return c.ID })
	if err != nil {
		return err
	}
	now := a.Now()
	for _, c := range copies {
		info, serr := os.Stat(c.Path)
		switch {
		case os.IsNotExist(serr):
			c.State, c.Error, c.UpdatedAt = cache.CopyFailed, "the file is gone from the node", now
			err = errors.Join(err, a.Store.UpdateCopy(ctx, c))
		case serr == nil && now.Sub(info.ModTime()) > time.Hour:
			err = errors.Join(err, os.Chtimes(c.Path, now, now))
		}
	}
	return err
}

// failed keeps the reason on the copy; it serves the handlers of this package.
func (a *Agent) failed(ctx context.Context, j job.Job, f *job.Failure) error {
	c, err := a.Store.FindCopy(ctx, j.ResourceID())
	if err != nil {
		return err
	}
	c.State, c.Error, c.UpdatedAt = cache.CopyFailed, f.Detail, a.Now()
	if err := a.Store.UpdateCopy(ctx, c); err != nil {
		return err
	}
	return a.Store.Record(ctx, event.Event{Type: "copy.failed", Resource: "copies/" + c.ID, ProjectID: j.ProjectID, RequestID: j.RequestID})
}

// done writes the copy's end with the job's.
func (a *Agent) done(r *job.Run, c cache.Copy, eventType string) job.Result {
	return job.Result{
		Value: map[string]any{"path": c.Path, "bytes": c.Bytes},
		Apply: func(ctx context.Context) error {
			if err := a.Store.UpdateCopy(ctx, c); err != nil {
				return err
			}
			return a.Store.Record(ctx, event.Event{Type: eventType, Resource: "copies/" + c.ID, ProjectID: r.Job.ProjectID, RequestID: r.Job.RequestID})
		},
	}
}

// storeOf opens the store that a copy is in.
func (a *Agent) storeOf(ctx context.Context, cluster, store string) (cache.Backend, error) {
	c, err := a.Store.FindCluster(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, spec := range c.Stores {
		if spec.Name == store {
			return a.Backend(ctx, spec)
		}
	}
	return nil, errs.New(errs.NotFound, "kiln.store.not_found", "cluster %s has no store %q", cluster, store)
}
