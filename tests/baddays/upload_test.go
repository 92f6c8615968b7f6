package baddays

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// upgrade asks for a new version of an image.
func (w *world) upgrade(image string) upgrade.Upgrade {
	w.t.Helper()
	var u upgrade.Upgrade
	if err := w.member.Post(w.t.Context(), "/v1/upgrades", map[string]string{"image_id": image}, &u); err != nil {
		w.t.Fatal(err)
	}
	return u
}

// upgradedOnce expects that the upgrade made one image, whole, and hid the original without touching its bytes.
func (w *world) upgradedOnce(u upgrade.Upgrade, before catalog.GlanceImage) {
	w.t.Helper()
	if err := w.member.Get(w.t.Context(), "/v1/upgrades/"+u.ID, &u); err != nil || u.State != upgrade.Succeeded || u.Report == nil || len(u.Report.Packages) == 0 {
		w.t.Errorf("upgrade %+v, error %v", u, err)
	}
	all := w.images()
	if len(all) != 2 {
		w.t.Errorf("Glance has %d images", len(all))
	}
	for _, g := range all {
		switch {
		case g.ID == before.ID && g.Hidden && g.HashValue == before.HashValue && g.Status == "active":
		case g.ID == u.ToImageID && !g.Hidden && g.Status == "active" && g.Properties[catalog.PropVersion] == u.ToVersion && g.Properties[catalog.PropParent] == before.ID:
		default:
			w.t.Errorf("an image of Glance is %+v", g)
		}
	}
	if n := w.count("SELECT COUNT(*) FROM versions"); n != 2 {
		w.t.Errorf("%d versions", n)
	}
	w.toldOnce("upgrade.succeeded", 1)
	w.toldOnce("version.published", 1)
	if left := files(w.t, filepath.Join(w.dir, "state", "work")); len(left) > 0 {
		w.t.Errorf("the worker left %v", left)
	}
}

// Glance is full at the first upload and dies in the middle of the second: the job's log says so each time, and the
// third makes the one image.
func TestGlanceFullAndGone(t *testing.T) {
	w := newWorld(t)
	image := w.uploadFile("debian", "qcow2", debian(t))
	w.version("debian", image)
	before, err := w.glance.Image(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	w.startAPI()
	w.start("kiln-worker")
	w.cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodPut, PathSuffix: "/file"}, wire.Fault{Status: http.StatusRequestEntityTooLarge}, 1)
	u := w.upgrade(image)
	eventually(t, 3*time.Minute, func() error { return w.failedAttempt(u.JobID, 1) })
	w.valve.holdUploads(1 << 20)
	w.valve.waitHeld(t, 1, 3*time.Minute)
	w.valve.setAway(true)
	w.valve.release()
	eventually(t, time.Minute, func() error { return w.failedAttempt(u.JobID, 2) })
	w.valve.setAway(false)
	j, log := w.ended(u.JobID, 3*time.Minute)
	if j.State != job.Succeeded || j.Attempt != 3 {
		t.Errorf("the job is %s after %d attempts: %+v", j.State, j.Attempt, j.Error)
	}
	var faults []string
	for _, l := range log {
		if l.Level == "error" {
			faults = append(faults, l.Text)
		}
	}
	if len(faults) != 2 || !strings.Contains(faults[0], "413") && !strings.Contains(faults[0], "full") && !strings.Contains(faults[0], "quota") {
		t.Errorf("the job's log tells these faults: %q", faults)
	}
	t.Logf("the job's log: %q", faults)
	w.upgradedOnce(u, before)
}
