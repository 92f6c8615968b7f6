package storetest

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func hash(digit string) string { return strings.Repeat(digit, 40) }

func testRepositories(t *testing.T, db *store.DB) {
	ctx := t.Context()
	_, err := db.FindRepository(ctx, "s1", true)
	wantErr(t, err, errs.NotFound, "kiln.source.not_found")
	must(t, db.CreateSource(ctx, build.Source{ID: "s1", ProjectID: "p1", Name: "images", URL: build.HostedURL("s1"), Hosted: true, State: "new", Secret: "whsec_x", CreatedAt: base, UpdatedAt: base}))
	empty, err := db.FindRepository(ctx, "s1", true)
	must(t, err)
	equal(t, empty, build.Repository{Refs: []build.Ref{}})

	large := bytes.Repeat([]byte{0, 255, 7}, 1<<20) // three parts, and bytes that are no text
	first := build.RepositoryChange{Moves: []build.RefMove{{Name: "refs/heads/main", New: hash("a")}, {Name: "refs/heads/try", New: hash("b")}}, Pack: large}
	must(t, db.ChangeRepository(ctx, "s1", 0, first))
	if err := db.ChangeRepository(ctx, "s1", 0, first); !errors.Is(err, build.ErrMoved) {
		t.Fatalf("a change of an old version: %v", err)
	}
	wantErr(t, db.ChangeRepository(ctx, "none", 0, first), errs.NotFound, "kiln.source.not_found")
	// A ref that is elsewhere, is made twice or is not there refuses the whole change.
	for _, moves := range [][]build.RefMove{
		{{Name: "refs/heads/try", Old: hash("b"), New: hash("c")}, {Name: "refs/heads/main", Old: hash("f"), New: hash("c")}},
		{{Name: "refs/heads/main", New: hash("c")}},
		{{Name: "refs/heads/none", Old: hash("a")}},
	} {
		wantErr(t, db.ChangeRepository(ctx, "s1", 1, build.RepositoryChange{Moves: moves, Pack: []byte("pack")}), errs.Conflict, "kiln.source.ref_moved")
	}
	must(t, db.ChangeRepository(ctx, "s1", 1, build.RepositoryChange{Pack: []byte("second"), Moves: []build.RefMove{
		{Name: "refs/heads/main", Old: hash("a"), New: hash("d")}, {Name: "refs/heads/try", Old: hash("b")},
	}}))
	r, err := db.FindRepository(ctx, "s1", true)
	must(t, err)
	equal(t, r.Refs, []build.Ref{{Name: "refs/heads/main", Hash: hash("d")}})
	if r.Version != 2 || len(r.Packs) != 2 || !bytes.Equal(r.Packs[0].Data, large) || string(r.Packs[1].Data) != "second" || r.Bytes != int64(len(large)+6) {
		t.Fatalf("version %d, %d packs, %d bytes", r.Version, len(r.Packs), r.Bytes)
	}
	must(t, db.ChangeRepository(ctx, "s1", 2, build.RepositoryChange{Pack: []byte("all"), Whole: true}))
	if r, err = db.FindRepository(ctx, "s1", true); err != nil || len(r.Packs) != 1 || r.Bytes != 3 {
		t.Fatalf("%+v %v", r, err)
	}
	// An update of the source knows nothing of its repository.
	src, err := db.FindSource(ctx, "s1")
	must(t, err)
	must(t, db.UpdateSource(ctx, src))
	if r, err = db.FindRepository(ctx, "s1", false); err != nil || r.Version != 3 || len(r.Packs) != 0 || len(r.Refs) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	must(t, db.DeleteSource(ctx, "s1"))
	must(t, db.CreateSource(ctx, src))
	if r, err = db.FindRepository(ctx, "s1", true); err != nil || len(r.Refs)+len(r.Packs) != 0 {
		t.Fatalf("what a deleted source left: %+v %v", r, err)
	}
}

// Of many pushes at once to one version, one is written.
func testRepositoryPushesAtOnce(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.CreateSource(ctx, build.Source{ID: "s1", ProjectID: "p1", Name: "images", Hosted: true, CreatedAt: base, UpdatedAt: base}))
	var wg sync.WaitGroup
	won := make([]bool, 8)
	for i := range won {
		wg.Go(func() {
			err := db.ChangeRepository(ctx, "s1", 0, build.RepositoryChange{Pack: []byte{byte(i)}, Moves: []build.RefMove{{Name: "refs/heads/main", New: hash("0123456789"[i : i+1])}}})
			if won[i] = err == nil; err != nil && !errors.Is(err, build.ErrMoved) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, w := range won {
		if w {
			n++
		}
	}
	r, err := db.FindRepository(ctx, "s1", true)
	if err != nil || n != 1 || len(r.Packs) != 1 || len(r.Refs) != 1 || r.Version != 1 {
		t.Fatalf("%d won: %+v %v", n, r, err)
	}
}

func testSourcesThatAreDue(t *testing.T, db *store.DB) {
	ctx := t.Context()
	soon, later := at(10), at(60)
	for id, next := range map[string]*time.Time{"late": &soon, "later": &later, "never": nil} {
		must(t, db.CreateSource(ctx, build.Source{ID: id, ProjectID: "p1", Name: id, Interval: "1m", NextSync: next, CreatedAt: base, UpdatedAt: base}))
	}
	due, err := db.DueSources(ctx, at(30), 10)
	if err != nil || len(due) != 1 || due[0].ID != "late" || !due[0].NextSync.Equal(soon) {
		t.Fatalf("%+v %v", due, err)
	}
	taken := make([]bool, 6)
	var wg sync.WaitGroup
	for i := range taken {
		wg.Go(func() {
			var err error
			if taken[i], err = db.TakeSync(ctx, "late", soon, at(90)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, one := range taken {
		if one {
			n++
		}
	}
	if due, err = db.DueSources(ctx, at(100), 10); err != nil || n != 1 || len(due) != 2 || due[0].ID != "later" {
		t.Fatalf("%d engines took it: %+v %v", n, due, err)
	}
	for i, want := range []bool{true, false} {
		if fresh, err := db.NoteDelivery(ctx, "late", "github 1", at(i)); err != nil || fresh != want {
			t.Fatalf("delivery %d: %v %v", i, fresh, err)
		}
	}
	if fresh, err := db.NoteDelivery(ctx, "later", "github 1", base); err != nil || !fresh {
		t.Fatalf("the same name for another source: %v %v", fresh, err)
	}
	must(t, db.ForgetDeliveries(ctx, at(5)))
	if fresh, err := db.NoteDelivery(ctx, "late", "github 1", at(9)); err != nil || !fresh {
		t.Fatalf("after it was forgotten: %v %v", fresh, err)
	}
	must(t, db.LockSource(ctx, "late"))
	wantErr(t, db.LockSource(ctx, "none"), errs.NotFound, "kiln.source.not_found")
}
