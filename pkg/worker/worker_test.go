package worker_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// shop is a worker on a real SQLite store and the pocket cloud's Glance; only what makes disks is a double.
type shop struct {
	t       *testing.T
	db      *store.DB
	cloud   *pocket.Cloud
	glance  *glance.Client
	project string
	builds  build.Service
	deps    worker.Deps
	builder *fakeBuilder

	parallel int
}

func newShop(t *testing.T) *shop {
	t.Helper()
	ctx := t.Context()
	log := logrus.New()
	log.SetOutput(io.Discard)
	db, err := store.Open(ctx, store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	cloud, err := pocket.Start(context.WithoutCancel(ctx), pocket.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	conn, err := openstack.Connect(ctx, openstack.Config{AuthURL: cloud.AuthURL(), Username: "kiln", Password: "kiln", ProjectName: "service", Interface: "public"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := conn.ForProject("").ID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, db: db, cloud: cloud, glance: glance.New(conn), project: project, builder: &fakeBuilder{}}
	desk := job.Desk{Jobs: db, Tx: db, Events: db, Now: time.Now, NewID: uuid.NewString}
	s.builds = build.Service{Desk: desk, Store: db, AllowLocal: true}
	repo := fstest.MapFS{"recipes/web.yaml": {Data: []byte("name: web\nfrom: {release: bookworm}\noutput: {format: raw}\n")}}
	s.deps = worker.Deps{
		Store: db, Glance: s.glance, Builders: map[string]build.Builder{recipe.DefaultBuilder: s.builder}, Upgrader: fakeUpgrader{},
		Fetch: func(context.Context, string, string, string) (worker.Checkout, error) {
			return worker.Checkout{Commit: "c1", Files: repo, Close: func() error { return nil }}, nil
		},
		Inspect: func(context.Context, string, string) (*catalog.Facts, error) {
			return &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm"}, Architecture: "amd64", MinDiskGiB: 1,
				Packages: []catalog.Package{{Name: "openssl", Version: "3.0.1", Architecture: "amd64"}}}, nil
		},
		Indexes: fakeIndexes{}, Suites: fakeSuites{}, WorkDir: t.TempDir(), CacheDir: t.TempDir(), Log: log,
	}
	return s
}

// drain runs one worker until no job is open, and returns.
func (s *shop) drain() {
	s.t.Helper()
	s.drainWithin(20 * time.Second)
}

func (s *shop) drainWithin(limit time.Duration) {
	s.t.Helper()
	handlers, err := worker.New(s.deps)
	if err != nil {
		s.t.Fatal(err)
	}
	r := &job.Runner{
		Store: s.db, Waker: never{}, Handlers: handlers, Queues: []job.Queue{job.WorkerQueue}, Owner: uuid.NewString(), Parallel: s.parallel,
		Labels: func() []string { return []string{"builder=" + recipe.DefaultBuilder} },
		Lease:  5 * time.Second, Beat: 20 * time.Millisecond, Poll: 20 * time.Millisecond, Log: s.deps.Log,
		Backoff: func(int) time.Duration { return 0 },
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx) })
	defer wg.Wait()
	defer cancel()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// One question for all states: a job that moves between two questions would not be seen.
		all, err := s.db.ListJobs(ctx, listing.All())
		if err != nil {
			s.t.Fatal(err)
		}
		if !slices.ContainsFunc(all, func(j job.Job) bool { return !j.State.Final() }) {
			return
		}
	}
	s.t.Fatal("jobs are still open")
}

func (s *shop) by() job.By { return job.By{ProjectID: s.project, UserID: "u", RequestID: "req-1"} }

