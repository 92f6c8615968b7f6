package pocket_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
)

// A cloud that keeps its images serves the whole ones again, and nothing of the half ones.
func TestKeptImagesOutliveTheCloud(t *testing.T) {
	dir, whole, half := t.TempDir(), uuid.NewString(), uuid.NewString()
	var project string
	life := func(visit func(g *glance.Client, project string)) {
		cloud, err := pocket.Start(context.WithoutCancel(t.Context()), pocket.Config{Dir: dir, Keep: true})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := openstack.Connect(t.Context(), openstack.Config{AuthURL: cloud.AuthURL(), Username: "kiln", Password: "kiln", ProjectName: "service", Interface: "public"})
		if err != nil {
			t.Fatal(err)
		}
		id, err := conn.ForProject("").ID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		visit(glance.New(conn), id)
		if err := cloud.Close(); err != nil {
			t.Fatal(err)
		}
	}
	life(func(g *glance.Client, id string) {
		project = id
		for _, image := range []string{whole, half} {
			if _, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{ID: image, Name: "x", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private", Properties: map[string]string{"a": "b"}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Upload(t.Context(), whole, strings.NewReader("hello"), 5); err != nil {
			t.Fatal(err)
		}
	})
	life(func(g *glance.Client, id string) {
		if id != project {
			t.Errorf("the project's id was %s and is %s", project, id)
		}
		i, err := g.Image(t.Context(), whole)
		if err != nil || i.Status != "active" || i.Properties["a"] != "b" || i.Owner != project {
			t.Errorf("image %+v, error %v", i, err)
		}
		body, err := g.Download(t.Context(), whole, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if data, err := io.ReadAll(body); err != nil || string(data) != "hello" {
			t.Errorf("bytes %q, error %v", data, err)
		}
		if _, err := g.Image(t.Context(), half); !errs.Is(err, errs.NotFound) {
			t.Errorf("the half image: %v", err)
		}
	})
}
