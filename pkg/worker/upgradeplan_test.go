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
	if q.State.RPM != nil && q.Release == "8" {
		return upgrade.Plan{}, errs.New(errs.Unavailable, upgrade.CodeNoPlanner, "this worker has no dnf")
	}
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

// TestPlansOfOtherSystems: no plan is kept of an rpm system where the worker cannot make one, because one that refuses
// would keep campaigns from it.
func TestPlansOfOtherSystems(t *testing.T) {
	s := newShop(t)
	s.deps.Planner = oneChange{}
	s.deps.PackageState = func(_ context.Context, r io.ReaderAt, size int64, _ string) (upgrade.PackageState, error) {
		text := make([]byte, size)
		if _, err := r.ReadAt(text, 0); err != nil {
			return upgrade.PackageState{}, err
		}
		if strings.HasPrefix(string(text), "rpm") {
			return upgrade.PackageState{RPM: &upgrade.RPMState{Database: text}}, nil
		}
		return upgrade.PackageState{Status: text}, nil
	}
	s.deps.Repositories = func(f *catalog.Facts) []upgrade.Repository {
		if f.OS.VersionID == "7" {
			return nil
		}
		return []upgrade.Repository{{ID: "fixes", BaseURL: "http://rpm.example.org/" + f.OS.VersionID, Keys: "/keys"}}
	}
	web := s.upload(catalog.NewGlanceImage{Name: "web"}, false).ID
	put := func(kind, version string) string {
		id := s.upload(catalog.NewGlanceImage{Name: kind + version}, false).ID
		facts := catalog.Facts{PackageKind: kind, Architecture: "amd64", OS: catalog.OSRelease{ID: "example", VersionID: version, PrettyName: "Example " + version}}
		if err := s.db.PutImage(t.Context(), catalog.Image{ID: id, ProjectID: s.project, State: catalog.Inspected, Facts: &facts, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	nine, again, eight, seven, apk := put("rpm", "9"), put("rpm", "9"), put("rpm", "8"), put("rpm", "7"), put("apk", "3")
	plans := upgrade.Planning{Desk: job.Desk{Jobs: s.db, Tx: s.db, Events: s.db, Now: time.Now, NewID: uuid.NewString}, Plans: s.db}
	for _, way := range []struct {
		ids   []string
		state job.State
	}{{[]string{eight}, job.Failed}, {[]string{nine, again, eight, seven, apk, web}, job.Succeeded}} {
		j, err := plans.Request(t.Context(), s.by(), way.ids, upgrade.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		s.drain()
		if j, err = s.db.FindJob(t.Context(), j.ID); err != nil || j.State != way.state {
			t.Fatalf("%v: %s %v %v", way.ids, j.State, j.Error, err)
		}
		if way.state == job.Failed && !strings.Contains(j.Error.Detail, "no dnf") {
			t.Errorf("%+v", j.Error)
		}
	}
	if p, err := plans.FindPlan(t.Context(), eight); !errs.Is(err, errs.NotFound) {
		t.Errorf("a plan that nobody can make: %+v %v", p, err)
	}
	for id, refused := range map[string]string{apk: "apk", seven: "rpm_repositories"} {
		if p, err := plans.FindPlan(t.Context(), id); err != nil || !strings.Contains(p.Refused, refused) {
			t.Errorf("%+v %v", p, err)
		}
	}
	var made []upgrade.Plan
	for _, id := range []string{nine, again} {
		p, err := plans.FindPlan(t.Context(), id)
		if err != nil || p.Refused != "" || len(p.Changes) != 1 || p.PackageKind != "rpm" || p.Release != "example-9" || p.Architecture != "amd64" {
			t.Errorf("%+v %v", p, err)
		}
		made = append(made, p)
	}
	for _, b := range upgrade.Batches(made) {
		if len(b.Share) > 0 || len(b.ImageIDs) != 1 {
			t.Errorf("rpm systems share nothing: %+v", b)
		}
	}
}
