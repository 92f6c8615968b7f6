package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

func testCampaigns(t *testing.T, db *store.DB) {
	ctx := t.Context()
	by, begun := at(48*3600), at(1)
	c := campaign.Campaign{
		ID: "c1", ProjectID: "p1", Name: "march", PolicyID: "s1", Filter: campaign.Filter{Families: []catalog.FamilyName{"web"}, MinSeverity: "high"},
		Policy: upgrade.Policy{Conffiles: "new"}, MaxParallel: 3, StopAfterFailures: 2, Hours: []string{"20:00-06:00"}, Approve: true, State: campaign.Planning,
		Open: true, HotfixBy: &by, Promise: campaign.PromiseOpen, UserID: "u1", RequestID: "req-1", CreatedAt: base, UpdatedAt: base, Batches: []upgrade.Batch{},
	}
	must(t, db.CreateCampaign(ctx, c))
	wantErr(t, db.CreateCampaign(ctx, c), errs.Conflict, "kiln.campaign.exists")
	must(t, db.LockCampaign(ctx, "c1"))
	wantErr(t, db.LockCampaign(ctx, "c2"), errs.NotFound, "kiln.campaign.not_found")
	items := make([]campaign.Item, 230)
	for n := range items {
		items[n] = campaign.Item{ID: fmt.Sprintf("i%03d", n), CampaignID: "c1", ImageID: fmt.Sprintf("image%d", n), ProjectID: "p1", Name: "web", Position: 229 - n, State: campaign.Pending, CVEs: []string{}, CreatedAt: base, UpdatedAt: base}
	}
	must(t, db.AddCampaignItems(ctx, items))
	must(t, db.AddCampaignItems(ctx, nil))
	twice := items[7]
	twice.ID = "other"
	wantErr(t, db.AddCampaignItems(ctx, []campaign.Item{twice}), errs.Conflict, "kiln.campaign_item.exists")

	c.State, c.Reason, c.Chosen, c.StartedAt, c.Counts, c.SpentSeconds, c.Overtime = campaign.Running, "why", true, &begun, campaign.Counts{Total: 230, Pending: 230}, 77, true
	c.Batches = []upgrade.Batch{{Release: "bookworm", Share: []upgrade.PackageRef{{Name: "openssl", From: "1", To: "2"}}, ImageIDs: []string{"image1", "image2"}}}
	must(t, db.UpdateCampaign(ctx, c))
	got, err := db.FindCampaign(ctx, "c1")
	must(t, err)
	equal(t, got, c)
	for filter, want := range map[[2]string]int{{"open", "true"}: 1, {"open", "false"}: 0, {"policy_id", "s1"}: 1, {"policy_id", "s2"}: 0} {
		if all, err := db.ListCampaigns(ctx, listing.All().Where(filter[0], filter[1])); err != nil || len(all) != want {
			t.Errorf("%v: %d, %v", filter, len(all), err)
		}
	}
	first, err := db.ListCampaignItems(ctx, listing.Query{Limit: 1, Sort: []listing.Key{{Field: "position"}}}.Where("campaign_id", "c1"))
	must(t, err)
	equal(t, first, items[229:])
	i := items[3]
	i.State, i.Batch, i.UpgradeID, i.ToImageID, i.FinishedAt, i.CVEs = campaign.Done, 1, "u1", "image3b", &begun, []string{"CVE-2026-1"}
	must(t, db.UpdateCampaignItem(ctx, i))
	done, err := db.ListCampaignItems(ctx, listing.All().Where("campaign_id", "c1").Where("state", "succeeded"))
	must(t, err)
	equal(t, done, []campaign.Item{i})
	tried, err := db.TriedImages(ctx, "s1")
	must(t, err)
	if len(tried) != 231 || !tried["image9"].Equal(base) || !tried["image3b"].Equal(begun) {
		t.Errorf("%d tried, %v, %v", len(tried), tried["image9"], tried["image3b"])
	}
	if tried, err := db.TriedImages(ctx, "s2"); err != nil || len(tried) != 0 {
		t.Errorf("another policy tried %v, %v", tried, err)
	}
	testCampaignLock(t, db)
}

