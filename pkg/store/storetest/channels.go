package storetest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testChannelMoves(t *testing.T, db *store.DB) {
	ctx := t.Context()
	five := 5
	f := catalog.Family{ID: "f1", ProjectID: "p1", Name: "web", Channels: map[string]string{}, CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateFamily(ctx, f))
	f.Description, f.Retention = "the web", catalog.Retention{KeepCount: &five}
	for range 2 {
		must(t, db.UpdateFamily(ctx, f))
	}
	got, err := db.FamilyByID(ctx, "f1")
	must(t, err)
	equal(t, got, f)
	wantErr(t, db.UpdateFamily(ctx, catalog.Family{ID: "f9"}), errs.NotFound, "kiln.family.not_found")
	for _, v := range []string{"20260101.1", "20260102.1"} {
		must(t, db.AddVersion(ctx, catalog.Version{ID: "v" + v, FamilyID: "f1", Name: v}))
	}
	must(t, db.SetChannel(ctx, "f1", catalog.Stable, "20260101.1"))
	want := catalog.ChannelMove{ID: "m2", FamilyID: "f1", Channel: catalog.Stable, Kind: catalog.MovePromote, Version: "20260102.1", UserID: "u1", Reason: "tested", At: base}
	m, err := db.MoveChannel(ctx, want)
	must(t, err)
	want.Seq, want.Before = 2, "20260101.1"
	equal(t, m, want)
	again := want
	again.ID, again.Before = "m3", ""
	if m, err = db.MoveChannel(ctx, again); err != nil || m.Before != m.Version {
		t.Fatalf("a move to where it stands: %+v %v", m, err)
	}
	late := catalog.ChannelMove{FamilyID: "f1", Channel: catalog.Stable, Before: "20260101.1", Version: "20260101.1"}
	_, err = db.MoveChannel(ctx, late)
	wantErr(t, err, errs.Conflict, "kiln.channel.moved")
	gone, err := db.MoveChannel(ctx, catalog.ChannelMove{FamilyID: "f1", Channel: catalog.Stable, Kind: catalog.MoveRevoke, At: at(9)})
	must(t, err)
	q := listing.All().Where("family_id", "f1").Where("channel", catalog.Stable)
	moves, err := db.ListChannelMoves(ctx, q)
	must(t, err)
	if len(moves) != 3 || moves[2].Kind != catalog.MovePublish || moves[2].Before != "" || moves[2].ID == "" {
		t.Fatalf("%+v", moves)
	}
	equal(t, moves[:2], []catalog.ChannelMove{gone, want})
	if got, err = db.FamilyByID(ctx, "f1"); err != nil || len(got.Channels) != 0 {
		t.Fatal(got, err)
	}
	testMovesAtOnce(t, db)
}

// testMovesAtOnce: each move knows what stood there before it, and of those that say so only one wins.
func testMovesAtOnce(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var wg sync.WaitGroup
	var won atomic.Int32
	must(t, db.SetChannel(ctx, "f1", "race", "20260101.1"))
	for range 6 {
		wg.Go(func() {
			_, err := db.MoveChannel(ctx, catalog.ChannelMove{FamilyID: "f1", Channel: "race", Before: "20260101.1", Version: "20260102.1"})
			switch {
			case err == nil:
				won.Add(1)
			case errs.CodeOf(err) != "kiln.channel.moved":
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 6 moves from the same place won", won.Load())
	}
}

func testVersionGuard(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v := catalog.Version{ID: "v1", ProjectID: "p1", FamilyID: "f1", Family: "web", Name: "20260329.1", State: catalog.Superseded, Artifacts: []catalog.Artifact{}, CreatedAt: base}
	must(t, db.AddVersion(ctx, v))
	v.State, v.Note, v.RevokedWith = catalog.Revoked, "a hole", "base/20260301.1"
	must(t, db.UpdateVersion(ctx, v, catalog.Superseded))
	for range 2 {
		must(t, db.UpdateVersion(ctx, v, catalog.Revoked))
	}
	got, err := db.FindVersion(ctx, "f1", v.Name)
	must(t, err)
	equal(t, got, v)
	wantErr(t, db.UpdateVersion(ctx, v, catalog.Superseded), errs.Conflict, "kiln.version.state")
	wantErr(t, db.UpdateVersion(ctx, catalog.Version{ID: "v9"}, catalog.Superseded), errs.NotFound, "kiln.version.not_found")
}
