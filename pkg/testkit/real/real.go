// Package real lets a test say which real services it runs against. tools/testreport counts what they say, so that
// a run that quietly stopped using a real service shows.
package real

import (
	"os"
	"strings"
	"testing"
)

// Mark is how a line begins that names services; the names follow, separated by commas.
const Mark = "uses real: "

// The services that are counted.
const (
	Keystone  = "Keystone"
	Glance    = "Glance"
	Nova      = "Nova"
	Placement = "Placement"
	Neutron   = "Neutron"
	RabbitMQ  = "RabbitMQ"
	MariaDB   = "MariaDB"
	Ceph      = "Ceph"
)

// Uses says that this test, and all below it, talk to the real services.
func Uses(t testing.TB, services ...string) {
	t.Helper()
	t.Log(Mark + strings.Join(services, ","))
}

// Cloud is Uses for services of the cloud that tools/cloud runs. Without it the test is skipped in short mode and
// fails otherwise: nothing is passed over in silence.
func Cloud(t testing.TB, services ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("the real cloud is not for -short: tools/cloud up, then run without -short")
	}
	if os.Getenv("KILN_TEST_CLOUD") != "1" {
		t.Fatal(`no real cloud: tools/cloud up, then eval "$(tools/cloud env)"`)
	}
	Uses(t, services...)
}
