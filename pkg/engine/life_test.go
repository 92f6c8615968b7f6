package engine_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cinder"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	osplacement "github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/openstack/zun"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// life is an engine and a catalog beside a cloud, for what becomes of versions.
type life struct {
	t       *testing.T
	db      *store.DB
	engine  *engine.Engine
	glance  *glance.Client
	nova    *nova.Client
	zun     *zun.Client
	service catalog.Service
	by      job.By
}

func pocketLife(t *testing.T) *life {
	_, conn := cloudtest.Pocket(t, pocket.Config{Zun: true, Nodes: []wire.Node{{Name: "fake1", VCPUs: 8, MemoryMB: 8192, DiskGB: 100}}})
	return newLife(t, conn)
}

func newLife(t *testing.T, conn *openstack.Cloud) *life {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	project, err := conn.ForProject("").ID(t.Context())
	if err = firstOf(err, db.Migrate(t.Context())); err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, db: db, glance: glance.New(conn), nova: nova.New(conn), zun: zun.New(conn), by: job.By{ProjectID: project, UserID: "u", RequestID: "req-1"}}
	l.service = catalog.Service{Desk: job.Desk{Jobs: db, Tx: db, Events: db, Now: time.Now, NewID: uuid.NewString}, Store: db}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	l.engine = engine.New(engine.Deps{
		Store: db, Glance: l.glance, Nova: l.nova, Zun: l.zun, Providers: osplacement.New(conn),
		SyncInterval: time.Hour, PlaceTimeout: 5 * time.Second, PollEvery: 10 * time.Millisecond, Log: quiet,
		Users: []engine.ImageUsers{
			{Service: "Nova", Thing: "server", Find: l.nova.UsersOfImage},
			{Service: "Cinder", Thing: "volume", Optional: true, Find: cinder.New(conn).UsersOfImage},
			{Service: "Zun", Thing: "container", Optional: true, Find: l.zun.UsersOfImage},
		},
		Life: engine.Life{Limits: catalog.Limits{KeepCount: 1, KeepDays: 30}, DeactivateRevoked: true, EvictTime: 100 * time.Millisecond},
	})
	return l
}

func firstOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *life) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// image uploads a small one with the properties that a publisher writes, and removes it with the test.
func (l *life) image(name string, properties map[string]string) string {
	l.t.Helper()
	props := map[string]string{catalog.PropOrigin: "build"}
	maps.Copy(props, properties)
	g, err := l.glance.CreateImage(l.t.Context(), catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "kiln-life-" + name, DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public", Properties: props,
	})
	l.must(err)
	l.t.Cleanup(func() {
		ctx, open := context.WithoutCancel(l.t.Context()), false
		_, _ = l.glance.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &open})
		if err := l.glance.DeleteImage(ctx, g.ID); err != nil && !errs.Is(err, errs.NotFound) {
			l.t.Error(err)
		}
	})
	l.must(l.glance.Upload(l.t.Context(), g.ID, io.LimitReader(zeros{}, 4096), 4096))
	return g.ID
}

// version writes a version as a publisher does: it takes the channel candidate, and what was published is superseded.
func (l *life) version(family, name string, change ...func(*catalog.Version)) catalog.Version {
	l.t.Helper()
	ctx := l.t.Context()
	f, err := l.db.EnsureFamily(ctx, l.by.ProjectID, catalog.FamilyName(family))
	l.must(err)
	v := catalog.Version{
		ID: uuid.NewString(), ProjectID: f.ProjectID, FamilyID: f.ID, Family: f.Name, Name: name, ImageID: l.image(family, nil), Origin: "build",
		State: catalog.Published, CreatedAt: time.Now().Add(-100 * 24 * time.Hour),
	}
	for _, c := range change {
		c(&v)
	}
	_, versions := l.family(family)
	for _, old := range versions {
		if old.State == catalog.Published {
			l.must(l.db.SetVersionState(ctx, old.ID, catalog.Published, catalog.Superseded))
		}
	}
	l.must(l.db.AddVersion(ctx, v))
	l.must(l.db.SetChannel(ctx, f.ID, catalog.Candidate, name))
	return v
}

func (l *life) family(name string) (catalog.Family, []catalog.Version) {
	l.t.Helper()
	f, err := l.db.FindFamily(l.t.Context(), l.by.ProjectID, catalog.FamilyName(name))
	l.must(err)
	versions, err := l.db.ListVersions(l.t.Context(), all().Where("family_id", f.ID))
	l.must(err)
	return f, versions
}

