package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// fleet is a real store with images in it, a clock that the test sets, and upgrades that end when the test says so.
type fleet struct {
	*campaign.Service
	t       *testing.T
	db      *store.DB
	glance  *glance
	planner *planner
	desk    job.Desk
	by      job.By

	mu   sync.Mutex
	time time.Time
}

type glance struct {
	mu     sync.Mutex
	images []catalog.GlanceImage
}

func (g *glance) Images(context.Context, map[string]string) ([]catalog.GlanceImage, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.images), nil
}

// planner has the plans that the test made.
type planner struct {
	desk  job.Desk
	plans map[string]upgrade.Plan
}

func (p *planner) Request(ctx context.Context, by job.By, ids []string, _ upgrade.Policy) (job.Job, error) {
	return p.desk.Start(ctx, by, job.Draft{Kind: "upgrade.plan", Queue: job.WorkerQueue, ProjectID: by.ProjectID, Resource: "plans", Payload: ids})
}

func (p *planner) FindPlan(_ context.Context, id string) (upgrade.Plan, error) {
	plan, ok := p.plans[id]
	if !ok {
		return plan, errs.New(errs.NotFound, "kiln.plan.not_found", "no plan of %s", id)
	}
	return plan, nil
}

// embedded runs a test on SQLite.
func embedded(t *testing.T, test func(t *testing.T, f *fleet)) {
	t.Helper()
	test(t, newFleet(t, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")}))
}

// onBoth runs a test on SQLite and on a real MariaDB: those in which several engines meet.
func onBoth(t *testing.T, test func(t *testing.T, f *fleet)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, newFleet(t, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.db")}))
	})
	t.Run("MariaDB", func(t *testing.T) {
		if testing.Short() {
			t.Skip("needs a real MariaDB")
		}
		t.Parallel()
		test(t, newFleet(t, store.Config{Driver: store.MySQL, DSN: mariadb.New(t)}))
	})
}

func newFleet(t *testing.T, cfg store.Config) *fleet {
	t.Helper()
	db, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, db: db, glance: &glance{}, by: job.By{ProjectID: "p", UserID: "u", RequestID: "req-1"}, time: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	f.desk = job.Desk{Jobs: db, Tx: db, Events: db, Now: f.now, NewID: uuid.NewString}
	up := &upgrade.Service{Desk: f.desk, Store: db}
	jobs := &job.Service{Desk: f.desk, Cancelled: map[job.Kind]func(context.Context, job.By, job.Job) error{job.Upgrade: up.Cancelled}}
	f.Service = &campaign.Service{Desk: f.desk, Store: db, Upgrades: db, StopJob: func(ctx context.Context, by job.By, id string) error {
		_, err := jobs.Cancel(ctx, by, id)
		return err
	}}
	return f
}

func (f *fleet) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.time
}

func (f *fleet) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.time = f.time.Add(d)
}

func (f *fleet) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// image uploads one that Kiln has read: of a family where one is named, of a stranger else. It lacks the fixes, each
// written "package urgency".
func (f *fleet) image(id, owner string, family catalog.FamilyName, fixes ...string) {
	f.t.Helper()
	ctx := f.t.Context()
	f.glance.mu.Lock()
	f.glance.images = append(f.glance.images, catalog.GlanceImage{ID: id, Name: "Image " + id, Owner: owner, Status: "active", DiskFormat: "qcow2", ContainerFormat: "bare",
		Visibility: "private", Tags: []string{"fleet"}, Properties: map[string]string{}, CreatedAt: f.now()})
	f.glance.mu.Unlock()
	f.ok(f.db.PutImage(ctx, catalog.Image{ID: id, ProjectID: owner, Name: "Image " + id, State: catalog.Inspected, CreatedAt: f.now(), UpdatedAt: f.now(), Facts: &catalog.Facts{
		OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm", PrettyName: "Debian 12"}, Architecture: "amd64",
		Packages: []catalog.Package{{Name: "openssl", Version: "3.0.1-1", Architecture: "amd64", Source: "openssl"}},
	}}))
	f.lacks(id, fixes...)
	if family == "" {
		return
	}
	fam, err := f.db.EnsureFamily(ctx, owner, family)
	f.ok(err)
	name, err := f.db.NameVersion(ctx, fam.ID, id, f.now())
	f.ok(err)
	f.ok(f.db.AddVersion(ctx, catalog.Version{ID: "v-" + id, ProjectID: owner, FamilyID: fam.ID, Family: family, Name: name, ImageID: id, Origin: "build", State: catalog.Published, CreatedAt: f.now()}))
}

// lacks says which fixes an image lacks from now on.
func (f *fleet) lacks(id string, fixes ...string) {
	f.t.Helper()
	var all []advisory.Advisory
	var ps []advisory.Pending
	for _, x := range fixes {
		pkg, urgency, _ := strings.Cut(x, " ")
		a := "s-security/" + pkg + "/2/amd64"
		all = append(all, advisory.Advisory{ID: a, Package: pkg, Version: "2", Suite: "s-security", Security: true, Urgency: urgency, CVEs: []string{}, CreatedAt: f.now(), UpdatedAt: f.now()})
		ps = append(ps, advisory.Pending{ImageID: id, AdvisoryID: a, Package: pkg, Installed: "1", Fixed: "2", Suite: "s-security", Security: true, Urgency: urgency})
	}
	f.ok(f.db.PutAdvisories(f.t.Context(), all))
	f.ok(f.db.ReplacePending(f.t.Context(), id, ps))
}

