package catalog_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

func TestVersionNamesNeverGoBack(t *testing.T) {
	day := time.Date(2026, 3, 5, 23, 0, 0, 0, time.FixedZone("", -2*3600)) // the 6th in UTC
	for existing, want := range map[string]string{
		"":                                  "20260306.1",
		"20260306.9 20260306.10":            "20260306.11",
		"20260307.2 20260306.1":             "20260307.3", // a clock that went back
		"20260305.7 latest 20260306.x 2026": "20260306.1",
	} {
		if got := catalog.NextVersionName(day, strings.Fields(existing)); got != want {
			t.Errorf("after %q comes %q, want %q", existing, got, want)
		}
	}
}

func TestNewerNamesAreGreater(t *testing.T) {
	line := strings.Fields("old 20260228.11 20260301.1 20260301.2 20260301.9 20260301.10 20260301.100 20270101.1")
	for i := range line {
		for j := range line {
			got := catalog.CompareVersions(line[i], line[j])
			if (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s against %s is %d", line[i], line[j], got)
			}
		}
	}
}

// Whatever the states, the order in the list and the channels: see Visible.
func TestVisible(t *testing.T) {
	states := []catalog.VersionState{catalog.Published, catalog.Superseded, catalog.Superseded, catalog.Revoked, catalog.Deleting, catalog.Deleted}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var versions []catalog.Version
		for n := range 1 + r.IntN(12) {
			name := fmt.Sprintf("2026030%d.%d", 1+r.IntN(3), n+1)
			versions = append(versions, catalog.Version{ID: "id-" + name, Name: name, State: states[r.IntN(len(states))]})
		}
		r.Shuffle(len(versions), func(i, j int) { versions[i], versions[j] = versions[j], versions[i] })
		channels := map[string]string{}
		for _, c := range []string{"stable", "candidate"} {
			if r.IntN(2) == 0 {
				channels[c] = versions[r.IntN(len(versions))].Name
			}
		}
		checkSights(t, versions, channels)
	}
}

func checkSights(t *testing.T, versions []catalog.Version, channels map[string]string) {
	t.Helper()
	sights := catalog.Visible(versions, channels)
	usable := slices.DeleteFunc(slices.Clone(versions), func(v catalog.Version) bool { return !v.State.Usable() })
	slices.SortFunc(usable, func(a, b catalog.Version) int { return catalog.CompareVersions(a.Name, b.Name) })
	for _, v := range versions {
		s, there := sights[v.ID]
		newest := len(usable) > 0 && usable[len(usable)-1].ID == v.ID
		pointed := slices.Contains(slices.Collect(maps.Values(channels)), v.Name)
		if there == (v.State == catalog.Deleted) {
			t.Fatalf("%s is %s and in the answer: %v", v.Name, v.State, there)
		}
		if want := v.State.Usable() && (newest || pointed); there && (s.Hidden == want || s.Why == "") {
			t.Fatalf("%+v (newest %v, in a channel %v): %+v", v, newest, pointed, s)
		}
	}
}

