package daemon

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/agent"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/ceph"
	"github.com/kiln-cloud/kiln/pkg/dircache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Agent serves one compute node.
func Agent(ctx context.Context, p *Parts) error {
	return Serve(ctx, p.Agent(p.Config.Agent.Node, p.Config.Agent.InstancesPath, p.Config.Agent.StoreDir), p.Relay(), p.Monitor())
}

// Agent is the loops of the agent of one node.
func (p *Parts) Agent(node, instances, storeDir string) Loop {
	backends := &backends{p: p, dir: storeDir, open: map[cache.StoreSpec]cache.Backend{}}
	a := agent.New(agent.Deps{
		Store: p.DB, Glance: p.Glance, Backend: backends.get, Node: node, InstancesPath: instances,
		MinFree: int64(p.Config.Agent.MinFreeGiB) << 30, Log: p.Log.WithField("node", node),
	})
	return func(ctx context.Context) error {
		if err := p.WaitSchema(ctx); err != nil {
			return err
		}
		return Serve(ctx, a.Serve, p.agentJobs(a, node))
	}
}

// membershipEvery is how often an agent looks which cluster its node is in.
const membershipEvery = 5 * time.Second

// agentJobs runs the jobs of the node, and those of its cluster for as long as it is in one. The two are apart, so
// that a node that changes its cluster does not break off what it does for itself.
func (p *Parts) agentJobs(a *agent.Agent, node string) Loop {
	own := p.runner([]job.Queue{job.NodeQueue(node)}, a.Handlers(), 1)
	own.Owner += ":" + node
	return func(ctx context.Context) error {
		return Serve(ctx, own.Serve, func(ctx context.Context) error { return p.clusterJobs(ctx, a, node) })
	}
}

func (p *Parts) clusterJobs(ctx context.Context, a *agent.Agent, node string) error {
	for ctx.Err() == nil {
		cluster, err := a.ClusterQueue(ctx)
		switch {
		case err != nil:
			p.Log.WithError(err).WithField("node", node).Warning("the node's cluster is not known; trying again")
		case cluster != "":
			if err := p.serveCluster(ctx, a, node, cluster); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(membershipEvery):
		}
	}
	return ctx.Err()
}

// serveCluster runs the jobs of the cluster until the node leaves it.
func (p *Parts) serveCluster(ctx context.Context, a *agent.Agent, node string, cluster job.Queue) error {
	r := p.runner([]job.Queue{cluster}, a.Handlers(), 1)
	r.Owner += ":" + node
	served, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		for served.Err() == nil {
			select {
			case <-served.Done():
			case <-time.After(membershipEvery):
			}
			if now, err := a.ClusterQueue(served); err == nil && now != cluster {
				return
			}
		}
	}()
	if err := r.Serve(served); served.Err() == nil {
		return err
	}
	return nil
}

// backends opens each store of the cluster once.
type backends struct {
	p    *Parts
	dir  string
	mu   sync.Mutex
	open map[cache.StoreSpec]cache.Backend
}

func (b *backends) get(ctx context.Context, spec cache.StoreSpec) (cache.Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if be, ok := b.open[spec]; ok {
		return be, nil
	}
	var be cache.Backend
	var err error
	switch spec.Type {
	case "directory":
		be, err = dircache.Open(filepath.Join(b.dir, spec.Name))
	case "ceph":
		be, err = ceph.Open(ctx, ceph.Config{Conf: b.p.Config.Ceph.Conf, User: b.p.Config.Ceph.User, Pool: spec.Pool})
	default:
		err = errs.New(errs.Invalid, "kiln.store.type", "store %s has the unknown type %q", spec.Name, spec.Type)
	}
	if err == nil {
		b.open[spec] = be
	}
	return be, err
}
