package placement_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	client "github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func TestPocketClaims(t *testing.T) {
	_, cloud := cloudtest.Pocket(t, pocket.Config{})
	claims(t, cloud)
}

func TestRealClaims(t *testing.T) { claims(t, cloudtest.Real(t, "kiln", "service", real.Placement)) }

// newProvider makes a provider that no service knows.
func newProvider(t *testing.T, cloud *openstack.Cloud) string {
	t.Helper()
	raw := cloud.Service(openstack.Description{Name: "placement", Types: []string{"placement"}, Microversion: client.Microversion})
	id := uuid.NewString()
	do := func(ctx context.Context, method, path string, body any) {
		if err := raw.Do(ctx, openstack.Call{Operation: "test", Method: method, Path: path, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	do(t.Context(), http.MethodPost, "resource_providers", map[string]string{"name": "kiln-test-" + id, "uuid": id})
	t.Cleanup(func() { do(context.WithoutCancel(t.Context()), http.MethodDelete, "resource_providers/"+id, nil) })
	do(t.Context(), http.MethodPut, "resource_providers/"+id+"/inventories", map[string]any{
		"resource_provider_generation": 0,
		"inventories": map[string]any{
			"VCPU":      map[string]any{"total": 4, "reserved": 1, "allocation_ratio": 2.5},
			"MEMORY_MB": map[string]any{"total": 4096, "reserved": 96, "allocation_ratio": 1.0},
			"DISK_GB":   map[string]any{"total": 100},
		},
	})
	return id
}

func claims(t *testing.T, cloud *openstack.Cloud) {
	c := client.New(cloud)
	provider := newProvider(t, cloud)
	first, second := uuid.NewString(), uuid.NewString()
	for _, consumer := range []string{first, second} {
		t.Cleanup(func() {
			if err := c.DeleteAllocation(context.WithoutCancel(t.Context()), consumer); err != nil {
				t.Error(err)
			}
		})
	}
	want := placement.Resources{VCPUs: 3, MemoryMB: 1000, DiskGB: 10}
	claim := client.Claim{ConsumerID: first, Type: "IMAGE_CACHE", ProjectID: "p", UserID: "u", Held: map[string]placement.Resources{provider: want}}
	if err := c.PutClaim(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if err := c.PutClaim(t.Context(), claim); errs.CodeOf(err) != "kiln.placement.concurrent" || !errs.Is(err, errs.Conflict) {
		t.Errorf("as a new consumer again: %v", err)
	}
	claim.ConsumerID = second
	claim.Held = map[string]placement.Resources{provider: {VCPUs: 5}}
	if err := c.PutClaim(t.Context(), claim); errs.CodeOf(err) != "kiln.placement.full" || !errs.Is(err, errs.Conflict) {
		t.Errorf("more than there is: %v", err)
	}
	if got, err := c.Allocation(t.Context(), first); err != nil || len(got) != 1 || got[provider] != want {
		t.Errorf("allocation: %+v, %v", got, err)
	}
	if got, err := c.Consumers(t.Context(), provider); err != nil || len(got) != 1 || got[first] != want {
		t.Errorf("consumers: %+v, %v", got, err)
	}
	if _, err := c.Consumers(t.Context(), uuid.NewString()); !errs.Is(err, errs.NotFound) {
		t.Errorf("no such provider: %v", err)
	}
	found := find(t, c, provider)
	if capacity := (placement.Resources{VCPUs: 7, MemoryMB: 4000, DiskGB: 100}); found.Capacity != capacity || found.Used != want {
		t.Errorf("provider: %+v", found)
	}
	for range 2 {
		if err := c.DeleteAllocation(t.Context(), first); err != nil {
			t.Error(err)
		}
	}
	if got, err := c.Allocation(t.Context(), first); err != nil || len(got) != 0 {
		t.Errorf("after the delete: %+v, %v", got, err)
	}
}

func find(t *testing.T, c *client.Client, id string) placement.Provider {
	t.Helper()
	all, err := c.Providers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.ID == id {
			return p
		}
	}
	t.Fatalf("provider %s is not among %d", id, len(all))
	return placement.Provider{}
}