func TestRetentionCounts(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	var versions []catalog.Version
	for n := range 8 {
		versions = append(versions, catalog.Version{ID: strconv.Itoa(n), Family: "web", Name: fmt.Sprintf("202605%02d.1", n+1), State: catalog.Superseded, CreatedAt: now.AddDate(0, 0, n-31)})
	}
	versions[7].State, versions[6].State, versions[0].State = catalog.Published, catalog.Revoked, catalog.Deleted
	kept := func(f catalog.Family, project []catalog.Version, count, days int) string {
		var names []string
		for _, d := range catalog.Keep(f, versions, project, catalog.Limits{KeepCount: count, KeepDays: days}, now) {
			if len(d.Why) > 0 {
				names = append(names, strings.TrimPrefix(d.Version, "202605"))
			}
		}
		return strings.Join(names, " ")
	}
	f := catalog.Family{Channels: map[string]string{}}
	for _, c := range []struct {
		count, days int
		want        string
	}{
		{0, 0, "08.1"},                                 // the newest always stays
		{3, 0, "08.1 06.1 05.1"},                       // a revoked one does not count
		{0, 27, "08.1 07.1 06.1"},                      // by age, the revoked one too
		{1, 100, "08.1 07.1 06.1 05.1 04.1 03.1 02.1"}, // both must let it go
	} {
		if got := kept(f, nil, c.count, c.days); got != c.want {
			t.Errorf("newest %d, younger than %d days: %s, want %s", c.count, c.days, got, c.want)
		}
	}
	f.Channels["stable"] = "20260503.1"
	project := append(slices.Clone(versions),
		catalog.Version{ID: "x", Family: "shop", Name: "20260101.1", Base: "web/20260504.1", State: catalog.Superseded},
		catalog.Version{ID: "y", Family: "shop", Name: "20260102.1", Base: "web/20260505.1", State: catalog.Deleted})
	if got := kept(f, project, 0, 0); got != "08.1 04.1 03.1" {
		t.Errorf("with a channel and a base: %s", got)
	}
}

var lintNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// standardImage is an image as Kiln publishes it.
func standardImage() catalog.GlanceImage {
	facts := &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12"}, Architecture: "amd64", CloudInit: true}
	return catalog.GlanceImage{
		ID: "i1", Name: "debian-12", Status: "active", ContainerFormat: "bare", Visibility: "public", MinDiskGiB: 4, MinRAMMiB: catalog.SCSMinRAM,
		HashAlgo: "sha512", HashValue: strings.Repeat("0", 128), Tags: catalog.SCSTags(facts),
		Properties: catalog.SCSProperties(catalog.SCSInput{Facts: facts, PackagesAt: lintNow.AddDate(0, 0, -2), KeepCount: 5}),
	}
}

func findings(r catalog.LintReport) string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, string(f.Level)+" "+f.Rule)
	}
	return strings.Join(all, ", ")
}

func TestKilnsImagesKeepTheStandard(t *testing.T) {
	g := standardImage()
	if r := catalog.Lint(g, lintNow); r.Errors != 0 || findings(r) != "warning hw_disk_bus, warning hypervisor_type" {
		t.Errorf("Kiln's own properties: %s", findings(r))
	}
	for name, want := range map[string]string{"os_version": "12", "architecture": "x86_64", "image_original_user": "debian", "uuid_validity": "last-5", "image_build_date": "2026-05-30 12:00", "os_purpose": "custom"} {
		if g.Properties[name] != want {
			t.Errorf("%s is %q, want %q", name, g.Properties[name], want)
		}
	}
	long := catalog.SCSProperties(catalog.SCSInput{Description: strings.Repeat("ü", 200)})["image_description"]
	if len(long) != 254 || strings.ContainsRune(long, '\uFFFD') {
		t.Errorf("%d bytes of description: %q", len(long), long)
	}
}

