package cli_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

type nought struct{}

func (nought) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// version publishes a small image as a version of the family web, in the project demo.
func (k kiln) version(name string, properties map[string]string) catalog.Version {
	k.t.Helper()
	ctx := k.t.Context()
	must := func(err error) {
		k.t.Helper()
		if err != nil {
			k.t.Fatal(err)
		}
	}
	families, err := k.parts.DB.ListFamilies(ctx, listing.All())
	must(err)
	f := families[0]
	g, err := k.parts.Glance.CreateImage(ctx, catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "web", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public", Owner: f.ProjectID,
		MinDiskGiB: 2, MinRAMMiB: catalog.SCSMinRAM, Tags: catalog.SCSTags(&catalog.Facts{OS: catalog.OSRelease{ID: "debian"}}), Properties: properties,
	})
	must(err)
	must(k.parts.Glance.Upload(ctx, g.ID, io.LimitReader(nought{}, 4096), 4096))
	v := catalog.Version{
		ID: uuid.NewString(), ProjectID: f.ProjectID, FamilyID: f.ID, Family: f.Name, Name: name, ImageID: g.ID, Origin: "build",
		State: catalog.Superseded, CreatedAt: time.Now().Add(-100 * 24 * time.Hour),
	}
	must(k.parts.DB.AddVersion(ctx, v))
	must(k.parts.DB.PutImage(ctx, catalog.Image{ID: g.ID, ProjectID: f.ProjectID, Name: "web", State: catalog.Waiting, CreatedAt: time.Now(), UpdatedAt: time.Now()}))
	return v
}

// A family's life from the command line: promoted, rolled back, revoked, cleaned up, and linted.
func TestFamilyLifeOnTheCommandLine(t *testing.T) {
	k := start(t)
	k.run("family", "create", "--name", "web")
	good := catalog.SCSProperties(catalog.SCSInput{
		Facts:      &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12"}, Architecture: "amd64", CloudInit: true},
		PackagesAt: time.Now(), KeepCount: 1,
	})
	k.version("20260301.1", nil)
	unused := k.version("20260302.1", good)
	bad := k.version("20260303.1", good)
	k.version("20260304.1", good)
	k.as("demo-manager", "demo")
	has := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is not in\n%s", w, out)
			}
		}
	}
	for _, v := range []string{"20260301.1", "20260303.1", "20260304.1"} {
		k.run("channel", "promote", "web", "stable", v, "--reason", "tested "+v)
	}
	has(k.run("channel", "rollback", "web", "stable", "--reason", "no DNS"), "channel stable of web: 20260304.1 → 20260303.1")
	has(k.run("channel", "history", "web", "stable"), "rollback", "no DNS", "tested 20260304.1")
	has(k.run("family", "revoke", "web", "20260303.1", "--reason", "a hole", "--dry-run"), "would be revoked: named", "channel stable of web would move: 20260303.1 → 20260302.1")
	has(k.run("family", "revoke", "web", "20260303.1", "--reason", "a hole"), bad.ImageID, "channel stable of web moved: 20260303.1 → 20260302.1")
	has(k.run("family", "unrevoke", "web", "20260303.1"), "web/20260303.1 may be used again")
	k.run("channel", "promote", "web", "stable", "20260304.1")
	k.run("family", "pin", "web", "20260301.1", "--note", "a contract")
	has(k.run("family", "set", "web", "--keep-count", "1", "--keep-days", "0"), "keep_count=1")
	has(k.run("family", "retention", "web", "--dry-run"), "would be deleted", "it is pinned: a contract", "channel stable points to it")
	has(k.run("family", "retention", "web"), "deleted")
	has(k.run("family", "versions", "web"), "deleted", "published")

	out, err := k.try("image", "lint", "web")
	if err == nil || !strings.Contains(err.Error(), "errors in 2 images") {
		t.Errorf("lint of a family with a bare image: %v", err)
	}
	has(out, "os_purpose", "error", "k8snode")
	has(k.run("family", "versions", "web", "-f", "json"), unused.ImageID)
	k.version("20260305.1", good)
	if _, err := k.try("image", "lint"); err == nil {
		t.Error("lint of nothing")
	}
	if _, err := k.try("image", "lint", "--all"); err == nil || !strings.Contains(err.Error(), "errors in 3 images") {
		t.Errorf("lint of all: %v", err)
	}
}
