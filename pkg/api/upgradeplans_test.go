package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

func TestUpgradePlans(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades/plan", map[string]any{"image_ids": []string{"image-2", "image-1", "image-1"}, "policy": map[string]any{"security": true}})
	if a.header.Get("Location") != "http://example.com/v1/jobs/"+a.get(t, "id") {
		t.Errorf("Location %s", a.header.Get("Location"))
	}
	w.job(a.get(t, "id"), job.UpgradePlan, job.WorkerQueue, `{"image_ids":["image-1","image-2"],"policy":{"security":true}}`, "upgrades/plans")
	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades/plan", map[string]any{"family": "debian-12-web", "channel": "20260305.2"})
	w.job(a.get(t, "id"), job.UpgradePlan, job.WorkerQueue, `{"image_ids":["image-2"],"policy":{}}`, "upgrades/plans")
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades/plan", map[string]any{"all": true})

	for name, c := range map[string]struct {
		code, field string
		body        map[string]any
	}{
		"nothing":                {"kiln.request.image", "image_ids", map[string]any{}},
		"two ways":               {"kiln.request.image", "image_ids", map[string]any{"all": true, "family": "x"}},
		"a channel of no family": {"kiln.request.image", "image_ids", map[string]any{"all": true, "channel": "x"}},
		"an image that is not":   {"kiln.image.not_found", "image_ids", map[string]any{"image_ids": []string{"nosuch"}}},
		"a family that is not":   {"kiln.family.not_found", "family", map[string]any{"family": "nosuch"}},
		"a policy that is none":  {"kiln.upgrade.policy", "policy.running", map[string]any{"all": true, "policy": map[string]any{"running": "perhaps"}}},
	} {
		t.Log(name)
		w.refused(http.StatusBadRequest, c.code, c.field, "member@p", http.MethodPost, "/v1/upgrades/plan", c.body)
	}
	w.refused(http.StatusBadRequest, "kiln.image.not_found", "image_ids", "member@q", http.MethodPost, "/v1/upgrades/plan", map[string]any{"image_ids": []string{"image-1"}})
	w.refused(http.StatusForbidden, "kiln.policy.denied", "", "reader@p", http.MethodPost, "/v1/upgrades/plan", map[string]any{"all": true})

	w.refused(http.StatusNotFound, "kiln.plan.not_found", "", "reader@p", http.MethodGet, "/v1/images/image-2/plan", nil)
	plan := upgrade.Plan{
		ImageID: "image-1", ProjectID: "p", Release: "bookworm", Architecture: "amd64", CVEs: []string{"CVE-2026-1"}, Download: 7, Kernel: true, Group: "sha256:ab", CreatedAt: noon,
		Changes: []upgrade.PlannedChange{{PackageRef: upgrade.PackageRef{Name: "openssl", Architecture: "amd64", From: "1", To: "2"}, Urgency: "high", CVEs: []string{"CVE-2026-1"}, Script: upgrade.ScriptSafe, Needs: []string{"libssl3:amd64"}}},
		Held:    []upgrade.Held{{Name: "web", Version: "1", To: "2", Reason: "held by the image's owner"}},
	}
	if err := w.db.PutPlan(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	a = w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/image-1/plan", nil)
	if a.get(t, "image_id") != "image-1" || !strings.Contains(string(a.body), `"needs":["libssl3:amd64"]`) {
		t.Errorf("%s", a.body)
	}
	w.refused(http.StatusNotFound, "kiln.plan.not_found", "", "reader@q", http.MethodGet, "/v1/images/image-1/plan", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/upgrades/plans?kernel=true&group=sha256:ab", nil); !strings.Contains(string(a.body), "openssl") {
		t.Errorf("%s", a.body)
	}
	if a := w.want(http.StatusOK, "reader@q", http.MethodGet, "/v1/upgrades/plans", nil); strings.Contains(string(a.body), "openssl") {
		t.Errorf("another project sees %s", a.body)
	}
}