// synced makes the source and returns its recipe.
func (s *shop) synced() build.Recipe {
	s.t.Helper()
	if _, err := s.builds.CreateSource(s.t.Context(), s.by(), build.NewSource{Name: "main", URL: "file:///repo"}); err != nil {
		s.t.Fatal(err)
	}
	s.drain()
	r, err := s.builds.RecipeByName(s.t.Context(), s.project, "main", "web")
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// build asks for a build, lets the worker run, and returns how it ended.
func (s *shop) build(r build.Recipe, force bool) build.Build {
	s.t.Helper()
	b, err := s.builds.RequestBuild(s.t.Context(), s.by(), r.ID, force)
	if err != nil {
		s.t.Fatal(err)
	}
	s.drain()
	if b, err = s.db.FindBuild(s.t.Context(), b.ID); err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *shop) images() []catalog.GlanceImage {
	s.t.Helper()
	var all []catalog.GlanceImage
	for _, hidden := range []string{"false", "true"} {
		found, err := s.glance.Images(s.t.Context(), map[string]string{"os_hidden": hidden})
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestBuildPublishesOnceForEqualInputs(t *testing.T) {
	s := newShop(t)
	r := s.synced()
	first := s.build(r, false)
	if first.State != build.Succeeded || !strings.HasSuffix(first.VersionName, ".1") {
		t.Fatalf("build %+v", first)
	}
	g, err := s.glance.Image(t.Context(), first.ImageID)
	if err != nil || g.Status != "active" || g.Properties[catalog.PropVersion] != first.VersionName || g.Properties["os_distro"] != "debian" || g.MinDiskGiB != 1 {
		t.Fatalf("image %+v, error %v", g, err)
	}
	known, err := s.db.FindImage(t.Context(), first.ImageID)
	if err != nil || known.State != catalog.Inspected || known.PendingUpdates != 1 {
		t.Errorf("Kiln knows of the image: %+v, error %v", known, err)
	}
	again := s.build(r, false)
	if again.State != build.Unchanged || again.ImageID != first.ImageID {
		t.Errorf("the same inputs gave %+v", again)
	}
	forced := s.build(r, true)
	if forced.State != build.Succeeded || !strings.HasSuffix(forced.VersionName, ".2") {
		t.Fatalf("build %+v", forced)
	}
	old, err := s.glance.Image(t.Context(), first.ImageID)
	if err != nil || !old.Hidden || old.HashValue != g.HashValue {
		t.Errorf("the superseded image is %+v, error %v", old, err)
	}
	newest, err := s.glance.Image(t.Context(), forced.ImageID)
	if err != nil || newest.Hidden || newest.Properties[catalog.PropParent] != first.ImageID {
		t.Errorf("the newest image is %+v, error %v", newest, err)
	}
	f, err := s.db.FindFamily(t.Context(), s.project, "web")
	if err != nil || f.Channels[catalog.Candidate] != forced.VersionName {
		t.Errorf("family %+v, error %v", f, err)
	}
}

// Glance full, Glance gone in the middle, and an answer that got lost: the job is tried again and one whole
// image comes out.
func TestBuildOutlivesGlance(t *testing.T) {
	for name, fault := range map[string]wire.Fault{
		"full":        {Status: http.StatusRequestEntityTooLarge},
		"away":        {Status: http.StatusServiceUnavailable},
		"cut":         {CutRequest: 100_000},
		"answer lost": {AfterServing: true, Status: http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			r := s.synced()
			s.cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodPut, PathSuffix: "/file"}, fault, 1)
			b := s.build(r, false)
			if b.State != build.Succeeded {
				t.Fatalf("build %+v", b)
			}
			j, err := s.db.FindJob(t.Context(), b.JobID)
			if err != nil || j.Attempt != 2 {
				t.Errorf("job %+v, error %v", j, err)
			}
			all := s.images()
			if len(all) != 1 || all[0].Status != "active" || all[0].ID != b.ImageID {
				t.Errorf("Glance has %+v", all)
			}
		})
	}
}

