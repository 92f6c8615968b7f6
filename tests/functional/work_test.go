package functional

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/job"
)

func (s *stand) repository() string { return "file://" + filepath.Join(s.dir, "recipes") }

// finished waits for a job's success.
func finished(t *testing.T, c *client.Client, id string) job.Job {
	t.Helper()
	j, err := c.WaitJob(t.Context(), id, 200*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// source is the project's source of the recipes; the first test that asks makes it.
func (s *stand) source(t *testing.T) build.Source {
	t.Helper()
	member := s.as(t, "member")
	found, err := client.List[build.Source](t.Context(), member, "sources", map[string][]string{"name": {"functional"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 1 {
		return found[0]
	}
	var src build.Source
	if err := member.Post(t.Context(), "/v1/sources", build.NewSource{Name: "functional", URL: s.repository()}, &src); err != nil {
		t.Fatal(err)
	}
	finished(t, member, src.JobID)
	return src
}

// fakeCluster is the cluster of the nodes that only pretend to start servers.
func (s *stand) fakeCluster(t *testing.T) string {
	t.Helper()
	admin := s.as(t, "admin")
	found, err := client.List[cache.Cluster](t.Context(), admin, "clusters", map[string][]string{"name": {"cluster-b"}})
	if err == nil && len(found) == 0 {
		err = admin.Post(t.Context(), "/v1/clusters", clusterB(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "cluster-b"
}

func clusterB() cache.NewCluster {
	return cache.NewCluster{Name: "cluster-b", Nodes: fakes(), Stores: []cache.StoreSpec{{Name: "ceph", Type: "ceph", Pool: "cluster-b"}}}
}
