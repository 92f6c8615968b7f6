package storetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

func testPlans(t *testing.T, db *store.DB) {
	ctx := t.Context()
	p := upgrade.Plan{
		ImageID: "i1", ProjectID: "p1", Release: "bookworm", Architecture: "amd64", Policy: upgrade.Policy{Security: true},
		Changes: []upgrade.PlannedChange{{
			PackageRef: upgrade.PackageRef{Name: "openssl", Architecture: "amd64", From: "1", To: "2"}, Source: "openssl", Suite: "bookworm-security", Security: true,
			Urgency: "high", CVEs: []string{"CVE-2026-1"}, Bytes: 7, URI: "http://mirror.example.org/o.deb", SHA256: "ab", Script: upgrade.ScriptDivert, Why: "postinst line 1", Needs: []string{"libssl3:amd64"},
		}},
		Held: []upgrade.Held{{Name: "web", Version: "1", To: "2", Reason: "held by the image's owner"}}, CVEs: []string{"CVE-2026-1"},
		Download: 7, Grows: -4096, Kernel: true, Group: "sha256:ab", CreatedAt: base,
	}
	_, err := db.FindPlan(ctx, "i1")
	wantErr(t, err, errs.NotFound, "kiln.plan.not_found")
	must(t, db.PutPlan(ctx, p))
	other := upgrade.Plan{ImageID: "i2", ProjectID: "p2", Release: "trixie", Changes: []upgrade.PlannedChange{}, Held: []upgrade.Held{}, CVEs: []string{}, Refused: "no dpkg", CreatedAt: base}
	must(t, db.PutPlan(ctx, other))
	got, err := db.FindPlan(ctx, "i1")
	must(t, err)
	if diff := cmp.Diff(p, got); diff != "" {
		t.Fatal(diff)
	}
	// Made again, it takes the place of the old one, with its own time.
	p.Changes, p.Policy, p.Kernel, p.CreatedAt = []upgrade.PlannedChange{}, upgrade.Policy{}, false, base.AddDate(0, 0, 1)
	must(t, db.PutPlan(ctx, p))
	all, err := db.ListPlans(ctx, listing.Query{ProjectID: "p1"})
	must(t, err)
	if diff := cmp.Diff([]upgrade.Plan{p}, all); diff != "" {
		t.Fatal(diff)
	}
	all, err = db.ListPlans(ctx, listing.All().Where("release", "trixie"))
	must(t, err)
	if diff := cmp.Diff([]upgrade.Plan{other}, all); diff != "" {
		t.Fatal(diff)
	}
}
