package storetest

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// testImageHeads: what follows Glance leaves what was read, and what is gone is neither listed nor forgotten.
func testImageHeads(t *testing.T, db *store.DB) {
	ctx := t.Context()
	head := catalog.Image{ID: "h1", ProjectID: "p1", Name: "web", State: catalog.Waiting, Status: "active", Visibility: "shared", Tags: []string{"a", "b"}, CreatedAt: base, UpdatedAt: base}
	must(t, db.PutImageHead(ctx, head))
	got, err := db.FindImage(ctx, "h1")
	must(t, err)
	equal(t, got, head)
	read := head
	read.State, read.Digest, read.Size, read.FactsVersion = catalog.Inspected, "sha512:00", 5, 3
	read.Facts = &catalog.Facts{OS: catalog.OSRelease{ID: "debian"}, Packages: []catalog.Package{{Name: "openssl", Version: "1"}}}
	must(t, db.PutImage(ctx, read))
	must(t, db.PutAdvisories(ctx, []advisory.Advisory{{ID: "s/openssl/2", Package: "openssl", Version: "2", Suite: "s", CVEs: []string{}, CreatedAt: base, UpdatedAt: base}}))
	must(t, db.ReplacePending(ctx, "h1", []advisory.Pending{{ImageID: "h1", AdvisoryID: "s/openssl/2", Package: "openssl", Installed: "1", Fixed: "2", Suite: "s"}}))

	head.State, head.Name, head.ProjectID, head.Visibility, head.Tags, head.Status = catalog.Inspected, "web2", "p2", "public", nil, "deactivated"
	for range 2 {
		must(t, db.PutImageHead(ctx, head))
	}
	got, err = db.FindImage(ctx, "h1")
	must(t, err)
	if got.Name != "web2" || got.ProjectID != "p2" || got.Visibility != "public" || len(got.Tags) != 0 || got.Status != "deactivated" ||
		got.Digest != "sha512:00" || got.Size != 5 || got.FactsVersion != 3 || got.Facts == nil || len(got.Facts.Packages) != 1 {
		t.Errorf("%+v", got)
	}
	heads, err := db.ListImageHeads(ctx, listing.All().Where("id", "h1"))
	must(t, err)
	if len(heads) != 1 || heads[0].Facts != nil || heads[0].FactsVersion != 3 || heads[0].Digest != "sha512:00" {
		t.Errorf("%+v", heads)
	}
	buried(t, db)
}

func buried(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for i, want := range []bool{true, false} {
		did, err := db.BuryImage(ctx, "h1", at(20+i))
		must(t, err)
		if did != want {
			t.Errorf("time %d: %v", i, did)
		}
	}
	did, err := db.BuryImage(ctx, "none", at(20))
	must(t, err)
	if did {
		t.Error("buried what never was")
	}
	got, err := db.FindImage(ctx, "h1")
	must(t, err)
	if got.State != catalog.Gone || got.Status != "deleted" || got.Facts == nil || !got.UpdatedAt.Equal(at(20)) {
		t.Errorf("%+v", got)
	}
	pending, err := db.ListPending(ctx, "h1")
	must(t, err)
	if len(pending) != 0 {
		t.Errorf("still pending: %+v", pending)
	}
	for _, c := range []struct {
		state string
		want  int
	}{{"", 0}, {"deleted", 1}, {"inspected", 0}} {
		q := listing.All().Where("name", "web2")
		if c.state != "" {
			q = q.Where("state", c.state)
		}
		rows, err := db.ListImages(ctx, q)
		must(t, err)
		if len(rows) != c.want {
			t.Errorf("state %q: %d rows", c.state, len(rows))
		}
	}
	rows, err := db.ListImageHeads(ctx, listing.All().Where("name", "web2"))
	must(t, err)
	if len(rows) != 1 {
		t.Errorf("%d heads", len(rows))
	}
}
