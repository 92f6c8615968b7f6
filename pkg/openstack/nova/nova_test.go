package nova_test

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	providers "github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func TestPocketServerLife(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{Nodes: []wire.Node{
		{Name: "fake1", VCPUs: 8, MemoryMB: 8192, DiskGB: 100}, {Name: "fake2", VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
	}})
	serverLife(t, kiln, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}), "kiln.tiny")
}

func TestRealServerLife(t *testing.T) {
	serverLife(t, cloudtest.Real(t, "kiln", "service", real.Nova), cloudtest.Real(t, "demo", "demo"), "kiln.tiny")
}

// serverLife places a server for another project on a host, as the engine does.
func serverLife(t *testing.T, kiln, demo *openstack.Cloud, flavorName string) {
	project, err := demo.ForProject("").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := nova.New(kiln)
	flavor := flavors(t, c, flavorName)
	host := hypervisor(t, c, kiln)
	key := uuid.NewString()
	server, err := c.CreateServer(t.Context(), project, placement.NewServer{
		Name: "kiln-test", ImageID: newImage(t, glance.New(kiln)), FlavorID: flavor.ID, Host: host.Host,
		Metadata: map[string]string{placement.KeyWorkload: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.DeleteServer(context.WithoutCancel(t.Context()), project, server.ID); err != nil {
			t.Error(err)
		}
	})
	server = await(t, c, project, server.ID, "ACTIVE")
	if server.Host != host.Host || server.Metadata[placement.KeyWorkload] != key || server.Name != "kiln-test" {
		t.Errorf("placed: %+v", server)
	}
	found, err := c.ServersByKey(t.Context(), project, key)
	if err != nil || len(found) != 1 || found[0].ID != server.ID {
		t.Errorf("by key: %+v, %v", found, err)
	}
	if found, err := c.ServersByKey(t.Context(), "", key); err != nil || len(found) != 0 {
		t.Errorf("by key in another project: %+v, %v", found, err)
	}
	if text, err := c.Console(t.Context(), project, server.ID, 5); err != nil || text == "" {
		t.Errorf("console: %q, %v", text, err)
	}
	p := providers.New(kiln)
	if held, err := p.Allocation(t.Context(), server.ID); err != nil || len(held) != 1 || held[host.ID] != flavor.Resources {
		t.Errorf("placement has %+v, the flavor asks for %+v on %s: %v", held, flavor.Resources, host.ID, err)
	}
	for range 2 {
		if err := c.DeleteServer(t.Context(), project, server.ID); err != nil {
			t.Error(err)
		}
		await(t, c, project, server.ID, "")
	}
	if held, err := p.Allocation(t.Context(), server.ID); err != nil || len(held) != 0 {
		t.Errorf("after the delete placement has %+v: %v", held, err)
	}
	if _, err := c.CreateServer(t.Context(), project, placement.NewServer{
		Name: "kiln-test", ImageID: uuid.NewString(), FlavorID: flavor.ID, Host: host.Host,
	}); !errs.Is(err, errs.Invalid) {
		t.Errorf("an image that is not there: %v", err)
	}
}

func flavors(t *testing.T, c *nova.Client, name string) placement.Flavor {
	t.Helper()
	byName, err := c.Flavor(t.Context(), name)
	if err != nil || byName.Name != name || byName.Resources.VCPUs < 1 || byName.Resources.MemoryMB < 1 {
		t.Fatalf("flavor by name: %+v, %v", byName, err)
	}
	if byID, err := c.Flavor(t.Context(), byName.ID); err != nil || byID != byName {
		t.Errorf("flavor by id: %+v, %v", byID, err)
	}
	for _, none := range []string{"kiln-none", "a b/c?d"} {
		if _, err := c.Flavor(t.Context(), none); !errs.Is(err, errs.NotFound) {
			t.Errorf("flavor %q: %v", none, err)
		}
	}
	return byName
}

// hypervisor chooses a fake host, and holds all of them against Placement.
func hypervisor(t *testing.T, c *nova.Client, kiln *openstack.Cloud) placement.Hypervisor {
	t.Helper()
	hosts, err := c.Hypervisors(t.Context())
	if err != nil || len(hosts) < 2 {
		t.Fatalf("hypervisors: %+v, %v", hosts, err)
	}
	all, err := providers.New(kiln).Providers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]placement.Provider{}
	for _, p := range all {
		byID[p.ID] = p
	}
	var chosen placement.Hypervisor
	for _, h := range hosts {
		if p := byID[h.ID]; p.Name != h.Hostname || p.Capacity.VCPUs < 1 {
			t.Errorf("hypervisor %+v is provider %+v", h, p)
		}
		if h.Up && !h.Disabled && strings.HasPrefix(h.Host, "fake2") {
			chosen = h
		}
	}
	if chosen.Host == "" {
		t.Fatalf("no fake host is up among %+v", hosts)
	}
	return chosen
}