func TestLintFindsEachFault(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"architecture", "amd64", "error architecture"},
		{"architecture", "", "error architecture"},
		{"os_version", "", "error os_version"},
		{"os_distro", "Debian GNU/Linux", "error os_distro"},
		{"os_purpose", "web", "error os_purpose"},
		{"hw_disk_bus", "floppy", "error hw_disk_bus"},
		{"hypervisor_type", "quemu", "error hypervisor_type"},
		{"hw_rng_model", "", "warning hw_rng_model"},
		{"hw_firmware_type", "efi", "error hw_firmware_type"},
		{"hw_pmu", "maybe", "error hw_pmu"},
		{"replace_frequency", "often", "error replace_frequency"},
		{"uuid_validity", "last-0", "error uuid_validity"},
		{"uuid_validity", "2026-02-30", "error uuid_validity"},
		{"provided_until", "forever", "error provided_until"},
		{"provided_until", "2026-05-31", "warning provided_until"},
		{"hotfix_hours", "soon", "error hotfix_hours"},
		{"image_source", "a mirror", "error image_source"},
		{"image_description", "", "error image_description"},
		{"image_build_date", "30.5.2026", "error image_build_date"},
		{"image_build_date", "2026-07-01", "error image_build_date"},
		{"image_original_user", "", "error image_original_user"},
		{"license_included", "perhaps", "error license_included"},
		{"maintained_until", "2028", "error maintained_until"},
		{"l1_support_contact", "ask me", "error l1_support_contact"},
	} {
		g := standardImage()
		before := findings(catalog.Lint(g, lintNow))
		g.Properties[c.name] = c.value
		if got := findings(catalog.Lint(g, lintNow)); strings.Contains(before, c.want) || !strings.Contains(got, c.want) {
			t.Errorf("%s=%q: %s, want %s", c.name, c.value, got, c.want)
		}
	}
	for want, change := range map[string]func(*catalog.GlanceImage){
		"error min_disk":        func(g *catalog.GlanceImage) { g.MinDiskGiB = 0 },
		"error min_ram":         func(g *catalog.GlanceImage) { g.MinRAMMiB = 0 },
		"warning hw_scsi_model": func(g *catalog.GlanceImage) { g.Properties["hw_disk_bus"] = "scsi" },
		"warning os_hash_value": func(g *catalog.GlanceImage) { g.HashValue = "" },
		"warning os_hash_algo":  func(g *catalog.GlanceImage) { g.HashAlgo = "md5" },
		"error os_hash_value":   func(g *catalog.GlanceImage) { g.HashValue = "00" },
		"warning tag":           func(g *catalog.GlanceImage) { g.Tags = nil },
		"error license_required": func(g *catalog.GlanceImage) {
			g.Properties["license_included"], g.Properties["license_required"] = "true", "true"
		},
		"error subscription_required": func(g *catalog.GlanceImage) {
			g.Properties["subscription_included"], g.Properties["subscription_required"] = "true", "true"
		},
		"error license_included": func(g *catalog.GlanceImage) { g.Properties["os_distro"] = "windows" },
		"warning age": func(g *catalog.GlanceImage) {
			g.Properties["replace_frequency"], g.Properties["image_build_date"] = "monthly", "2026-04-20"
		},
	} {
		g := standardImage()
		change(&g)
		if got := findings(catalog.Lint(g, lintNow)); !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	// What is hidden was replaced, and a container has no hardware.
	g := standardImage()
	g.Hidden, g.Properties["replace_frequency"], g.Properties["image_build_date"] = true, "daily", "2020-01-01"
	if got := findings(catalog.Lint(g, lintNow)); strings.Contains(got, "age") {
		t.Error(got)
	}
	g = standardImage()
	g.ContainerFormat, g.MinDiskGiB, g.MinRAMMiB = "docker", 0, 0
	delete(g.Properties, "hw_disk_bus")
	if r := catalog.Lint(g, lintNow); len(r.Findings) != 0 {
		t.Error(findings(r))
	}
}

func TestOneGenericImageOfASystem(t *testing.T) {
	g, other, hidden, gpu := standardImage(), standardImage(), standardImage(), standardImage()
	g.Properties["os_purpose"], other.Properties["os_purpose"], hidden.Properties["os_purpose"] = "generic", "generic", "generic"
	other.ID, hidden.ID, hidden.Hidden, gpu.ID = "i2", "i3", true, "i4"
	r := catalog.Lint(g, lintNow)
	r.Unique(g, []catalog.GlanceImage{g, hidden, gpu})
	if r.Errors != 0 {
		t.Error(findings(r))
	}
	r.Unique(g, []catalog.GlanceImage{g, other, hidden, gpu})
	if r.Errors != 1 || r.Findings[0].Rule != "uniqueness" || !strings.Contains(r.Findings[0].Found, "i2") {
		t.Error(findings(r))
	}
}