func (l *life) state(v catalog.Version) catalog.VersionState {
	l.t.Helper()
	now, err := l.db.FindVersion(l.t.Context(), v.FamilyID, v.Name)
	l.must(err)
	return now.State
}

// drain runs the engine's jobs until none is open but those of agents.
func (l *life) drain() {
	l.t.Helper()
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	r := &job.Runner{
		Store: l.db, Waker: never{}, Handlers: l.engine.Handlers(), Queues: []job.Queue{job.EngineQueue}, Owner: uuid.NewString(), Parallel: 1,
		Lease: 10 * time.Second, Beat: 50 * time.Millisecond, Poll: 10 * time.Millisecond, Log: quiet,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(ctx) })
	defer wg.Wait()
	defer cancel()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		jobs, err := l.db.ListJobs(ctx, all().Where("queue", string(job.EngineQueue)))
		l.must(err)
		if !slices.ContainsFunc(jobs, func(j job.Job) bool { return !j.State.Final() }) {
			return
		}
	}
	l.t.Fatal("jobs are still open")
}

// retain runs retention over a family and gives each version's fate with its reasons.
func (l *life) retain(family string, dry bool) map[string]string {
	l.t.Helper()
	f, _ := l.family(family)
	j, err := l.service.Retain(l.t.Context(), l.by, f, dry)
	l.must(err)
	l.drain()
	j, err = l.db.FindJob(l.t.Context(), j.ID)
	l.must(err)
	var report catalog.RetentionReport
	if j.State != job.Succeeded || json.Unmarshal(j.Result, &report) != nil {
		l.t.Fatalf("retention: %+v %+v", j, j.Error)
	}
	fates := map[string]string{}
	for _, d := range report.Versions {
		fates[d.Version] = string(d.Fate) + ": " + strings.Join(d.Why, "; ")
	}
	return fates
}

func (l *life) want(fates map[string]string, version, text string) {
	l.t.Helper()
	if got := fates[version]; !strings.HasPrefix(got, text) && !strings.Contains(got, text) {
		l.t.Errorf("%s is %q, want %q", version, got, text)
	}
}

func (l *life) there(id string) bool {
	l.t.Helper()
	_, err := l.glance.Image(l.t.Context(), id)
	if err != nil && !errs.Is(err, errs.NotFound) {
		l.t.Fatal(err)
	}
	return err == nil
}

// server boots one from the image in Kiln's own project and waits until it is up.
func (l *life) server(image string) string {
	l.t.Helper()
	flavor, err := l.nova.Flavor(l.t.Context(), "kiln.tiny")
	l.must(err)
	host := ""
	hypervisors, err := l.nova.Hypervisors(l.t.Context())
	l.must(err)
	for _, h := range hypervisors {
		if strings.HasPrefix(h.Host, "fake") && h.Up && !h.Disabled {
			host = h.Host
		}
	}
	s, err := l.nova.CreateServer(l.t.Context(), "", placement.NewServer{Name: "kiln-life", ImageID: image, FlavorID: flavor.ID, Host: host, Metadata: map[string]string{}})
	l.must(err)
	l.t.Cleanup(func() {
		if err := l.nova.DeleteServer(context.WithoutCancel(l.t.Context()), "", s.ID); err != nil {
			l.t.Error(err)
		}
	})
	for end := time.Now().Add(2 * time.Minute); s.Status != "ACTIVE"; time.Sleep(50 * time.Millisecond) {
		if s, err = l.nova.Server(l.t.Context(), "", s.ID); err != nil || s.Status == "ERROR" || time.Now().After(end) {
			l.t.Fatalf("server: %+v %v", s, err)
		}
	}
	return s.ID
}

func (l *life) removeServer(id string) {
	l.t.Helper()
	l.must(l.nova.DeleteServer(l.t.Context(), "", id))
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := l.nova.Server(l.t.Context(), "", id); errs.Is(err, errs.NotFound) {
			return
		}
		if time.Now().After(end) {
			l.t.Fatal("the server does not go")
		}
	}
}

func TestPocketRetentionWaitsForServers(t *testing.T) { retentionWaitsForServers(t, pocketLife(t)) }

func TestRealRetentionWaitsForServers(t *testing.T) {
	retentionWaitsForServers(t, newLife(t, cloudtest.Real(t, "kiln", "service", real.Nova, real.Glance)))
}

