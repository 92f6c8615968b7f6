package daemon

import (
	"context"
	"path/filepath"
	"slices"
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
	return Serve(ctx, p.Agent(p.Config.Agent.Node, p.Config.Agent.InstancesPath, p.Config.Agent.StoreDir), p.Relay())
}

// Agent is the loops of the agent of one node.
func (p *Parts) Agent(node, instances, storeDir string) Loop {
	backends := &backends{p: p, dir: storeDir, open: map[string]cache.Backend{}}
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
const membershipEvery = 10 * time.Second

// agentJobs runs the jobs of the node and of its cluster; it starts anew when the node changes its cluster.
func (p *Parts) agentJobs(a *agent.Agent, node string) Loop {
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			queues, err := a.Queues(ctx)
			if err != nil {
				p.Log.WithError(err).WithField("node", node).Warning("the node's cluster is not known; trying again")
				queues = []job.Queue{job.NodeQueue(node)}
			}
			r := p.runner(queues, a.Handlers(), 1)
			r.Owner += ":" + node
			served, stop := context.WithCancel(ctx)
			go func() {
				defer stop()
				for served.Err() == nil {
					now, err := a.Queues(served)
					if err == nil && !slices.Equal(now, queues) {
						return
					}
					select {
					case <-served.Done():
					case <-time.After(membershipEvery):
					}
				}
			}()
			err = r.Serve(served)
			stop()
			if err != nil && served.Err() == nil {
				return err
			}
		}
		return ctx.Err()
	}
}

// backends opens each store of the cluster once.
type backends struct {
	p    *Parts
	dir  string
	mu   sync.Mutex
	open map[string]cache.Backend
}

func (b *backends) get(ctx context.Context, spec cache.StoreSpec) (cache.Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if be, ok := b.open[spec.Name]; ok {
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
		b.open[spec.Name] = be
	}
	return be, err
}