// A worker that stops in the middle of the upload leaves a half image; the next one removes it and goes on.
func TestBuildGoesOnAfterAWorkerDied(t *testing.T) {
	s := newShop(t)
	r := s.synced()
	b, err := s.builds.RequestBuild(t.Context(), s.by(), r.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	// What a killed worker leaves: a leased job, and a half image with its key.
	now := time.Now()
	if _, err := s.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "dead", now, now.Add(300*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	half, err := s.glance.CreateImage(t.Context(), catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "web", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private",
		Properties: map[string]string{catalog.PropOriginID: b.ID, catalog.PropJob: b.JobID},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.drain()
	got, err := s.db.FindBuild(t.Context(), b.ID)
	if err != nil || got.State != build.Succeeded || got.ImageID == half.ID {
		t.Fatalf("build %+v, error %v", got, err)
	}
	if _, err := s.glance.Image(t.Context(), half.ID); !errs.Is(err, errs.NotFound) {
		t.Errorf("the half image is still there: %v", err)
	}
}

func TestBuildFailureIsTold(t *testing.T) {
	s := newShop(t)
	r := s.synced()
	s.builder.err = errs.New(errs.Invalid, "kiln.test.broken", "package nothing does not exist").At(errs.Where{File: "recipes/web.yaml", Field: "packages[0]"})
	b := s.build(r, false)
	if b.State != build.Failed || !strings.Contains(b.Error, "package nothing does not exist") || len(s.images()) != 0 {
		t.Errorf("build %+v", b)
	}
	left, err := os.ReadDir(s.deps.WorkDir)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

func TestUpgradeMakesANewVersionAndTellsWhatItClosed(t *testing.T) {
	s := newShop(t)
	b := s.build(s.synced(), false)
	before, err := s.glance.Image(t.Context(), b.ImageID)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, j := range []job.Job{{ID: "00000000-0000-0000-0000-000000000001", Kind: job.Advisories, Resource: "advisories"}} {
		j.Queue, j.State, j.MaxAttempts, j.RunAfter, j.CreatedAt, j.UpdatedAt, j.Payload = job.WorkerQueue, job.Pending, 1, now, now, now, []byte("{}")
		if err := s.db.AddJob(t.Context(), j); err != nil {
			t.Fatal(err)
		}
	}
	s.drain()
	pending, err := s.db.ListPending(t.Context(), b.ImageID)
	if err != nil || len(pending) != 1 || pending[0].Fixed != "3.0.2" || !pending[0].Security {
		t.Fatalf("pending %+v, error %v", pending, err)
	}
	from, err := s.db.VersionByImage(t.Context(), b.ImageID)
	if err != nil {
		t.Fatal(err)
	}
	up := upgrade.Service{Desk: s.builds.Desk, Store: s.db}
	u, err := up.Request(t.Context(), s.by(), from, upgrade.Wish{})
	if err != nil {
		t.Fatal(err)
	}
	const friend = "11111111111111111111111111111111"
	shared := "shared"
	if _, err := s.glance.PatchImage(t.Context(), b.ImageID, catalog.GlancePatch{Visibility: &shared}); err != nil {
		t.Fatal(err)
	}
	if err := s.glance.AddMember(t.Context(), b.ImageID, friend); err != nil {
		t.Fatal(err)
	}
	s.drain()
	u, err = s.db.FindUpgrade(t.Context(), u.ID)
	if err != nil || u.State != upgrade.Succeeded || u.ToVersion == b.VersionName || u.Report == nil || len(u.Report.Packages) != 1 {
		t.Fatalf("upgrade %+v, error %v", u, err)
	}
	after, err := s.glance.Image(t.Context(), b.ImageID)
	if err != nil || !after.Hidden || after.HashValue != before.HashValue {
		t.Errorf("the original is %+v, error %v", after, err)
	}
	if members, err := s.glance.Members(t.Context(), u.ToImageID); err != nil || len(members) != 1 || members[0] != friend {
		t.Errorf("the new version is shared with %v, error %v", members, err)
	}
	a, err := s.db.FindAdvisory(t.Context(), pending[0].AdvisoryID)
	if err != nil || len(a.CVEs) != 1 || a.CVEs[0] != "CVE-2026-1" {
		t.Errorf("advisory %+v, error %v", a, err)
	}
}

type never struct{}

func (never) Wake(context.Context, []job.Queue) (<-chan struct{}, error) { return nil, nil }

type fakeBuilder struct {
	mu   sync.Mutex
	err  error
	last build.Request
}

func (*fakeBuilder) Name() string { return "double" }

func (*fakeBuilder) InputState(context.Context, build.Request) (string, error) { return "state", nil }
func (*fakeBuilder) Plan(context.Context, build.Request) ([]build.PlannedStep, error) {
	return nil, nil
}

func (f *fakeBuilder) Build(_ context.Context, req build.Request) (build.Result, error) {
	f.mu.Lock()
	f.last = req
	f.mu.Unlock()
	if f.err != nil {
		return build.Result{}, f.err
	}
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.IntN(256))
	}
	return build.Result{Path: req.Output, Format: "raw", VirtualSize: 1 << 20}, os.WriteFile(req.Output, data, 0o600)
}

type fakeUpgrader struct{}

func (fakeUpgrader) Upgrade(_ context.Context, req upgrade.Request) (upgrade.Report, error) {
	data, err := os.ReadFile(req.Original)
	if err != nil {
		return upgrade.Report{}, err
	}
	data = bytes.ToUpper(data)
	return upgrade.Report{
		Packages: []upgrade.PackageChange{{Name: "openssl", From: "3.0.1", To: "3.0.2", Source: "openssl", CVEs: []string{"CVE-2026-1"}}},
		CVEs:     []string{"CVE-2026-1"},
	}, os.WriteFile(req.Output, data, 0o600)
}

type fakeIndexes struct{}

func (fakeIndexes) Fetch(_ context.Context, s deb.Suite) (*deb.Index, error) {
	if s.Suite == "nowhere-security" {
		return nil, errs.New(errs.NotFound, "kiln.test.missing", "there is no %s", s.Suite)
	}
	return deb.NewIndex(s, []deb.Candidate{{Name: "openssl", Version: "3.0.2", Architecture: "amd64", Source: "openssl"}}), nil
}

type fakeSuites struct{}

func (fakeSuites) For(codename string) []upgrade.Suite {
	return []upgrade.Suite{{Mirror: "http://mirror.example.test", Suite: codename + "-security", Components: []string{"main"}}}
}

// An image of a release or an architecture that no repository has must not hold up the advisories of the others.
func TestOddImagesDoNotHoldUpAdvisories(t *testing.T) {
	s := newShop(t)
	b := s.build(s.synced(), false)
	now := time.Now()
	for id, facts := range map[string]catalog.Facts{
		"0-no-architecture": {OS: catalog.OSRelease{ID: "debian", Codename: "bookworm"}},
		"1-no-such-release": {OS: catalog.OSRelease{ID: "debian", Codename: "nowhere"}, Architecture: "amd64"},
		"2-a-path":          {OS: catalog.OSRelease{ID: "debian", Codename: "../../x"}, Architecture: "amd64"},
	} {
		if err := s.db.PutImage(t.Context(), catalog.Image{ID: id, ProjectID: "other", Name: id, State: catalog.Inspected, Facts: &facts, CreatedAt: now, UpdatedAt: now}); err != nil {
			t.Fatal(err)
		}
	}
	j := job.Job{ID: "00000000-0000-0000-0000-000000000001", Kind: job.Advisories, Resource: "advisories", Queue: job.WorkerQueue, State: job.Pending}
	j.MaxAttempts, j.RunAfter, j.CreatedAt, j.UpdatedAt, j.Payload = 1, now, now, now, []byte("{}")
	if err := s.db.AddJob(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	s.drain()
	if j, err := s.db.FindJob(t.Context(), j.ID); err != nil || j.State != job.Succeeded {
		t.Fatalf("job %+v, error %v", j, err)
	}
	if pending, err := s.db.ListPending(t.Context(), b.ImageID); err != nil || len(pending) != 1 {
		t.Errorf("pending %+v, error %v", pending, err)
	}
}