// engine is the rounds of one.
func (f *fleet) engine() *campaign.Rounds {
	log := logrus.New()
	log.SetOutput(f.t.Output())
	s := *f.Service
	r := &campaign.Rounds{
		Service: &s, Catalog: &catalog.Service{Desk: f.desk, Store: f.db}, Upgrade: &upgrade.Service{Desk: f.desk, Store: f.db},
		Chooser: &campaign.Chooser{Store: f.db, Catalog: f.db, Glance: f.glance}, Settle: 10 * time.Minute, Log: log,
	}
	if f.planner != nil {
		r.Planner = f.planner
	}
	return r
}

// rounds lets several engines look at once.
func (f *fleet) rounds() {
	f.t.Helper()
	var all sync.WaitGroup
	for range 3 {
		e := f.engine()
		all.Go(func() {
			if err := e.Round(f.t.Context()); err != nil {
				f.t.Error(err)
			}
		})
	}
	all.Wait()
}

// open are the upgrades that are queued or run, the oldest first.
func (f *fleet) open() []upgrade.Upgrade {
	f.t.Helper()
	all, err := f.db.ListUpgrades(f.t.Context(), listing.Query{Limit: 1000, Sort: []listing.Key{{Field: "created_at"}}})
	f.ok(err)
	return slices.DeleteFunc(all, func(u upgrade.Upgrade) bool { return u.State != upgrade.Queued && u.State != upgrade.Running })
}

// end does what a worker does at the end of an upgrade.
func (f *fleet) end(u upgrade.Upgrade, s upgrade.State) {
	f.t.Helper()
	ctx := f.t.Context()
	from, err := f.db.VersionByImage(ctx, u.FromImageID)
	f.ok(err)
	u.State, u.UpdatedAt = s, f.now()
	switch s {
	case upgrade.Succeeded:
		name, err := f.db.NameVersion(ctx, from.FamilyID, u.ID, f.now())
		f.ok(err)
		u.ToVersion, u.ToImageID = name, "new-"+u.FromImageID
		u.Report = &upgrade.Report{Packages: []upgrade.PackageChange{{Name: "openssl", From: "3.0.1-1", To: "3.0.2-1", CVEs: []string{"CVE-2026-0001"}}}, CVEs: []string{"CVE-2026-0001"},
			Changed: 10, Replayed: 4, Record: "replayed"}
		f.ok(f.db.SetVersionState(ctx, from.ID, catalog.Published, catalog.Superseded))
		f.ok(f.db.AddVersion(ctx, catalog.Version{ID: "v-new-" + u.ID, ProjectID: from.ProjectID, FamilyID: from.FamilyID, Family: from.Family, Name: name, ImageID: u.ToImageID,
			ParentVersion: from.Name, Origin: "upgrade", OriginID: u.ID, State: catalog.Published, CreatedAt: f.now()}))
	case upgrade.Failed:
		u.Error = "the gate found a broken package in " + u.FromImageID
	}
	f.ok(f.db.UpdateUpgrade(ctx, u))
}

func (f *fleet) create(n campaign.New) campaign.Campaign {
	f.t.Helper()
	c, err := f.Create(f.t.Context(), f.by, n)
	f.ok(err)
	return c
}

func (f *fleet) find(id string) campaign.Campaign {
	f.t.Helper()
	c, err := f.db.FindCampaign(f.t.Context(), id)
	f.ok(err)
	return c
}

// item is the one of the image.
func (f *fleet) item(id, image string) campaign.Item {
	f.t.Helper()
	all, err := f.db.ListCampaignItems(f.t.Context(), listing.All().Where("campaign_id", id).Where("image_id", image))
	f.ok(err)
	if len(all) != 1 {
		f.t.Fatalf("%d items of image %s", len(all), image)
	}
	return all[0]
}

func (f *fleet) wants(id string, s campaign.State, c campaign.Counts) campaign.Campaign {
	f.t.Helper()
	got := f.find(id)
	if got.State != s || got.Counts != c {
		f.t.Fatalf("campaign is %s (%s) with %+v, want %s with %+v", got.State, got.Reason, got.Counts, s, c)
	}
	return got
}

// told counts the events of a type.
func (f *fleet) told(kind string) int {
	f.t.Helper()
	n := 0
	for after := int64(0); ; {
		es, err := f.db.After(f.t.Context(), after, "", 500)
		f.ok(err)
		for _, e := range es {
			if e.Type == kind {
				n++
			}
			after = e.ID
		}
		if len(es) < 500 {
			return n
		}
	}
}

// dying is a recorder of events that fails from the nth on: what an engine does that is killed there.
type dying struct {
	event.Recorder
	left int
}

var errKilled = errors.New("killed")

func (d *dying) Record(ctx context.Context, e event.Event) error {
	if d.left--; d.left < 0 {
		return errKilled
	}
	return d.Recorder.Record(ctx, e)
}

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("i%d", i+1)
	}
	return out
}
