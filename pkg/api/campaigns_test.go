package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

func TestCampaignFromDryRunToCancel(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	wish := map[string]any{"name": "spring", "filter": map[string]any{"families": []string{"debian-12-web"}, "package": "openssl<3.0.2"}, "policy": map[string]any{"conffiles": "fail"},
		"max_parallel": 1, "hours": []string{"Mon-Fri 20:00-06:00 Europe/Berlin"}, "approve": true}
	var choice campaign.Choice
	w.want(http.StatusOK, "member@p", http.MethodPost, "/v1/campaigns?dry_run=true", wish).into(t, &choice)
	if len(choice.Taken) != 1 || choice.Taken[0].ImageID != "image-1" || choice.Taken[0].Version != "20260305.1" || told() != "" {
		t.Fatalf("%+v, events %q", choice, told())
	}
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/campaigns", wish)
	var c campaign.View
	a.into(t, &c)
	if a.header.Get("Location") != "http://example.com/v1/campaigns/"+c.ID || c.State != campaign.Planning || c.ProjectID != "p" || c.UserID != "user-member" || !strings.HasPrefix(c.RequestID, "req-") {
		t.Errorf("%s", a.body)
	}
	path := "/v1/campaigns/" + c.ID
	w.refused(http.StatusConflict, "kiln.campaign.state", "", "manager@p", http.MethodPost, path+"/approve", nil)
	w.engineChooses(c.ID, choice)
	w.want(http.StatusOK, "manager@p", http.MethodPost, path+"/approve", nil)
	w.want(http.StatusOK, "member@p", http.MethodPost, path+"/pause", nil)
	metrics := string(w.want(http.StatusOK, "", http.MethodGet, "/metrics", nil).body)
	for _, want := range []string{`kiln_campaigns_open{state="paused"} 1`, `kiln_campaigns_open{state="running"} 1`, "kiln_campaign_promises_late 0"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
	w.want(http.StatusOK, "member@p", http.MethodPost, path+"/resume", map[string]any{})
	if n := w.want(http.StatusOK, "reader@p", http.MethodGet, path+"/items?state=pending&sort=position:desc", nil); !strings.Contains(string(n.body), `"image_id":"image-1"`) {
		t.Errorf("%s", n.body)
	}
	if r := w.want(http.StatusOK, "reader@p", http.MethodGet, path+"/report", nil); !strings.Contains(string(r.body), `"remaining":[{"image_id":"image-1"`) {
		t.Errorf("%s", r.body)
	}
	if s := w.want(http.StatusOK, "member@p", http.MethodPost, path+"/cancel", nil); s.get(t, "state") != "cancelled" || s.get(t, "open") != "false" {
		t.Errorf("%s", s.body)
	}
	w.want(http.StatusOK, "member@p", http.MethodPost, path+"/cancel", nil)
	w.refused(http.StatusConflict, "kiln.campaign.state", "", "member@p", http.MethodPost, path+"/resume", nil)
	if got, want := told(), "campaign.created campaign.approved campaign.paused campaign.resumed campaign.cancelled"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

// engineChooses does what an engine does first.
func (w *world) engineChooses(id string, choice campaign.Choice) {
	w.t.Helper()
	c, err := w.db.FindCampaign(w.t.Context(), id)
	w.must(err)
	for n, p := range choice.Taken {
		w.must(w.db.AddCampaignItems(w.t.Context(), []campaign.Item{{ID: id + p.ImageID, CampaignID: id, ImageID: p.ImageID, ProjectID: p.ProjectID, Name: p.Name, Position: n, State: campaign.Pending, CreatedAt: noon, UpdatedAt: noon}}))
	}
	c.State, c.Chosen = campaign.Ready, true
	w.must(w.db.UpdateCampaign(w.t.Context(), c))
}

// A running upgrade of a campaign that is cancelled has its job cancelled, too.
func TestCancelReachesTheJobs(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "image-1"})
	items, err := w.db.ListCampaignItems(t.Context(), listing.All().Where("campaign_id", "campaign-1"))
	w.must(err)
	items[0].State, items[0].UpgradeID = campaign.Started, a.get(t, "id")
	w.must(w.db.UpdateCampaignItem(t.Context(), items[0]))
	if c := w.want(http.StatusOK, "member@p", http.MethodPost, "/v1/campaigns/campaign-1/cancel", nil); c.get(t, "open") != "true" {
		t.Errorf("%s", c.body)
	}
	u, err := w.db.FindUpgrade(t.Context(), a.get(t, "id"))
	if err != nil || u.State != upgrade.Cancelled {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestWhoseImagesACampaignTakes(t *testing.T) {
	w := newWorld(t)
	w.seed()
	for _, filter := range []map[string]any{{"all_projects": true}, {"project_id": "q"}} {
		for _, path := range []string{"/v1/campaigns", "/v1/campaigns?dry_run=true", "/v1/upgrade-policies"} {
			body := map[string]any{"name": "x", "filter": filter}
			if a := w.do("manager@p", http.MethodPost, path, body); a.status != http.StatusForbidden {
				t.Errorf("a manager's %s with %v: %d %s", path, filter, a.status, a.body)
			}
		}
		w.want(http.StatusOK, "admin@p", http.MethodPost, "/v1/campaigns?dry_run=true", map[string]any{"filter": filter})
	}
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/campaigns", map[string]any{"filter": map[string]any{"project_id": "p"}})
	for field, body := range map[string]map[string]any{
		"filter.cve": {"filter": map[string]any{"cve": "1"}}, "hours": {"hours": []string{"x"}}, "max_parallel": {"max_parallel": 1000}, "policy.conffiles": {"policy": map[string]any{"conffiles": "x"}},
	} {
		a := w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/campaigns", body)
		var f faults
		a.into(t, &f)
		if f.Errors[0].Where.Field != field {
			t.Errorf("%v: %s", body, a.body)
		}
	}
	w.refused(http.StatusBadRequest, "kiln.request.query", "dry_run", "member@p", http.MethodPost, "/v1/campaigns?dry_run=perhaps", map[string]any{})
}

func TestStandingPolicies(t *testing.T) {
	w := newWorld(t)
	told := w.since()
	a := w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/upgrade-policies", map[string]any{"name": "urgent", "hotfix_hours": 48, "hours": []string{"Sat 00:00-24:00"}})
	var p campaign.Policy
	a.into(t, &p)
	if p.MinSeverity != "high" || !p.Enabled || p.MaxParallel != 2 || a.header.Get("Location") != "http://example.com/v1/upgrade-policies/"+p.ID {
		t.Errorf("%s", a.body)
	}
	path := "/v1/upgrade-policies/" + p.ID
	w.refused(http.StatusConflict, "kiln.upgrade_policy.exists", "", "member@p", http.MethodPost, "/v1/upgrade-policies", map[string]any{"name": "urgent"})
	w.refused(http.StatusBadRequest, "kiln.upgrade_policy.hotfix_hours", "hotfix_hours", "member@p", http.MethodPatch, path, map[string]any{"hotfix_hours": 9000})
	w.refused(http.StatusBadRequest, "kiln.upgrade_policy.filter", "filter", "member@p", http.MethodPatch, path, map[string]any{"filter": map[string]any{"min_severity": "low"}})
	if a := w.want(http.StatusOK, "member@p", http.MethodPatch, path, map[string]any{"enabled": false, "min_severity": "critical", "hours": []string{}}); a.get(t, "enabled") != "false" || a.get(t, "hotfix_hours") != "48" {
		t.Errorf("%s", a.body)
	}
	// One that an administrator lets reach further is an administrator's from then on.
	w.want(http.StatusOK, "admin@p", http.MethodPatch, path, map[string]any{"filter": map[string]any{"all_projects": true}})
	if a := w.do("member@p", http.MethodPatch, path, map[string]any{"enabled": true}); a.status != http.StatusForbidden {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/upgrade-policies?enabled=false", nil); !strings.Contains(string(a.body), p.ID) {
		t.Errorf("%s", a.body)
	}
	if a := w.do("manager@p", http.MethodDelete, path, nil); a.status != http.StatusForbidden {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.want(http.StatusNoContent, "admin@p", http.MethodDelete, path, nil)
	if got, want := told(), "upgrade_policy.created upgrade_policy.updated upgrade_policy.updated upgrade_policy.deleted"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestAnImageIsAdopted(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/images/in-glance/adopt", nil)
	if a.get(t, "family") != "old" || a.get(t, "origin") != "adopted" || a.get(t, "name") != "20260305.1" || a.header.Get("Location") != "http://example.com/v1/families/old/versions/20260305.1" {
		t.Errorf("%s", a.body)
	}
	if again := w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/images/in-glance/adopt", map[string]any{"family": "old"}); again.get(t, "id") != a.get(t, "id") {
		t.Errorf("%s", again.body)
	}
	w.refused(http.StatusConflict, "kiln.image.adopted", "family", "member@p", http.MethodPost, "/v1/images/in-glance/adopt", map[string]any{"family": "new"})
	w.refused(http.StatusNotFound, "kiln.image.not_found", "", "member@q", http.MethodPost, "/v1/images/in-glance/adopt", nil)

	fresh := newWorld(t)
	fresh.seed()
	fresh.refused(http.StatusConflict, "kiln.family.not_empty", "family", "member@p", http.MethodPost, "/v1/images/in-glance/adopt", map[string]any{"family": "debian-12-web"})
	fresh.refused(http.StatusBadRequest, "kiln.family.name", "family", "member@p", http.MethodPost, "/v1/images/in-glance/adopt", map[string]any{"family": "A B"})
}
