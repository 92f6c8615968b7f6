package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// uploaded is an image of the project that Kiln has read, and that lacks a fix.
func (k kiln) uploaded(name, project string) string {
	k.t.Helper()
	ctx, now := k.t.Context(), time.Now()
	g, err := k.parts.Glance.CreateImage(ctx, catalog.NewGlanceImage{ID: uuid.NewString(), Name: name, DiskFormat: "raw", ContainerFormat: "bare", Owner: project, Visibility: "private"})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.parts.Glance.Upload(ctx, g.ID, strings.NewReader(strings.Repeat("x", 512)), 512); err != nil {
		k.t.Fatal(err)
	}
	err = k.parts.DB.PutImage(ctx, catalog.Image{ID: g.ID, ProjectID: project, Name: name, State: catalog.Inspected, CreatedAt: now, UpdatedAt: now,
		Facts: &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm", PrettyName: "Debian 12"}}})
	if err == nil {
		err = k.parts.DB.PutAdvisories(ctx, []advisory.Advisory{{ID: "s/openssl/2/amd64", Package: "openssl", Version: "2", Suite: "s", Security: true, CVEs: []string{}, CreatedAt: now, UpdatedAt: now}})
	}
	if err == nil {
		err = k.parts.DB.ReplacePending(ctx, g.ID, []advisory.Pending{{ImageID: g.ID, AdvisoryID: "s/openssl/2/amd64", Package: "openssl", Installed: "1", Fixed: "2", Suite: "s", Security: true, Urgency: "high"}})
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return g.ID
}

// Campaigns and standing policies on the command line; the test ends the upgrades as a worker would.
func TestCampaignsOnTheCommandLine(t *testing.T) {
	k := start(t, func(c *config.Config) { c.Engine.CampaignInterval = time.Second })
	var family catalog.Family
	k.parsed(&family, "family", "create", "--name", "own")
	project := family.ProjectID
	a, b, c := k.uploaded("Web One", project), k.uploaded("Web Two", project), k.uploaded("Other", "another-project")

	if out := k.run("image", "adopt", a, "--family", "web"); !strings.Contains(out, "adopted") {
		t.Errorf("adopted:\n%s", out)
	}
	out := k.run("campaign", "create", "--dry-run", "--min-severity", "high")
	for _, want := range []string{a, b, "(adopted)", "Debian 12", "2 images would be upgraded; nothing was changed"} {
		if !strings.Contains(out, want) || strings.Contains(out, c) {
			t.Errorf("dry run without %q, or with the image of another project:\n%s", want, out)
		}
	}
	if _, err := k.try("campaign", "create", "--all-projects", "--dry-run"); err == nil {
		t.Error("a member took the images of all projects")
	}
	if _, err := k.try("campaign", "create", "--hours", "at night"); err == nil || !strings.Contains(err.Error(), "hours") {
		t.Errorf("hours that nobody can read: %v", err)
	}

	var made campaign.View
	k.parsed(&made, "campaign", "create", "spring", "--max-parallel", "1", "--approve", "--test-boot", "--hours", "00:00-24:00")
	k.await("total=2", "campaign", "show", made.ID)
	var planned struct {
		PlanJobID string `json:"plan_job_id"`
	}
	k.parsed(&planned, "campaign", "show", made.ID)
	k.run("job", "cancel", planned.PlanJobID, "--no-wait") // nobody plans here: images without a plan are upgraded all the same
	k.await("ready", "campaign", "show", made.ID)
	k.as("admin", "admin") // who may approve
	k.run("campaign", "approve", made.ID)
	k.as("demo", "demo")
	k.await("running=1", "campaign", "show", made.ID)
	if out := k.run("campaign", "pause", made.ID); !strings.Contains(out, "spring: paused, 0 of 2 images, 1 running") {
		t.Errorf("pause:\n%s", out)
	}
	if out := k.run("campaign", "list"); !strings.Contains(out, "spring") || !strings.Contains(out, "paused") {
		t.Errorf("list:\n%s", out)
	}
	k.run("campaign", "resume", made.ID)
	for range 2 { // one at a time
		k.endUpgrade(upgrade.Failed)
	}
	if out, err := k.try("campaign", "watch", made.ID); err == nil || !strings.Contains(out, "spring: succeeded, 2 of 2 images, 2 failed") {
		t.Errorf("%v, watch:\n%s", err, out)
	}
	if out := k.run("campaign", "items", made.ID, "--state", "failed"); !strings.Contains(out, "the gate says no") || !strings.Contains(out, "web-two") {
		t.Errorf("items:\n%s", out)
	}
	if out := k.run("campaign", "report", made.ID); !strings.Contains(out, "failed     Web Two") || !strings.Contains(out, "2 images: 0 fixed") {
		t.Errorf("report:\n%s", out)
	}
	if _, err := k.try("campaign", "cancel", made.ID); err == nil {
		t.Error("a campaign that has ended was cancelled")
	}

	var p campaign.Policy
	k.parsed(&p, "upgrade-policy", "create", "urgent", "--hotfix-hours", "48", "--hours", "Sun 01:00-02:00", "--min-severity", "critical", "--family", "web")
	k.parsed(&p, "upgrade-policy", "set", p.ID, "--hotfix-hours", "24", "--hours", "always")
	if p.HotfixHours != 24 || len(p.Hours) != 0 || p.MinSeverity != "critical" || len(p.Filter.Families) != 1 || !p.Enabled {
		t.Errorf("policy %+v", p)
	}
	k.run("upgrade-policy", "disable", p.ID)
	if out := k.run("upgrade-policy", "list"); !strings.Contains(out, "urgent") || !strings.Contains(out, "false") {
		t.Errorf("policies:\n%s", out)
	}
	k.run("upgrade-policy", "delete", p.ID)
}

func (k kiln) parsed(into any, args ...string) {
	k.t.Helper()
	out := k.run(append(args, "-f", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		k.t.Fatalf("%v: %s", err, out)
	}
}

// endUpgrade waits for an upgrade and ends it as a worker would.
func (k kiln) endUpgrade(s upgrade.State) {
	k.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		open, err := k.parts.DB.ListUpgrades(k.t.Context(), listing.All().Where("state", string(upgrade.Queued)))
		if err != nil {
			k.t.Fatal(err)
		}
		if len(open) == 0 {
			continue
		}
		u := open[0]
		u.State, u.Error, u.UpdatedAt = s, "the gate says no", time.Now()
		if err := k.parts.DB.UpdateUpgrade(k.t.Context(), u); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	k.t.Fatal("no upgrade was started")
}
