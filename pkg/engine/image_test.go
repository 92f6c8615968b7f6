package engine_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Kiln is an administrator in Glance, its users are not: another project's image must not start through Kiln.
func TestForeignImageIsNotStarted(t *testing.T) {
	p := newPlant(t, nodes(1)...)
	other, err := openstack.Connect(t.Context(), openstack.Config{AuthURL: p.cloud.AuthURL(), Username: "other", Password: "kiln", ProjectName: "other", Interface: "public"})
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{}
	for _, visibility := range []string{"private", "shared", "community"} {
		g := glance.New(other)
		img, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: "theirs", DiskFormat: "raw", ContainerFormat: "bare", Visibility: visibility})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Upload(t.Context(), img.ID, io.LimitReader(zeros{}, 4096), 4096); err != nil {
			t.Fatal(err)
		}
		images[visibility] = img.ID
	}
	try := func(image string) placement.Workload {
		w := p.create(placement.NewWorkload{Name: "x", Kind: placement.VM, ImageID: image, Flavor: "kiln.tiny"})
		p.drain()
		return p.find(w.ID)
	}
	for _, visibility := range []string{"private", "shared"} {
		if w := try(images[visibility]); w.State != placement.Errored || !strings.Contains(w.Error, "there is no image") {
			t.Errorf("%s: %+v", visibility, w)
		}
	}
	if w := try(images["community"]); w.State != placement.Active {
		t.Errorf("community: %+v", w)
	}
	p.share(other, images["shared"])
	if w := try(images["shared"]); w.State != placement.Active {
		t.Errorf("shared with the project: %+v", w)
	}
	p.equal(2)
}

// share lets the owner name the plant's project as a member of the image.
func (p *plant) share(owner *openstack.Cloud, image string) {
	p.t.Helper()
	token, err := owner.ForProject("").Token(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.cloud.URL()+"/image/v2/images/"+image+"/members", bytes.NewReader([]byte(`{"member":"`+p.by.ProjectID+`"}`)))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("sharing answers %s", resp.Status)
	}
}

// What a job leaves in Glance without publishing it goes once the job has ended; what may yet become a version, and
// what is not Kiln's, stays.
func TestUnpublishedImagesGo(t *testing.T) {
	p := newPlant(t, nodes(1)...)
	conn, err := openstack.Connect(t.Context(), openstack.Config{AuthURL: p.cloud.AuthURL(), Username: "kiln", Password: "kiln", ProjectName: "service", Interface: "public"})
	if err != nil {
		t.Fatal(err)
	}
	g, now := glance.New(conn), time.Now()
	made := map[string]string{}
	for _, c := range []struct {
		name  string
		state job.State
		whole bool
	}{
		{"failed-whole", job.Failed, true}, {"failed-half", job.Failed, false}, {"cancelled", job.Cancelled, true}, {"running", job.Running, true},
		{"succeeded", job.Succeeded, true}, {"foreign", "", true},
	} {
		id := uuid.NewString()
		props := map[string]string{catalog.PropJob: id}
		if c.state == "" {
			props = nil
		} else if err := p.db.AddJob(t.Context(), job.Job{ID: id, Kind: job.Build, Queue: "nobody", State: c.state, RunAfter: now, CreatedAt: now, UpdatedAt: now}); err != nil {
			t.Fatal(err)
		}
		img, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: c.name, DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private", Properties: props})
		if err == nil && c.whole {
			err = g.Upload(t.Context(), img.ID, io.LimitReader(zeros{}, 4096), 4096)
		}
		yes := true
		if err == nil && c.name == "failed-whole" {
			_, err = g.PatchImage(t.Context(), img.ID, catalog.GlancePatch{Protected: &yes})
		}
		if err != nil {
			t.Fatal(err)
		}
		made[c.name] = img.ID
	}
	for range 2 {
		if err := p.engine.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, id := range made {
		_, err := g.Image(t.Context(), id)
		gone := name == "failed-whole" || name == "failed-half" || name == "cancelled"
		if errs.Is(err, errs.NotFound) != gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
