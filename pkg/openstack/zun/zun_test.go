package zun_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/zun"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func start(t *testing.T) (cloud *pocket.Cloud, c *zun.Client, project string) {
	t.Helper()
	cloud, kiln := cloudtest.Pocket(t, pocket.Config{Zun: true, Nodes: []wire.Node{
		{Name: "node1", VCPUs: 4, MemoryMB: 4096, DiskGB: 100}, {Name: "node2", VCPUs: 4, MemoryMB: 4096, DiskGB: 100},
	}})
	demo := cloudtest.As(t, openstack.Config{AuthURL: cloud.AuthURL(), Username: "demo", ProjectName: "demo"})
	project, err := demo.ForProject("").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cloud, zun.New(kiln), project
}

func newContainer(key string) placement.NewContainer {
	return placement.NewContainer{
		Name: "kiln-test", Image: "busybox:1.0", ImageDriver: "docker", Host: "node2", Command: []string{"sleep", "1000"},
		CPU: 1, MemoryMB: 64, Labels: map[string]string{placement.KeyWorkload: key},
	}
}

// await polls until the container has the status; "" until it is gone.
func await(t *testing.T, c *zun.Client, project, id, status string) placement.ContainerInfo {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		k, err := c.Container(t.Context(), project, id)
		switch {
		case errs.Is(err, errs.NotFound) && status == "":
			return k
		case err != nil:
			t.Fatal(err)
		case k.Status == status:
			return k
		case time.Now().After(end):
			t.Fatalf("the container is %s, not %q: %s", k.Status, status, k.Reason)
		}
	}
}

func TestContainerLife(t *testing.T) {
	_, c, project := start(t)
	hosts, err := c.Hosts(t.Context())
	slices.Sort(hosts)
	if err != nil || !slices.Equal(hosts, []string{"node1", "node2"}) {
		t.Errorf("hosts: %v, %v", hosts, err)
	}
	key := uuid.NewString()
	created, err := c.CreateContainer(t.Context(), project, newContainer(key))
	if err != nil || created.ID == "" || created.Labels[placement.KeyWorkload] != key && created.Labels != nil {
		t.Fatalf("created %+v, %v", created, err)
	}
	if err := c.DeleteContainer(t.Context(), project, created.ID); err != nil && !errs.Is(err, errs.Conflict) {
		t.Errorf("while it is made: %v", err)
	} else if err == nil {
		t.Error("a container that is being made was deleted")
	}
	running := await(t, c, project, created.ID, "Running")
	if running.Host != "node2" || running.Labels[placement.KeyWorkload] != key {
		t.Errorf("running: %+v", running)
	}
	if counts, err := c.ImagesInUse(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("an image that is not Glance's is counted: %v, %v", counts, err)
	}
	found, err := c.ContainersByKey(t.Context(), project, key)
	if err != nil || len(found) != 1 || found[0].ID != created.ID {
		t.Errorf("by key: %+v, %v", found, err)
	}
	if found, err := c.ContainersByKey(t.Context(), "", key); err != nil || len(found) != 0 {
		t.Errorf("by key in another project: %+v, %v", found, err)
	}
	for range 2 {
		if err := c.DeleteContainer(t.Context(), project, created.ID); err != nil {
			t.Error(err)
		}
		await(t, c, project, created.ID, "")
	}
}

func TestRefusals(t *testing.T) {
	_, c, project := start(t)
	big := newContainer("big")
	big.CPU = 64
	if k, err := c.CreateContainer(t.Context(), project, big); err == nil && k.Status != "Error" && await(t, c, project, k.ID, "Error").Reason == "" {
		t.Errorf("more than the host has: %+v, %v", k, err)
	}
	nowhere := newContainer("nowhere")
	nowhere.Host = "node9"
	if _, err := c.CreateContainer(t.Context(), project, nowhere); !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) {
		t.Errorf("no such host: %v", err)
	}
	if _, err := c.Container(t.Context(), project, uuid.NewString()); !errs.Is(err, errs.NotFound) {
		t.Errorf("no such container: %v", err)
	}
}

// TestDeadHost has a Zun that cannot show a container, because its host does not answer, but can list it.
func TestDeadHost(t *testing.T) {
	cloud, c, project := start(t)
	created, err := c.CreateContainer(t.Context(), project, newContainer("dead"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, c, project, created.ID, "Running")
	cloud.Fail(wire.Match{Service: pocket.Container, Method: http.MethodGet, PathSuffix: created.ID}, wire.Fault{Status: http.StatusInternalServerError}, -1)
	k, err := c.Container(t.Context(), project, created.ID)
	if err != nil || k.ID != created.ID || k.Status != "Running" {
		t.Errorf("from the list: %+v, %v", k, err)
	}
}

func TestPull(t *testing.T) {
	_, c, _ := start(t)
	i, err := c.Pull(t.Context(), "busybox:1.0", "node1")
	if err != nil || i.Host != "node1" || i.UUID == "" {
		t.Fatalf("pull: %+v, %v", i, err)
	}
	for end := time.Now().Add(time.Minute); !i.Pulled(); time.Sleep(20 * time.Millisecond) {
		if i, err = c.Image(t.Context(), i.UUID); err != nil || time.Now().After(end) {
			t.Fatalf("not pulled: %+v, %v", i, err)
		}
	}
	if err := c.DeleteImage(t.Context(), i.UUID); err != nil {
		t.Error(err)
	}
}
