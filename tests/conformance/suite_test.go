// Package conformance is the one suite that runs against the pocket cloud and against a real OpenStack, so that the
// stand-in cannot drift from what it stands for.
//
// TestPocket needs nothing. TestReal needs a cloud: tools/cloud up, then eval "$(tools/cloud env)". Zun is not
// packaged in Debian: its part of the suite plays recorded answers instead (testdata/zun).
package conformance

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// Target is the cloud that the suite runs against. Its users are those that tools/cloud makes.
type Target struct {
	AuthURL  string // ends with /v3
	Password string // of admin, kiln, demo, demo-reader, demo-manager and other
	Region   string
	Real     bool
	listener *listener // hears the notifications
}

// areas are the parts of the suite.
var areas = []struct {
	name string
	test func(t *testing.T, target Target)
	uses []string
}{
	{"keystone", testKeystone, []string{real.Keystone}},
	{"glance", testGlance, []string{real.Keystone, real.Glance}},
	{"placement", testPlacement, []string{real.Keystone, real.Placement}},
	{"nova", testNova, []string{real.Keystone, real.Nova, real.Placement, real.Glance}},
	{"notifications", testNotifications, []string{real.Glance, real.RabbitMQ}},
	{"gophercloud", testGophercloud, []string{real.Keystone, real.Glance, real.Nova}},
}

func runSuite(t *testing.T, target Target) {
	t.Helper()
	for _, area := range areas {
		t.Run(area.name, func(t *testing.T) {
			if target.Real {
				real.Uses(t, area.uses...)
			}
			area.test(t, target)
		})
	}
}

func TestPocket(t *testing.T) {
	runSuite(t, pocketTarget(t))
}

// pocketTarget starts a pocket cloud with the same hosts as tools/cloud has.
func pocketTarget(t *testing.T) Target {
	t.Helper()
	heard := &listener{}
	cloud, err := pocket.Start(t.Context(), pocket.Config{
		Dir: t.TempDir(),
		Nodes: []wire.Node{
			{Name: "fake1.kiln.test", VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
			{Name: "fake2.kiln.test", VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
			{Name: "fake3.kiln.test", VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
		},
		KilnURL: "http://127.0.0.1:9511/",
		Notify:  heard.add,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Errorf("close the pocket cloud: %v", err)
		}
	})
	return Target{AuthURL: cloud.AuthURL(), Password: "kiln", Region: "RegionOne", listener: heard}
}

func TestReal(t *testing.T) {
	if testing.Short() {
		t.Skip("the real cloud is not for -short: tools/cloud up, then run without -short")
	}
	if os.Getenv("KILN_TEST_CLOUD") != "1" {
		t.Fatal(`no real cloud: run tools/cloud up, then eval "$(tools/cloud env)"`)
	}
	runSuite(t, Target{
		AuthURL: os.Getenv("KILN_TEST_AUTH_URL"), Password: os.Getenv("KILN_TEST_PASSWORD"),
		Region: os.Getenv("KILN_TEST_REGION"), Real: true, listener: &listener{},
	})
}

var client = &http.Client{Timeout: 90 * time.Second}
