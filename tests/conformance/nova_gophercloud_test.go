package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/aggregates"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/hypervisors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
)

// compute is gophercloud's client of Nova at 2.93.
func (n *novaBench) compute(t *testing.T) *gophercloud.ServiceClient {
	t.Helper()
	target := n.admin.target
	provider, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: target.AuthURL, Username: "admin", Password: target.Password, TenantName: "admin", DomainID: "default",
	})
	if err != nil {
		t.Fatal(err)
	}
	compute, err := openstack.NewComputeV2(provider, gophercloud.EndpointOpts{Region: target.Region})
	if err != nil {
		t.Fatal(err)
	}
	compute.Microversion = "2.93"
	return compute
}

// gophercloud: the library that Kiln's clients are made of reads what both clouds answer.
func (n *novaBench) gophercloud(t *testing.T) {
	compute := n.compute(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()

	made, err := servers.Create(ctx, compute, servers.CreateOpts{
		Name: "kiln-conformance-go", ImageRef: n.image, FlavorRef: n.tiny, Networks: "none", Metadata: map[string]string{"kiln": "k"},
	}, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.remove(t, made.ID) })
	if err := servers.WaitForStatus(ctx, compute, made.ID, "ACTIVE"); err != nil {
		t.Fatal(err)
	}
	got, err := servers.Get(ctx, compute, made.ID).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if got.Host == "" || got.HypervisorHostname != got.Host || got.Metadata["kiln"] != "k" || got.LaunchedAt.IsZero() || got.Image["id"] != n.image {
		t.Errorf("server %+v", got)
	}
	pages, err := servers.List(compute, servers.ListOpts{Name: "kiln-conformance-go", AllTenants: true}).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := servers.ExtractServers(pages); err != nil || len(list) != 1 || list[0].ID != made.ID {
		t.Errorf("list %v, %v", list, err)
	}
	if text, err := servers.ShowConsoleOutput(ctx, compute, made.ID, servers.ShowConsoleOutputOpts{Length: 1}).Extract(); err != nil || text == "" {
		t.Errorf("console %q, %v", text, err)
	}
	if err := servers.Delete(ctx, compute, made.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
	n.gopherclouds(ctx, t, compute)
}

// gopherclouds are the lists of the things around the servers.
func (n *novaBench) gopherclouds(ctx context.Context, t *testing.T, compute *gophercloud.ServiceClient) {
	t.Helper()
	pages, err := flavors.ListDetail(compute, nil).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := flavors.ExtractFlavors(pages); err != nil || len(list) < 2 {
		t.Errorf("flavors %v, %v", list, err)
	}
	if pages, err = services.List(compute, services.ListOpts{Binary: "nova-compute"}).AllPages(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := services.ExtractServices(pages)
	if err != nil || len(list) < 3 {
		t.Errorf("services %v, %v", list, err)
	}
	if pages, err = hypervisors.List(compute, hypervisors.ListOpts{}).AllPages(ctx); err != nil {
		t.Fatal(err)
	}
	if hosts, err := hypervisors.ExtractHypervisors(pages); err != nil || len(hosts) != len(list) {
		t.Errorf("hypervisors %v, %v", hosts, err)
	}
	name := unique("go")
	group, err := aggregates.Create(ctx, compute, aggregates.CreateOpts{Name: name}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if group, err = aggregates.AddHost(ctx, compute, group.ID, aggregates.AddHostOpts{Host: fakeHost}).Extract(); err != nil || len(group.Hosts) != 1 {
		t.Fatalf("aggregate %v, %v", group, err)
	}
	if _, err = aggregates.RemoveHost(ctx, compute, group.ID, aggregates.RemoveHostOpts{Host: fakeHost}).Extract(); err != nil {
		t.Error(err)
	}
	if err := aggregates.Delete(ctx, compute, group.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
}
