package glance_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func TestPocketBarredAndProtected(t *testing.T) {
	_, kiln := cloudtest.Pocket(t, pocket.Config{})
	barredAndProtected(t, kiln)
}

func TestRealBarredAndProtected(t *testing.T) {
	barredAndProtected(t, cloudtest.Real(t, "kiln", "service", real.Glance))
}

// barredAndProtected: what revocation and retention do with an image, each twice.
func barredAndProtected(t *testing.T, cloud *openstack.Cloud) {
	ctx, c := t.Context(), glance.New(cloud)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	g, err := c.CreateImage(ctx, catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: "kiln-life", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public", MinDiskGiB: 2, MinRAMMiB: 512,
		Tags: []string{"managed_by_kiln", "os:debian"}, Properties: map[string]string{catalog.PropFamily: "life"},
	})
	must(err)
	protected, open, hidden, private := true, false, true, "private"
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		_, _ = c.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &open})
		if err := c.DeleteImage(ctx, g.ID); err != nil && !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
	})
	must(c.Upload(ctx, g.ID, bytes.NewReader(make([]byte, 4096)), 4096))
	for range 2 {
		_, err := c.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &protected, Hidden: &hidden, Visibility: &private, Properties: map[string]string{catalog.PropRevoked: "a hole"}})
		must(err)
		must(c.Deactivate(ctx, g.ID))
	}
	got, err := c.Image(ctx, g.ID)
	must(err)
	slices.Sort(got.Tags)
	if !got.Protected || !got.Hidden || got.Visibility != private || got.Status != "deactivated" || got.MinRAMMiB != 512 || got.MinDiskGiB != 2 ||
		!slices.Equal(got.Tags, []string{"managed_by_kiln", "os:debian"}) || got.Properties[catalog.PropRevoked] != "a hole" {
		t.Errorf("%+v", got)
	}
	if err := c.DeleteImage(ctx, g.ID); !errs.Is(err, errs.Forbidden) {
		t.Errorf("deleting a protected image: %v", err)
	}
	for range 2 {
		must(c.Reactivate(ctx, g.ID))
		_, err = c.PatchImage(ctx, g.ID, catalog.GlancePatch{Protected: &open, Properties: map[string]string{catalog.PropRevoked: ""}})
		must(err)
	}
	if got, err = c.Image(ctx, g.ID); err != nil || got.Protected || got.Status != "active" || got.Properties[catalog.PropRevoked] != "" {
		t.Errorf("%+v %v", got, err)
	}
	must(c.DeleteImage(ctx, g.ID))
	if err := c.Deactivate(ctx, g.ID); !errs.Is(err, errs.NotFound) {
		t.Errorf("deactivating what is gone: %v", err)
	}
}
