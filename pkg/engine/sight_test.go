package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func all() listing.Query { return listing.All() }

// shown lists the versions of a family whose images Glance shows, oldest first.
func (l *life) shown(family string) string {
	l.t.Helper()
	var names []string
	_, versions := l.family(family)
	for _, v := range versions {
		g, err := l.glance.Image(l.t.Context(), v.ImageID)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		l.must(err)
		if !g.Hidden {
			names = append(names, v.Name)
		}
	}
	slices.SortFunc(names, catalog.CompareVersions)
	return strings.Join(names, " ")
}

// settle runs the job that a change starts, and the sweep too, which must agree.
func (l *life) settle(family, want string) {
	l.t.Helper()
	f, _ := l.family(family)
	_, err := l.service.Start(l.t.Context(), l.by, job.Draft{Kind: job.Settle, Queue: job.EngineQueue, Resource: "families/" + family, Payload: catalog.SettlePayload{FamilyIDs: []string{f.ID}}})
	l.must(err)
	l.drain()
	if got := l.shown(family); got != want {
		l.t.Errorf("the engine's jobs show %q, want %q", got, want)
	}
	l.must(l.engine.Sync(l.t.Context()))
	if got := l.shown(family); got != want {
		l.t.Errorf("the engine's sweep shows %q, want %q", got, want)
	}
}

// osism/openstack-image-manager#1278: the new image was hidden and the old ones were shown. Whatever happens, what a
// channel points to and the newest that is left are shown, and nothing else.
func TestTheNewestIsNeverHidden(t *testing.T) {
	t.Run("numbers of one day", func(t *testing.T) {
		l := pocketLife(t)
		for n := range 10 {
			l.version("web", fmt.Sprintf("20260301.%d", n+1))
		}
		l.settle("web", "20260301.10")
	})
	t.Run("families with the same beginning", func(t *testing.T) {
		l := pocketLife(t)
		l.version("web", "20260301.1")
		l.version("web-shop", "20260305.1")
		l.version("web", "20260302.1")
		l.settle("web", "20260302.1")
		l.settle("web-shop", "20260305.1")
	})
	t.Run("the newest is lost", func(t *testing.T) {
		l := pocketLife(t)
		for _, name := range []string{"20260301.1", "20260302.1", "20260303.1"} {
			l.version("web", name)
		}
		l.settle("web", "20260303.1")
		_, versions := l.family("web")
		i := slices.IndexFunc(versions, func(v catalog.Version) bool { return v.Name == "20260303.1" })
		l.must(l.glance.DeleteImage(t.Context(), versions[i].ImageID))
		l.settle("web", "20260302.1")
	})
	t.Run("the newest is revoked and comes back", func(t *testing.T) {
		l := pocketLife(t)
		for _, name := range []string{"20260301.1", "20260302.1"} {
			l.version("web", name)
		}
		f, _ := l.family("web")
		_, err := l.service.Revoke(t.Context(), l.by, f, "20260302.1", "broken", false)
		l.must(err)
		l.settle("web", "20260301.1")
		_, err = l.service.Unrevoke(t.Context(), l.by, f, "20260302.1")
		l.must(err)
		l.settle("web", "20260301.1 20260302.1") // candidate went to the first and stays
	})
	t.Run("roll back", func(t *testing.T) {
		l := pocketLife(t)
		for _, name := range []string{"20260301.1", "20260302.1", "20260303.1"} {
			l.version("web", name)
			f, _ := l.family("web")
			_, err := l.service.Promote(t.Context(), l.by, f, catalog.Stable, name, "")
			l.must(err)
		}
		l.settle("web", "20260303.1")
		f, _ := l.family("web")
		_, err := l.service.RollBack(t.Context(), l.by, f, catalog.Stable, "")
		l.must(err)
		l.settle("web", "20260302.1 20260303.1")
		_, err = l.service.RollBack(t.Context(), l.by, f, catalog.Stable, "")
		l.must(err)
		l.settle("web", "20260301.1 20260303.1")
	})
	t.Run("somebody hid it by hand", func(t *testing.T) {
		l := pocketLife(t)
		v := l.version("web", "20260301.1")
		hidden := true
		_, err := l.glance.PatchImage(t.Context(), v.ImageID, catalog.GlancePatch{Hidden: &hidden})
		l.must(err)
		l.settle("web", "20260301.1")
	})
}

func TestPocketRevokedImagesAreBarred(t *testing.T) { revokedImagesAreBarred(t, pocketLife(t)) }

func TestRealRevokedImagesAreBarred(t *testing.T) {
	revokedImagesAreBarred(t, newLife(t, cloudtest.Real(t, "kiln", "service", real.Nova, real.Glance)))
}

// revokedImagesAreBarred: hidden, private, with the reason, and no server starts from it; all of it comes back.
func revokedImagesAreBarred(t *testing.T, l *life) {
	old, bad := l.version("life-revoke", "20260301.1"), l.version("life-revoke", "20260302.1", func(v *catalog.Version) {
		v.Artifacts = []catalog.Artifact{{Format: "docker", ImageID: l.image("artifact", nil)}}
	})
	f, _ := l.family("life-revoke")
	_, err := l.service.Revoke(t.Context(), l.by, f, bad.Name, "a back door in xz", false)
	l.must(err)
	l.drain()
	flavor, err := l.nova.Flavor(t.Context(), "kiln.tiny")
	l.must(err)
	for _, id := range bad.Images() {
		g, err := l.glance.Image(t.Context(), id)
		l.must(err)
		if !g.Hidden || g.Visibility != "private" || g.Status != "deactivated" || g.Properties[catalog.PropRevoked] != "a back door in xz" {
			t.Errorf("revoked: %+v", g)
		}
		s, err := l.nova.CreateServer(t.Context(), "", placement.NewServer{Name: "kiln-life", ImageID: id, FlavorID: flavor.ID, Metadata: map[string]string{}})
		if err == nil {
			l.removeServer(s.ID)
		}
		if err == nil || !strings.Contains(err.Error(), "is not active") {
			t.Errorf("a server from a revoked image: %v", err)
		}
	}
	if g, err := l.glance.Image(t.Context(), old.ImageID); err != nil || g.Hidden || g.Status != "active" || g.Visibility != "public" {
		t.Errorf("the one before it: %+v %v", g, err)
	}
	_, err = l.service.Unrevoke(t.Context(), l.by, f, bad.Name)
	l.must(err)
	l.drain()
	for _, id := range bad.Images() {
		g, err := l.glance.Image(t.Context(), id)
		l.must(err)
		_, reason := g.Properties[catalog.PropRevoked]
		_, was := g.Properties[catalog.PropVisibility]
		if g.Hidden || g.Visibility != "public" || g.Status != "active" || reason || was {
			t.Errorf("back again: %+v", g)
		}
	}
}
