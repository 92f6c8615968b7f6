package worker_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// oneChange plans one upgrade for every image, but for those whose bytes name a fault.
type oneChange struct{}

func (oneChange) Plan(_ context.Context, q upgrade.Question) (upgrade.Plan, error) {
	if strings.HasPrefix(string(q.State.Status), "broken") {
		return upgrade.Plan{}, errs.New(errs.Invalid, "kiln.plan.packages", "its packages do not fit together")
	}
	change := upgrade.PlannedChange{PackageRef: upgrade.PackageRef{Name: "openssl", Architecture: q.Architecture, From: "1", To: "2"}, Bytes: 7, CVEs: []string{}}
	return upgrade.Plan{
		ImageID: q.ImageID, Release: q.Release, Architecture: q.Architecture, Policy: q.Policy, Changes: []upgrade.PlannedChange{change}, Held: []upgrade.Held{}, CVEs: []string{},
		Download: 7, Group: upgrade.GroupOf([]upgrade.PackageRef{change.PackageRef}), CreatedAt: time.Now().UTC().Truncate(time.Second),
	}, nil
}

func TestPlansOfUpgradesAreKeptForEachImage(t *testing.T) {
	s := newShop(t)
	s.deps.Planner = oneChange{}
	s.deps.PackageState = func(_ context.Context, r io.ReaderAt, size int64, _ string) (upgrade.PackageState, error) {
		text := make([]byte, size)
		_, err := r.ReadAt(text, 0)
		return upgrade.PackageState{Status: text}, err
	}
	var ids []string
	for _, name := range []string{"web", "mail", "broken"} {
		ids = append(ids, s.upload(catalog.NewGlanceImage{Name: name}, false).ID)
	}
	if err := s.db.PutImage(t.Context(), catalog.Image{ID: "unread", ProjectID: s.project, State: catalog.Unreadable, Reason: "truncated", CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	plans := upgrade.Planning{Desk: job.Desk{Jobs: s.db, Tx: s.db, Events: s.db, Now: time.Now, NewID: uuid.NewString}, Plans: s.db}
	policy := upgrade.Policy{Security: true}
	j, err := plans.Request(t.Context(), s.by(), append(ids, "unread", "nosuch"), policy)
	if err != nil {
		t.Fatal(err)
	}
	s.drain()
	j, err = s.db.FindJob(t.Context(), j.ID)
	var sum worker.Planned
	if err == nil {
		err = json.Unmarshal(j.Result, &sum)
	}
	if err != nil || j.State != job.Succeeded {
		t.Fatalf("%s %v %v", j.State, j.Error, err)
	}
	if sum.Images != 4 || sum.Pending != 2 || sum.Refused != 2 || sum.Gone != 1 || sum.Changes != 2 || sum.Batches != 1 || sum.ToReplay != 1 || sum.Download != 14 || len(sum.ImageIDs) != 4 {
		t.Errorf("%+v", sum)
	}
	for i, want := range []string{"", "", "do not fit together"} {
		p, err := plans.FindPlan(t.Context(), ids[i])
		if err != nil || !strings.Contains(p.Refused, want) || want == "" && (p.Refused != "" || len(p.Changes) != 1) || p.Policy != policy || p.ProjectID != s.project || p.Release != "bookworm" {
			t.Errorf("%d: %+v %v", i, p, err)
		}
	}
	if p, err := plans.FindPlan(t.Context(), "unread"); err != nil || !strings.Contains(p.Refused, "truncated") {
		t.Errorf("an unreadable one: %+v %v", p, err)
	}
}

// TestSystemsWithoutAPlanner: no plan is kept of an rpm system, because one that refuses would keep campaigns from it.
func TestSystemsWithoutAPlanner(t *testing.T) {
	s := newShop(t)
	s.deps.Planner = oneChange{}
	s.deps.PackageState = func(context.Context, io.ReaderAt, int64, string) (upgrade.PackageState, error) {
		return upgrade.PackageState{Status: []byte("fine")}, nil
	}
	web := s.upload(catalog.NewGlanceImage{Name: "web"}, false).ID
	for _, kind := range []string{"rpm", "apk"} {
		facts := catalog.Facts{PackageKind: kind, OS: catalog.OSRelease{ID: "example", VersionID: "9", PrettyName: "Example 9"}}
		if err := s.db.PutImage(t.Context(), catalog.Image{ID: kind, ProjectID: s.project, State: catalog.Inspected, Facts: &facts, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	plans := upgrade.Planning{Desk: job.Desk{Jobs: s.db, Tx: s.db, Events: s.db, Now: time.Now, NewID: uuid.NewString}, Plans: s.db}
	for _, way := range []struct {
		ids   []string
		state job.State
	}{{[]string{"rpm"}, job.Failed}, {[]string{"rpm", "apk", web}, job.Succeeded}} {
		j, err := plans.Request(t.Context(), s.by(), way.ids, upgrade.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		s.drain()
		if j, err = s.db.FindJob(t.Context(), j.ID); err != nil || j.State != way.state {
			t.Fatalf("%v: %s %v %v", way.ids, j.State, j.Error, err)
		}
		if way.state == job.Failed && !strings.Contains(j.Error.Detail, "dnf plans an rpm system while it is upgraded") {
			t.Errorf("%+v", j.Error)
		}
	}
	if p, err := plans.FindPlan(t.Context(), "rpm"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a plan of an rpm system: %+v %v", p, err)
	}
	if p, err := plans.FindPlan(t.Context(), "apk"); err != nil || !strings.Contains(p.Refused, "apk") {
		t.Errorf("a plan of an apk system: %+v %v", p, err)
	}
}
