package conformance

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/placement/v1/allocations"
	"github.com/gophercloud/gophercloud/v2/openstack/placement/v1/resourceproviders"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// testGophercloud drives the services through the library that Kiln's own adapters are made with.
func testGophercloud(t *testing.T, target Target) {
	provider := func(t *testing.T, user, project string) *gophercloud.ProviderClient {
		t.Helper()
		client, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
			IdentityEndpoint: target.AuthURL, Username: user, Password: target.Password, DomainID: "default", TenantName: project,
		})
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	where := gophercloud.EndpointOpts{Region: target.Region}

	t.Run("identity", func(t *testing.T) { gopherIdentity(t, provider(t, "admin", "admin"), where) })
	t.Run("images", func(t *testing.T) { gopherImages(t, provider(t, "demo", "demo"), where) })
	t.Run("placement", func(t *testing.T) { gopherPlacement(t, provider(t, "kiln", "service"), where) })
	t.Run("wrong password", func(t *testing.T) {
		_, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
			IdentityEndpoint: target.AuthURL, Username: "demo", Password: "not it", DomainID: "default", TenantName: "demo",
		})
		if !gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
			t.Errorf("error %v", err)
		}
	})
}

func gopherIdentity(t *testing.T, provider *gophercloud.ProviderClient, where gophercloud.EndpointOpts) {
	client, err := openstack.NewIdentityV3(provider, where)
	if err != nil {
		t.Fatal(err)
	}
	user, err := tokens.Get(t.Context(), client, provider.Token()).ExtractUser()
	if err != nil || user.Name != "admin" || user.Domain.ID != "default" {
		t.Errorf("user %+v, error %v", user, err)
	}
	if ok, err := tokens.Validate(t.Context(), client, "gAAAAABforged"); ok || err != nil {
		t.Errorf("a forged token: valid %v, error %v", ok, err)
	}
	pages, err := projects.List(client, projects.ListOpts{Name: "demo"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, err := projects.ExtractProjects(pages)
	if err != nil || len(found) != 1 || found[0].Name != "demo" {
		t.Fatalf("projects %+v, error %v", found, err)
	}
	names := true
	pages, err = roles.ListAssignments(client, roles.ListAssignmentsOpts{ScopeProjectID: found[0].ID, IncludeNames: &names}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, err := roles.ExtractRoleAssignments(pages)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, a := range held {
		have[a.User.Name] = a.Role.Name
	}
	for user, role := range map[string]string{"demo": "member", "demo-reader": "reader", "demo-manager": "manager"} {
		if have[user] != role {
			t.Errorf("%s has %q in demo, want %q", user, have[user], role)
		}
	}
}

func gopherImages(t *testing.T, provider *gophercloud.ProviderClient, where gophercloud.EndpointOpts) {
	client, err := openstack.NewImageV2(provider, where)
	if err != nil {
		t.Fatal(err)
	}
	mark := "conformance-" + uuid.NewString()
	var ids []string
	for range 3 {
		made, err := images.Create(t.Context(), client, images.CreateOpts{Name: mark, DiskFormat: "raw", ContainerFormat: "bare",
			Properties: map[string]string{"kiln_version": "1"}}).Extract()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ID)
		defer func() {
			if err := images.Delete(t.Context(), client, made.ID).ExtractErr(); err != nil {
				t.Error(err)
			}
		}()
	}
	content := []byte("the image's bytes")
	if err := imagedata.Upload(t.Context(), client, ids[0], bytes.NewReader(content)).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	got, err := images.Get(t.Context(), client, ids[0]).Extract()
	if err != nil || got.Status != images.ImageStatusActive || got.SizeBytes != int64(len(content)) || got.Properties["kiln_version"] != "1" {
		t.Errorf("image %+v, error %v", got, err)
	}
	body, err := imagedata.Download(t.Context(), client, ids[0]).Extract()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if back, err := io.ReadAll(body); err != nil || !bytes.Equal(back, content) {
		t.Errorf("downloaded %q, error %v", back, err)
	}
	hidden, err := images.Update(t.Context(), client, ids[0], images.UpdateOpts{
		images.ReplaceImageHidden{NewHidden: true}, images.UpdateImageProperty{Op: images.AddOp, Name: "kiln_parent", Value: ids[1]},
	}).Extract()
	if err != nil || !hidden.Hidden || hidden.Properties["kiln_parent"] != ids[1] {
		t.Errorf("image %+v, error %v", hidden, err)
	}
	pages, seen := 0, 0
	err = images.List(client, images.ListOpts{Name: mark, Limit: 1}).EachPage(t.Context(), func(_ context.Context, page pagination.Page) (bool, error) {
		list, err := images.ExtractImages(page)
		pages, seen = pages+1, seen+len(list)
		return true, err
	})
	if err != nil || seen != 2 || pages < 2 {
		t.Errorf("%d images on %d pages (one of three is hidden), error %v", seen, pages, err)
	}
	if _, err := images.Get(t.Context(), client, uuid.NewString()).Extract(); !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		t.Errorf("an unknown image: %v", err)
	}
}

func gopherPlacement(t *testing.T, provider *gophercloud.ProviderClient, where gophercloud.EndpointOpts) {
	client, err := openstack.NewPlacementV1(provider, where)
	if err != nil {
		t.Fatal(err)
	}
	client.Microversion = placementLatest
	made, err := resourceproviders.Create(t.Context(), client, resourceproviders.CreateOpts{Name: "conformance-" + uuid.NewString()}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resourceproviders.Delete(t.Context(), client, made.UUID).ExtractErr(); err != nil {
			t.Error(err)
		}
	}()
	stock, err := resourceproviders.UpdateInventories(t.Context(), client, made.UUID, resourceproviders.UpdateInventoriesOpts{
		ResourceProviderGeneration: made.Generation,
		Inventories:                map[string]resourceproviders.Inventory{"VCPU": {AllocationRatio: 1, MaxUnit: 4, MinUnit: 1, StepSize: 1, Total: 4}},
	}).Extract()
	if err != nil || stock.Inventories["VCPU"].Total != 4 {
		t.Fatalf("inventories %+v, error %v", stock, err)
	}
	consumer := uuid.NewString()
	want := allocations.UpdateOpts{ProjectID: "p", UserID: "u", ConsumerType: "INSTANCE",
		Allocations: map[string]allocations.ProviderAllocationsOpts{made.UUID: {Resources: map[string]int{"VCPU": 3}}}}
	if err := allocations.Update(t.Context(), client, consumer, want).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	if err := allocations.Update(t.Context(), client, uuid.NewString(), want).ExtractErr(); !gophercloud.ResponseCodeIs(err, http.StatusConflict) {
		t.Errorf("a claim for more than is left: %v", err)
	}
	held, err := allocations.Get(t.Context(), client, consumer).Extract()
	if err != nil || held.Allocations[made.UUID].Resources["VCPU"] != 3 {
		t.Errorf("allocations %+v, error %v", held, err)
	}
	if err := allocations.Delete(t.Context(), client, consumer).ExtractErr(); err != nil {
		t.Error(err)
	}
}