// retentionWaitsForServers: what runs keeps its version, and says so; it goes when the server is gone.
func retentionWaitsForServers(t *testing.T, l *life) {
	old, unused, now := l.version("life", "20260301.1"), l.version("life", "20260301.2"), l.version("life", "20260302.1")
	server := l.server(old.ImageID)
	dry := l.retain("life", true)
	l.want(dry, old.Name, "kept: server "+server+" uses it")
	l.want(dry, unused.Name, "would be deleted: ")
	l.want(dry, now.Name, "it is the newest; channel candidate points to it")
	if !l.there(unused.ImageID) || l.state(unused) != catalog.Superseded {
		t.Error("a dry run deletes nothing")
	}
	fates := l.retain("life", false)
	l.want(fates, old.Name, "kept: server "+server+" uses it")
	l.want(fates, unused.Name, "deleted: ")
	if l.there(unused.ImageID) || l.state(unused) != catalog.Deleted || !l.there(old.ImageID) || l.state(old) != catalog.Superseded {
		t.Errorf("unused is %s, old is %s", l.state(unused), l.state(old))
	}
	l.removeServer(server)
	l.want(l.retain("life", false), old.Name, "deleted: ")
	if l.there(old.ImageID) || !l.there(now.ImageID) {
		t.Error("the version goes when its last server is gone, the newest stays")
	}
	if fates := l.retain("life", false); len(fates) != 1 {
		t.Errorf("deleted versions are told again: %v", fates)
	}
	f, _ := l.family("life")
	if _, err := l.service.Promote(t.Context(), l.by, f, catalog.Stable, old.Name, ""); errs.CodeOf(err) != "kiln.version.deleted" {
		t.Errorf("promoting what was deleted: %v", err)
	}
}

func TestRetentionSaysWhyItKeeps(t *testing.T) {
	l := pocketLife(t)
	ctx := t.Context()
	names := []string{"pinned", "channel", "base", "snapshot", "container", "workload", "protected", "copied", "young", "away", "free", "ours"}
	versions := map[string]catalog.Version{}
	for i, name := range names {
		versions[name] = l.version("life", "20260301."+string(rune('1'+i%9))+strings.Repeat("0", i/9), func(v *catalog.Version) {
			if name == "young" {
				v.CreatedAt = time.Now().Add(-48 * time.Hour)
			}
		})
	}
	l.version("life", "20260401.1")
	f, _ := l.family("life")
	_, err := l.service.Promote(ctx, l.by, f, catalog.Stable, versions["channel"].Name, "")
	l.must(err)
	_, err = l.service.Pin(ctx, l.by, versions["pinned"], true, "a contract")
	l.must(err)
	l.version("web", "20260401.1", func(v *catalog.Version) { v.Base = versions["base"].Label() })
	l.image("snapshot", map[string]string{"base_image_ref": versions["snapshot"].ImageID})
	_, err = l.zun.CreateContainer(ctx, "", placement.NewContainer{Name: "life", Image: versions["container"].ImageID, ImageDriver: "glance", CPU: 1, MemoryMB: 64})
	l.must(err)
	l.must(l.db.CreateWorkload(ctx, placement.Workload{ID: "w1", ProjectID: f.ProjectID, Name: "w", ImageID: versions["workload"].ImageID, State: placement.Requested}))
	closed := true
	_, err = l.glance.PatchImage(ctx, versions["protected"].ImageID, catalog.GlancePatch{Protected: &closed})
	l.must(err)
	_, err = l.glance.PatchImage(ctx, versions["ours"].ImageID, catalog.GlancePatch{Protected: &closed, Properties: map[string]string{catalog.PropProtected: "true"}})
	l.must(err)
	_, err = l.db.EnsureCopy(ctx, cache.Copy{ID: "copy1", Cluster: "rack", Store: "disk", ImageID: versions["copied"].ImageID, State: cache.CopyVerified})
	l.must(err)
	l.engine.Users = append(l.engine.Users, engine.ImageUsers{Service: "Ironic", Thing: "node", Find: func(_ context.Context, id string, _ ...string) ([]string, error) {
		if id == versions["away"].ImageID {
			return nil, errs.New(errs.Unavailable, "kiln.ironic.away", "no answer")
		}
		return nil, nil
	}})
	fates := l.retain("life", false)
	for name, text := range map[string]string{
		"pinned": "kept: it is pinned: a contract", "channel": "kept: channel stable points to it", "base": "kept: it is the base of web/20260401.1",
		"snapshot": "kept: snapshot ", "container": "kept: container ", "workload": "kept: workload w1 uses it", "protected": "kept: somebody protected image ",
		"copied": "being deleted: copy copy1 in cluster rack is being evicted", "young": "kept: it is 2 days old, younger than 30",
		"away": "kept: could not ask Ironic: no answer", "free": "deleted: ", "ours": "deleted: ",
	} {
		l.want(fates, versions[name].Name, text)
		if gone := strings.HasPrefix(text, "deleted"); gone == l.there(versions[name].ImageID) {
			t.Errorf("%s: the image is there: %v", name, !gone)
		}
	}
	l.want(fates, "20260401.1", "kept: it is among the newest 1; it is the newest; channel candidate points to it")
	// The agent evicts the copy; the next run goes on with what is on its way out.
	if l.state(versions["copied"]) != catalog.Deleting {
		t.Errorf("copied is %s", l.state(versions["copied"]))
	}
	if _, _, err := catalog.Resolve(ctx, l.db, f.ProjectID, "life", versions["copied"].Name); errs.CodeOf(err) != "kiln.version.deleted" {
		t.Errorf("starting from what is on its way out: %v", err)
	}
	jobs, err := l.db.ListJobs(ctx, all().Where("kind", string(job.Evict)))
	if err != nil || len(jobs) != 1 {
		t.Errorf("%d evictions were started: %v", len(jobs), err)
	}
	l.must(l.db.DeleteCopy(ctx, "copy1"))
	l.want(l.retain("life", false), versions["copied"].Name, "deleted: ")
}

