package engine_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// gallery is a plant whose images are collected.
type gallery struct {
	*plant
	glance *glance.Client
}

func newGallery(t *testing.T) *gallery {
	t.Helper()
	p := newPlant(t, nodes(1)...)
	g := &gallery{plant: p, glance: p.as("kiln", "service")}
	p.engine.Collect.All = true
	return g
}

// as is a client of another user.
func (p *plant) as(user, project string) *glance.Client {
	p.t.Helper()
	conn, err := openstack.Connect(p.t.Context(), openstack.Config{AuthURL: p.cloud.AuthURL(), Username: user, Password: "kiln", ProjectName: project, Interface: "public"})
	if err != nil {
		p.t.Fatal(err)
	}
	return glance.New(conn)
}

// image makes an image with bytes.
func (g *gallery) image(by *glance.Client, n catalog.NewGlanceImage) string {
	g.t.Helper()
	n.ID, n.Name, n.DiskFormat, n.ContainerFormat = uuid.NewString(), "image", "raw", "bare"
	if n.Visibility == "" {
		n.Visibility = "private"
	}
	_, err := by.CreateImage(g.t.Context(), n)
	if err == nil {
		err = by.Upload(g.t.Context(), n.ID, io.LimitReader(zeros{}, 4096), 4096)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return n.ID
}

func (g *gallery) sweep() {
	g.t.Helper()
	if err := g.engine.Sweep(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

// inspections are the images that jobs read, oldest job first.
func (g *gallery) inspections() []string {
	g.t.Helper()
	all, err := g.db.ListJobs(g.t.Context(), listing.All().Where("kind", string(job.Inspect)))
	if err != nil {
		g.t.Fatal(err)
	}
	ids := []string{}
	for _, j := range slices.Backward(all) {
		ids = append(ids, j.ResourceID())
	}
	return ids
}

// row is what Kiln keeps of an image.
func (g *gallery) row(id string) catalog.Image {
	g.t.Helper()
	i, err := g.db.FindImage(g.t.Context(), id)
	if err != nil {
		g.t.Fatal(err)
	}
	return i
}

// end ends the open inspections as a worker would.
func (g *gallery) end(state job.State, write func(i *catalog.Image)) int {
	g.t.Helper()
	n := 0
	for {
		now := g.engine.Now()
		j, err := g.db.LeaseJob(g.t.Context(), []job.Queue{job.WorkerQueue}, nil, "w", now.Add(time.Second), now.Add(time.Hour))
		if err != nil {
			g.t.Fatal(err)
		}
		if j == nil {
			return n
		}
		n++
		if write != nil {
			i := g.row(j.ResourceID())
			write(&i)
			if err := g.db.PutImage(g.t.Context(), i); err != nil {
				g.t.Fatal(err)
			}
		}
		outcome := job.Outcome{State: state, Result: json.RawMessage("{}")}
		if err := g.db.FinishJob(g.t.Context(), j.ID, "w", now, outcome, nil); err != nil {
			g.t.Fatal(err)
		}
	}
}

func inspected(i *catalog.Image) {
	i.State, i.FactsVersion, i.Facts = catalog.Inspected, catalog.FactsVersion, &catalog.Facts{OS: catalog.OSRelease{ID: "debian"}}
}

// What no notification told of is found once, whoever looks and however often; what was read is left alone until the
// reader is better.
func TestSweepFindsWhatWasLost(t *testing.T) {
	g := newGallery(t)
	ours := g.image(g.glance, catalog.NewGlanceImage{Visibility: "public"})
	theirs := g.image(g.as("other", "other"), catalog.NewGlanceImage{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := g.engine.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := slices.Sorted(slices.Values([]string{g.plant.image, ours, theirs}))
	if got := slices.Sorted(slices.Values(g.inspections())); !slices.Equal(got, want) {
		t.Fatalf("jobs for %v, not %v", got, want)
	}
	if i := g.row(theirs); i.State != catalog.Waiting || i.Visibility != "private" || i.Status != "active" || i.ProjectID == g.by.ProjectID {
		t.Errorf("%+v", i)
	}
	if n := g.end(job.Succeeded, inspected); n != 3 {
		t.Errorf("%d jobs", n)
	}
	g.sweep()
	if n := len(g.inspections()); n != 3 {
		t.Errorf("read again: %d jobs", n)
	}
	old := g.row(ours)
	old.FactsVersion--
	if err := g.db.PutImage(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	g.sweep()
	if got := g.inspections(); len(got) != 4 || got[3] != ours {
		t.Errorf("older facts: %v", got)
	}
	if i := g.row(ours); i.State != catalog.Inspected || i.Facts == nil {
		t.Errorf("while it is read again: %+v", i)
	}
}

// A job that failed is tried again, but not before tomorrow.
func TestSweepTriesAgainTomorrow(t *testing.T) {
	g := newGallery(t)
	now := time.Now()
	g.engine.Now = func() time.Time { return now }
	for day, want := range []int{1, 2, 3} {
		for range 3 {
			g.sweep()
			g.end(job.Failed, nil)
			now = now.Add(time.Hour)
		}
		if n := len(g.inspections()); n != want {
			t.Errorf("day %d: %d jobs", day, n)
		}
		now = now.Add(24 * time.Hour)
	}
}

// Ten thousand new images do not fill the queue.
func TestSweepIsBounded(t *testing.T) {
	g := newGallery(t)
	g.engine.Collect.Open = 2
	for range 4 {
		g.image(g.glance, catalog.NewGlanceImage{})
	}
	for _, want := range []int{2, 4, 5, 5} {
		g.sweep()
		g.sweep()
		if n := len(g.inspections()); n != want {
			t.Errorf("%d jobs, not %d", n, want)
		}
		g.end(job.Succeeded, inspected)
	}
}

func TestSweepTakesWhatPolicyNames(t *testing.T) {
	g := newGallery(t)
	other := g.as("other", "other")
	made := map[string]string{
		"public": g.plant.image, "private": g.image(g.glance, catalog.NewGlanceImage{}), "tagged": g.image(g.glance, catalog.NewGlanceImage{Tags: []string{"lts"}}),
		"community": g.image(other, catalog.NewGlanceImage{Visibility: "community"}), "shared": g.image(other, catalog.NewGlanceImage{Visibility: "shared"}),
		"unshared": g.image(other, catalog.NewGlanceImage{Visibility: "shared"}),
	}
	if err := other.AddMember(t.Context(), made["shared"], g.by.ProjectID); err != nil {
		t.Fatal(err)
	}
	theirs, err := g.glance.Image(t.Context(), made["shared"])
	if err != nil {
		t.Fatal(err)
	}
	seen := []string{}
	for _, step := range []struct {
		selection catalog.Selection
		more      []string
	}{
		{catalog.Selection{}, nil},
		{catalog.Selection{Visibility: []string{"public"}}, []string{"public"}},
		{catalog.Selection{Tags: []string{"lts", "x"}}, []string{"tagged"}},
		{catalog.Selection{SharedWith: []string{g.by.ProjectID}}, []string{"shared"}},
		{catalog.Selection{Owners: []string{theirs.Owner}}, []string{"community", "unshared"}},
		{catalog.Selection{All: true}, []string{"private"}},
	} {
		g.engine.Collect = engine.Collect{Selection: step.selection}
		g.sweep()
		for _, name := range step.more {
			seen = append(seen, made[name])
		}
		if got := g.inspections(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(seen))) {
			t.Errorf("%+v: %d jobs, not %d", step.selection, len(got), len(seen))
		}
	}
}

// Kiln's rows follow what becomes of images, with notifications and without them.
func TestRowsStayInStep(t *testing.T) {
	for name, tell := range map[string]func(g *gallery, event, id string){
		"sweep":  func(g *gallery, _, _ string) { g.sweep() },
		"notice": func(g *gallery, event, id string) { g.notice("image."+event, map[string]any{"id": id, "owner": "x"}) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGallery(t)
			id := g.image(g.glance, catalog.NewGlanceImage{})
			g.sweep()
			g.end(job.Succeeded, inspected)
			public := "public"
			if _, err := g.glance.PatchImage(t.Context(), id, catalog.GlancePatch{Visibility: &public}); err != nil {
				t.Fatal(err)
			}
			tell(g, "update", id)
			if i := g.row(id); i.Visibility != "public" || i.State != catalog.Inspected || i.Facts == nil {
				t.Errorf("shown to all: %+v", i)
			}
			if err := g.glance.Deactivate(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			tell(g, "update", id)
			if i := g.row(id); i.Status != "deactivated" || i.State != catalog.Inspected {
				t.Errorf("deactivated: %+v", i)
			}
			if err := g.glance.DeleteImage(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				tell(g, "delete", id)
			}
			if i := g.row(id); i.State != catalog.Gone || i.Facts == nil {
				t.Errorf("deleted: %+v", i)
			}
			listed, err := g.db.ListImages(t.Context(), listing.All())
			if err != nil || slices.ContainsFunc(listed, func(i catalog.Image) bool { return i.ID == id }) {
				t.Errorf("still listed, %v", err)
			}
			tell(g, "update", id) // a notification that comes late
			if i := g.row(id); i.State != catalog.Gone {
				t.Errorf("back: %+v", i)
			}
		})
	}
}

func (g *gallery) notice(event string, payload any) {
	g.t.Helper()
	text, err := json.Marshal(payload)
	if err == nil {
		err = g.engine.Notice(g.t.Context(), event, text)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// The bodies are those of a real Glance.
func TestNotificationsOfARealGlance(t *testing.T) {
	g := newGallery(t)
	tell := func(file string) {
		t.Helper()
		body, err := os.ReadFile(filepath.Join("testdata", "image."+file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := bus.OpenEnvelope(body)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.engine.Notice(t.Context(), n.EventType, n.Payload); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		tell("create")
		tell("upload")
		tell("activate")
		tell("send")
	}
	const id = "a33729a2-10fc-4fac-a8bc-d5c8d2d5c4a9"
	if got := g.inspections(); !slices.Equal(got, []string{id}) {
		t.Errorf("jobs: %v", got)
	}
	i := g.row(id)
	if i.State != catalog.Waiting || i.Name != "t-lab" || i.ProjectID != "2679bbf239624aeca725267c60088756" || i.Visibility != "shared" || i.Size != 3 || i.Status != "active" {
		t.Errorf("%+v", i)
	}
	tell("update") // of an image that neither Kiln nor this cloud knows
	tell("delete")
	if n := len(g.inspections()); n != 1 {
		t.Errorf("%d jobs", n)
	}
	g.sweep() // nor does it know the first one
	if i := g.row(id); i.State != catalog.Gone {
		t.Errorf("%+v", i)
	}
}

// Images that Kiln makes come with their facts; those of a Kiln that nobody knows here are images as any.
func TestSweepLeavesHalfMadeImages(t *testing.T) {
	g := newGallery(t)
	running, now := uuid.NewString(), time.Now()
	if err := g.db.AddJob(t.Context(), job.Job{ID: running, Kind: job.Build, Queue: "nobody", State: job.Running, RunAfter: now, CreatedAt: now, UpdatedAt: now}); err != nil {
		t.Fatal(err)
	}
	half := g.image(g.glance, catalog.NewGlanceImage{Properties: map[string]string{catalog.PropJob: running, catalog.PropOrigin: "build"}})
	foreign := g.image(g.glance, catalog.NewGlanceImage{Properties: map[string]string{catalog.PropJob: uuid.NewString(), catalog.PropOrigin: "build"}})
	g.notice("image.activate", map[string]any{"id": half, "properties": map[string]string{catalog.PropOrigin: "build"}})
	g.sweep()
	got := g.inspections()
	if slices.Contains(got, half) || !slices.Contains(got, foreign) {
		t.Errorf("%v", got)
	}
}

// An image that somebody barred and gave free again is read then, although a job had ended for it.
func TestReactivatedImageIsRead(t *testing.T) {
	g := newGallery(t)
	g.sweep()
	g.end(job.Succeeded, nil) // the worker found it deactivated
	g.sweep()
	if got := g.inspections(); len(got) != 2 || got[0] != got[1] {
		t.Errorf("%v", got)
	}
	if g.end(job.Succeeded, inspected); g.row(g.plant.image).State != catalog.Inspected {
		t.Error("it was not read")
	}
}

// Glance's outage is no reason to think that its images are gone.
func TestSweepWithoutGlance(t *testing.T) {
	g := newGallery(t)
	g.sweep()
	g.cloud.Fail(wire.Match{Service: pocket.Image}, wire.Fault{Status: http.StatusServiceUnavailable}, -1)
	err := g.engine.Sweep(t.Context())
	if i := g.row(g.plant.image); err == nil || i.State == catalog.Gone {
		t.Errorf("%v: %+v", err, i)
	}
}
