//go:build ceph

package daemon_test

import (
	"os"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// An image that Glance has in a Ceph which the worker may read is read from there.
func TestRealCollectFromCeph(t *testing.T) {
	c := newCollector(t, real.Ceph)
	id := c.upload(system(t))
	if err := c.parts.Glance.CopyToStores(t.Context(), id, []string{"rbd1"}); err != nil {
		t.Fatal(err)
	}
	c.until("it is in Ceph", func() bool {
		i, err := c.parts.Glance.ImportOf(t.Context(), id)
		return err == nil && len(i.Running) == 0 && len(i.Done) == 2
	})
	c.cfg.Collect.Interval = time.Second
	c.cfg.Collect.CephConf, c.cfg.Collect.CephUser = os.Getenv("KILN_TEST_CEPH_CONF"), "cluster-a"
	c.open()
	c.run(func() {
		if out := c.read(id); out.Method != "rbd" || out.BytesRead > out.Size/10 {
			t.Errorf("%+v", out)
		}
	})
}