// breaking fails the n-th call that changes Glance, before or after it was done.
type breaking struct {
	engine.Glance
	n     int
	after bool
}

func (b *breaking) broken(do func() error) error {
	b.n--
	if b.n != 0 {
		return do()
	}
	if b.after {
		_ = do()
	}
	return errs.New(errs.Cancelled, "kiln.test.killed", "killed")
}

func (b *breaking) DeleteImage(ctx context.Context, id string) error {
	return b.broken(func() error { return b.Glance.DeleteImage(ctx, id) })
}

func (b *breaking) PatchImage(ctx context.Context, id string, p catalog.GlancePatch) (g catalog.GlanceImage, err error) {
	err = b.broken(func() error { g, err = b.Glance.PatchImage(ctx, id, p); return err })
	return g, err
}

// A run that dies at any of its calls leaves nothing that the next one does not finish, and takes nothing that is kept.
func TestRetentionIsSafeToKill(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			l := pocketLife(t)
			old := l.version("life", "20260301.1", func(v *catalog.Version) {
				v.Artifacts = []catalog.Artifact{{Format: "docker", ImageID: l.image("docker", nil)}}
			})
			l.version("life", "20260302.1")
			closed := true
			_, err := l.glance.PatchImage(t.Context(), old.ImageID, catalog.GlancePatch{Protected: &closed, Properties: map[string]string{catalog.PropProtected: "true"}})
			l.must(err)
			b := &breaking{Glance: l.glance, n: n, after: after}
			l.engine.Glance = b
			f, _ := l.family("life")
			_, err = l.service.Retain(t.Context(), l.by, f, false)
			l.must(err)
			l.drain()
			if l.state(old) == catalog.Superseded {
				t.Errorf("after a kill at call %d the version is %s", n, l.state(old))
			}
			l.engine.Glance = l.glance
			l.retain("life", false)
			if l.state(old) != catalog.Deleted || l.there(old.ImageID) || l.there(old.Artifacts[0].ImageID) {
				t.Errorf("killed at call %d (after it: %v): %s", n, after, l.state(old))
			}
			if b.n > 0 {
				if n < 4 {
					t.Errorf("only %d calls", n)
				}
				break
			}
		}
	}
}

// Retention runs by itself, once a window, and only where something may go.
func TestRetentionIsScheduled(t *testing.T) {
	l := pocketLife(t)
	l.engine.Life.RetentionEvery = time.Hour
	now := time.Now().Truncate(time.Hour)
	l.engine.Now = func() time.Time { return now }
	l.version("quiet", "20260302.1")
	old := l.version("life", "20260301.1")
	l.version("life", "20260302.1")
	for range 2 {
		l.must(l.engine.Sync(t.Context()))
	}
	jobs, err := l.db.ListJobs(t.Context(), all().Where("kind", string(job.Retain)))
	if err != nil || len(jobs) != 1 || jobs[0].Resource != "families/life" {
		t.Fatalf("%+v %v", jobs, err)
	}
	l.drain()
	if l.state(old) != catalog.Deleted {
		t.Errorf("old is %s", l.state(old))
	}
	now = now.Add(time.Hour)
	l.must(l.engine.Sync(t.Context()))
	if jobs, err = l.db.ListJobs(t.Context(), all().Where("kind", string(job.Retain))); err != nil || len(jobs) != 1 {
		t.Errorf("nothing may go and a job was started: %d %v", len(jobs), err)
	}
}