// testCampaignLock: who reads after the lock reads what the one before wrote.
func testCampaignLock(t *testing.T, db *store.DB) {
	t.Helper()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := db.InTx(t.Context(), func(ctx context.Context) error {
				if err := db.LockCampaign(ctx, "c1"); err != nil {
					return err
				}
				c, err := db.FindCampaign(ctx, "c1")
				if err != nil {
					return err
				}
				c.SpentSeconds++
				return db.UpdateCampaign(ctx, c)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if c, err := db.FindCampaign(t.Context(), "c1"); err != nil || c.SpentSeconds != 85 {
		t.Errorf("%d seconds after eight additions to 77, %v", c.SpentSeconds, err)
	}
}

func testUpgradePolicies(t *testing.T, db *store.DB) {
	ctx := t.Context()
	p := campaign.Policy{ID: "s1", ProjectID: "p1", Name: "urgent", Filter: campaign.Filter{Tags: []string{"fleet"}}, MinSeverity: "high", Hours: []string{}, HotfixHours: 48,
		MaxParallel: 2, Enabled: true, EnabledAt: base, UserID: "u1", CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateUpgradePolicy(ctx, p))
	again := p
	again.ID = "s2"
	wantErr(t, db.CreateUpgradePolicy(ctx, again), errs.Conflict, "kiln.upgrade_policy.exists")
	again.ProjectID, again.Enabled = "p2", false
	must(t, db.CreateUpgradePolicy(ctx, again))
	must(t, db.LockUpgradePolicy(ctx, "s1"))
	p.CampaignID, p.Hours = "c1", []string{"20:00-06:00"}
	must(t, db.UpdateUpgradePolicy(ctx, p))
	got, err := db.FindUpgradePolicy(ctx, "s1")
	must(t, err)
	equal(t, got, p)
	on, err := db.ListUpgradePolicies(ctx, listing.All().Where("enabled", "true"))
	must(t, err)
	equal(t, on, []campaign.Policy{p})
	must(t, db.DeleteUpgradePolicy(ctx, "s1"))
	wantErr(t, db.DeleteUpgradePolicy(ctx, "s1"), errs.NotFound, "kiln.upgrade_policy.not_found")
	wantErr(t, db.LockUpgradePolicy(ctx, "s1"), errs.NotFound, "kiln.upgrade_policy.not_found")
	testUrgentNeeds(t, db)
}

func testUrgentNeeds(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := t.Context()
	for n, urgency := range []string{"low", "medium", "high", "critical", ""} {
		a := fmt.Sprintf("a%d", n)
		must(t, db.PutAdvisories(ctx, []advisory.Advisory{{ID: a, Package: a, Urgency: urgency, CVEs: []string{}, CreatedAt: at(n), UpdatedAt: base}}))
		for _, image := range []string{"new", "old", "plain"} {
			must(t, db.PutImage(ctx, catalog.Image{ID: image + a, ProjectID: "p1", State: catalog.Inspected, CreatedAt: at(2), UpdatedAt: base}))
			must(t, db.ReplacePending(ctx, image+a, []advisory.Pending{{ImageID: image + a, AdvisoryID: a, Package: a, Urgency: urgency, Security: n%2 == 0}}))
			if image != "plain" {
				state := map[string]catalog.VersionState{"new": catalog.Published, "old": catalog.Superseded}[image]
				must(t, db.AddVersion(ctx, catalog.Version{ID: image + a, ProjectID: "p1", FamilyID: image, Name: a, ImageID: image + a, State: state, CreatedAt: base}))
			}
		}
	}
	for _, c := range []struct {
		least    string
		security bool
		want     string
	}{
		{"critical", false, "newa3 plaina3 "}, {"critical", true, ""}, {"high", false, "newa2 newa3 plaina2 plaina3 "},
		{"medium", true, "newa2 newa4 plaina2 plaina4 "}, // the last one is a security fix of no urgency
		{"low", false, "newa0 newa1 newa2 newa3 newa4 plaina0 plaina1 plaina2 plaina3 plaina4 "},
	} {
		found, err := db.UrgentNeeds(ctx, c.least, c.security)
		must(t, err)
		var text strings.Builder
		for _, n := range found {
			text.WriteString(n.ImageID + " ")
			want := time.Duration(max(2, int(n.AdvisoryID[1]-'0'))) * time.Second // when both are there
			if n.ProjectID != "p1" || !n.AppearedAt.Equal(base.Add(want)) {
				t.Errorf("%+v", n)
			}
		}
		if text.String() != c.want {
			t.Errorf("%s, security %v: %s, want %s", c.least, c.security, text.String(), c.want)
		}
	}
}

// testOneOpenUpgrade: of many that ask at once for the upgrade of one version, one gets it; when it has ended, the next.
func testOneOpenUpgrade(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for turn := range 2 {
		var all sync.WaitGroup
		var made atomic.Int64
		for n := range 6 {
			all.Go(func() {
				u := upgrade.Upgrade{ID: fmt.Sprintf("u%d-%d", turn, n), ProjectID: "p1", FromImageID: "i1", State: upgrade.Queued, CampaignID: "c1", CreatedAt: base, UpdatedAt: base}
				err := db.CreateUpgrade(ctx, u)
				if err == nil {
					made.Add(1)
					return
				}
				if errs.CodeOf(err) != upgrade.CodeOpen {
					t.Error(err)
				}
			})
		}
		all.Wait()
		open, err := db.ListUpgrades(ctx, listing.All().Where("campaign_id", "c1").Where("state", "queued"))
		must(t, err)
		if made.Load() != 1 || len(open) != 1 {
			t.Fatalf("%d made, %d open", made.Load(), len(open))
		}
		open[0].State = upgrade.Running
		must(t, db.UpdateUpgrade(ctx, open[0]))
		wantErr(t, db.CreateUpgrade(ctx, upgrade.Upgrade{ID: "late", FromImageID: "i1", State: upgrade.Queued}), errs.Conflict, upgrade.CodeOpen)
		open[0].State = upgrade.Failed
		must(t, db.UpdateUpgrade(ctx, open[0]))
	}
}
