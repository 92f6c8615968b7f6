package engine_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/agent"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/dircache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// pool is a store that disks are cloned from, as a Ceph pool is.
type pool struct {
	cache.Backend
	clones map[string]int
}

func (p pool) Children(_ context.Context, name string) (int, error) { return p.clones[name], nil }

// An agent evicts the copies of what goes, and leaves a copy that disks are cloned from: its version stays then.
func TestRetentionAsksAgentsForClones(t *testing.T) {
	l := pocketLife(t)
	ctx := t.Context()
	l.engine.Life.EvictTime = 30 * time.Second
	cloned, free := l.version("life", "20260301.1"), l.version("life", "20260301.2")
	l.version("life", "20260302.1")
	dir, err := dircache.Open(t.TempDir())
	l.must(err)
	store := pool{dir, map[string]int{cloned.ImageID: 3}}
	now := time.Now().UTC()
	l.must(l.db.CreateCluster(ctx, cache.Cluster{ID: "c1", Name: "rack", Nodes: []string{"n1"}, Stores: []cache.StoreSpec{{Name: "disk", Type: "directory"}}, CreatedAt: now, UpdatedAt: now}))
	copies := map[string]string{}
	for _, v := range []catalog.Version{cloned, free} {
		_, err := store.Put(ctx, v.ImageID, strings.NewReader("disk"), 4, "")
		l.must(err)
		copies[v.ImageID] = uuid.NewString()
		_, err = l.db.EnsureCopy(ctx, cache.Copy{ID: copies[v.ImageID], Cluster: "rack", Store: "disk", ImageID: v.ImageID, State: cache.CopyVerified, VerifiedAt: &now, Path: "disk/" + v.ImageID})
		l.must(err)
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	a := agent.New(agent.Deps{
		Store: l.db, Glance: l.glance, Node: "n1", InstancesPath: t.TempDir(), Log: quiet,
		Backend: func(context.Context, cache.StoreSpec) (cache.Backend, error) { return store, nil },
	})
	r := &job.Runner{
		Store: l.db, Waker: never{}, Handlers: a.Handlers(), Queues: []job.Queue{job.ClusterQueue("rack")}, Owner: "agent", Parallel: 1,
		Lease: 10 * time.Second, Beat: 50 * time.Millisecond, Poll: 10 * time.Millisecond, Log: quiet, Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	}
	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(running) })
	defer wg.Wait()
	defer stop()
	fates := l.retain("life", false)
	l.want(fates, cloned.Name, "kept: 3 disks are cloned from copy "+copies[cloned.ImageID]+" at disk/"+cloned.ImageID)
	l.want(fates, free.Name, "deleted: ")
	if _, err := store.Stat(ctx, cloned.ImageID); err != nil || l.state(cloned) != catalog.Superseded || !l.there(cloned.ImageID) {
		t.Errorf("the cloned one is %s, its copy: %v", l.state(cloned), err)
	}
	if c, err := l.db.FindCopy(ctx, copies[cloned.ImageID]); err != nil || c.State != cache.CopyVerified {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := store.Stat(ctx, free.ImageID); !errs.Is(err, errs.NotFound) {
		t.Errorf("the copy of what went: %v", err)
	}
	store.clones[cloned.ImageID] = 0
	l.want(l.retain("life", false), cloned.Name, "deleted: ")
}
