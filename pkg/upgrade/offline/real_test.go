package offline_test

import (
	"os"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// TestRealQuarantineBoot: the same upgrade as under QEMU, with the copy booted as a server of the quarantine project.
func TestRealQuarantineBoot(t *testing.T) {
	c := cloudtest.Real(t, "kiln", "service", real.Nova, real.Glance)
	images, compute, projects := glance.New(c), nova.New(c), keystone.New(c)
	booter, err := cloud.New(cloud.Config{
		Nova: compute, Images: images, Store: func(id string) cloud.Store { return images.ForProject(id) }, Projects: projects,
		Project: "other", Flavor: "kiln.small", Zone: "nova:" + os.Getenv("KILN_TEST_LIBVIRT_HOST"), Timeouts: testboot.Timeouts{Boot: 10 * time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	quarantineBoot(t, quarantinedBy(booter, 15*time.Minute))
}
