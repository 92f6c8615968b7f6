package nova_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func TestPocketUsersOfImage(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{Nodes: []wire.Node{
		{Name: "fake1", VCPUs: 8, MemoryMB: 8192, DiskGB: 100}, {Name: "fake2", VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
	}})
	usersOfImage(t, kiln, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}), "kiln.tiny")
}

func TestRealUsersOfImage(t *testing.T) {
	usersOfImage(t, cloudtest.Real(t, "kiln", "service", real.Nova), cloudtest.Real(t, "demo", "demo"), "kiln.tiny")
}

// usersOfImage finds another project's server by its image, and no other one.
func usersOfImage(t *testing.T, kiln, demo *openstack.Cloud, flavorName string) {
	project, err := demo.ForProject("").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := nova.New(kiln)
	image := newImage(t, glance.New(kiln))
	if found, err := c.UsersOfImage(t.Context(), image); err != nil || len(found) != 0 {
		t.Errorf("before: %v, %v", found, err)
	}
	server, err := c.CreateServer(t.Context(), project, placement.NewServer{
		Name: "kiln-test", ImageID: image, FlavorID: flavors(t, c, flavorName).ID, Host: hypervisor(t, c, kiln).Host,
		Metadata: map[string]string{placement.KeyWorkload: uuid.NewString()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.DeleteServer(context.WithoutCancel(t.Context()), project, server.ID); err != nil {
			t.Error(err)
		}
	})
	await(t, c, project, server.ID, "ACTIVE")
	if found, err := c.UsersOfImage(t.Context(), image); err != nil || !slices.Equal(found, []string{server.ID}) {
		t.Errorf("while it runs: %v, %v", found, err)
	}
	if counts, err := c.ImagesInUse(t.Context()); err != nil || counts[image] != 1 {
		t.Errorf("counted: %v, %v", counts, err)
	}
	if found, err := c.UsersOfImage(t.Context(), uuid.NewString()); err != nil || len(found) != 0 {
		t.Errorf("of another image: %v, %v", found, err)
	}
}