func newImage(t *testing.T, c *glance.Client) string {
	t.Helper()
	id := uuid.NewString()
	if _, err := c.CreateImage(t.Context(), catalog.NewGlanceImage{ID: id, Name: "kiln-test", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.DeleteImage(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	if err := c.Upload(t.Context(), id, bytes.NewReader(make([]byte, 1<<20)), 1<<20); err != nil {
		t.Fatal(err)
	}
	return id
}

// await polls until the server has the status; "" until it is gone.
func await(t *testing.T, c *nova.Client, project, id, status string) placement.Server {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s, err := c.Server(t.Context(), project, id)
		switch {
		case errs.Is(err, errs.NotFound) && status == "":
			return s
		case err != nil:
			t.Fatal(err)
		case s.Status == status:
			return s
		case s.Status == "ERROR", time.Now().After(end):
			t.Fatalf("the server is %s, not %q: %s", s.Status, status, s.Fault)
		}
	}
}

func TestPocketPrecache(t *testing.T) {
	_, kiln := cloudtest.Pocket(t, pocket.Config{Nodes: []wire.Node{{Name: "fake1", VCPUs: 8, MemoryMB: 8192, DiskGB: 100}}})
	precache(t, kiln, "fake1")
}

func TestRealPrecache(t *testing.T) {
	precache(t, cloudtest.Real(t, "kiln", "service", real.Nova), "fake1.kiln.test")
}

func precache(t *testing.T, kiln *openstack.Cloud, host string) {
	raw := kiln.Service(openstack.Description{Name: "nova", Types: []string{"compute"}, Version: "v2.1", Microversion: nova.Microversion})
	do := func(ctx context.Context, method, path string, body, out any) {
		t.Helper()
		if err := raw.Do(ctx, openstack.Call{Operation: "test", Method: method, Path: path, Body: body, Out: out}); err != nil {
			t.Fatal(err)
		}
	}
	var made struct{ Aggregate nova.Aggregate }
	do(t.Context(), http.MethodPost, "os-aggregates", map[string]any{"aggregate": map[string]any{"name": "kiln-test-" + uuid.NewString()}}, &made)
	path := "os-aggregates/" + strconv.Itoa(made.Aggregate.ID)
	t.Cleanup(func() { do(context.WithoutCancel(t.Context()), http.MethodDelete, path, nil, nil) })
	do(t.Context(), http.MethodPost, path+"/action", map[string]any{"add_host": map[string]string{"host": host}}, nil)
	t.Cleanup(func() {
		do(context.WithoutCancel(t.Context()), http.MethodPost, path+"/action", map[string]any{"remove_host": map[string]string{"host": host}}, nil)
	})
	c := nova.New(kiln)
	all, err := c.Aggregates(t.Context())
	if err != nil || !slices.ContainsFunc(all, func(a nova.Aggregate) bool { return a.ID == made.Aggregate.ID && slices.Contains(a.Hosts, host) }) {
		t.Errorf("aggregates: %+v, %v", all, err)
	}
	if err := c.Precache(t.Context(), made.Aggregate.ID, newImage(t, glance.New(kiln))); err != nil {
		t.Errorf("precache: %v", err)
	}
	if err := c.Precache(t.Context(), 999_999, uuid.NewString()); !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) {
		t.Errorf("no such aggregate: %v", err)
	}
}
