package campaign_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// TestConditionsOfOtherKinds: a version is compared by the rules of the image's packages.
func TestConditionsOfOtherKinds(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		f.image("alma", "p", "alma", "NetworkManager high")
		f.ok(f.db.PutImage(t.Context(), catalog.Image{ID: "alma", ProjectID: "p", Name: "Image alma", State: catalog.Inspected, CreatedAt: f.now(), UpdatedAt: f.now(), Facts: &catalog.Facts{
			PackageKind: "rpm", OS: catalog.OSRelease{ID: "almalinux", VersionID: "9"}, Architecture: "amd64",
			Packages: []catalog.Package{{Name: "NetworkManager", Version: "1.0^git2-1.el9", Architecture: "x86_64", Source: "NetworkManager"}},
		}}))
		for condition, want := range map[string]int{"NetworkManager": 1, "NetworkManager>1.0-1.el9": 1, "NetworkManager<1.0^git3": 1, "NetworkManager<1.0-9": 0, "networkmanager": 0} {
			got, err := f.engine().Chooser.Choose(t.Context(), "p", campaign.Filter{Package: condition})
			f.ok(err)
			if len(got.Taken) != want {
				t.Errorf("%s: %+v", condition, got)
			}
		}
	})
}

func TestChoose(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		f.image("web", "p", "web", "openssl high", "bash low")
		f.image("db", "p", "db", "bash medium")
		f.image("plain", "p", "", "zlib ")
		f.image("nothing", "p", "nothing")
		f.image("other", "q", "other", "openssl critical")
		f.image("old", "p", "web2", "openssl high")
		f.ok(f.db.SetVersionState(t.Context(), "v-old", catalog.Published, catalog.Superseded))
		f.image("snapshot", "p", "", "openssl high")
		f.image("vmdk", "p", "", "openssl high")
		f.image("unread", "p", "", "openssl high")
		f.ok(f.db.PutImage(t.Context(), catalog.Image{ID: "unread", ProjectID: "p", State: catalog.Waiting, CreatedAt: f.now(), UpdatedAt: f.now()}))
		for i := range f.glance.images {
			g := &f.glance.images[i]
			switch g.ID {
			case "web":
				g.Tags, g.Visibility = []string{"fleet", "nightly"}, "public"
			case "snapshot":
				g.Properties["image_type"] = "snapshot"
			case "vmdk":
				g.DiskFormat = "vmdk"
			}
		}
		chooser := f.engine().Chooser
		for _, c := range []struct {
			filter campaign.Filter
			want   string
		}{
			{campaign.Filter{}, "db plain web"},
			{campaign.Filter{Families: []catalog.FamilyName{"web", "other"}}, "web"},
			{campaign.Filter{Tags: []string{"nightly", "fleet"}}, "web"},
			{campaign.Filter{Visibility: "private"}, "db plain"},
			{campaign.Filter{AllProjects: true}, "db other plain web"},
			{campaign.Filter{ProjectID: "q"}, "other"},
			{campaign.Filter{Distribution: "ubuntu"}, ""},
			{campaign.Filter{Distribution: "debian", Release: "bookworm", MinSeverity: "medium"}, "db plain web"}, // a security fix of no urgency counts as medium
			{campaign.Filter{Release: "12", MinSeverity: "high"}, "web"},
			{campaign.Filter{Package: "openssl<3.0.2"}, "db plain web"},
			{campaign.Filter{Package: "openssl >= 3.0.2"}, ""},
			{campaign.Filter{Package: "nginx"}, ""},
			{campaign.Filter{ImageIDs: []string{"nothing", "snapshot", "old", "other"}}, "nothing snapshot"},
			{campaign.Filter{CVE: "CVE-2026-0001"}, ""},
			{campaign.Filter{Security: true, MinSeverity: "low"}, "db plain web"},
		} {
			got, err := chooser.Choose(t.Context(), "p", c.filter)
			f.ok(err)
			var names []string
			for _, p := range got.Taken {
				names = append(names, p.ImageID)
			}
			slices.Sort(names)
			if strings.Join(names, " ") != c.want {
				t.Errorf("%+v takes %v, want %s", c.filter, names, c.want)
			}
		}
		got, err := chooser.Choose(t.Context(), "p", campaign.Filter{})
		f.ok(err)
		reasons := map[string]string{}
		for _, l := range got.LeftOut {
			reasons[l.ImageID] = l.Reason
		}
		if len(reasons) != 2 || !strings.Contains(reasons["vmdk"], "its disk format is vmdk") || !strings.Contains(reasons["unread"], "not read yet") {
			t.Errorf("left out: %v", reasons)
		}
		got, err = chooser.Choose(t.Context(), "p", campaign.Filter{ImageIDs: []string{"other", "old", "gone"}})
		f.ok(err)
		if len(got.LeftOut) != 3 {
			t.Errorf("named, and left out: %+v", got.LeftOut)
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	for name, n := range map[string]campaign.New{
		"filter.families":     {Filter: campaign.Filter{Families: []catalog.FamilyName{"A b"}}},
		"filter.visibility":   {Filter: campaign.Filter{Visibility: "secret"}},
		"filter.cve":          {Filter: campaign.Filter{CVE: "2026-1"}},
		"filter.min_severity": {Filter: campaign.Filter{MinSeverity: "terrible"}},
		"filter.package":      {Filter: campaign.Filter{Package: "openssl~3"}},
		"filter.all_projects": {Filter: campaign.Filter{AllProjects: true, ProjectID: "p"}},
		"filter.image_ids":    {Filter: campaign.Filter{ImageIDs: make([]string, 1001)}},
		"name":                {Name: "a b"},
		"max_parallel":        {MaxParallel: 101},
		"stop_after_failures": {StopAfterFailures: -1},
		"hours":               {Hours: []string{"at night"}},
	} {
		err := n.Check()
		if err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
