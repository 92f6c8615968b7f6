package functional

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// fleetVariants are eight images as eight teams would have made them.
var fleetVariants = []string{
	"plain:", "nginx:nginx-light", "redis:redis-server", "apache:apache2", "postgres:postgresql", "haproxy:haproxy", "bind:bind9", "dev:git,curl,python3-requests",
}

// tells is a service that says on the console what is installed, for the test to read.
const tells = `cat >"$1/usr/local/sbin/tell" <<'SCRIPT'
#!/bin/sh
dpkg-query -W -f 'kiln-package ${Package} ${Version}\n' >/dev/console
echo "kiln-kernel $(uname -r)" >/dev/console
echo kiln-ready >/dev/console
SCRIPT
chmod 755 "$1/usr/local/sbin/tell"
cat >"$1/etc/systemd/system/tell.service" <<'UNIT'
[Unit]
Description=Tell what is installed
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/tell
UNIT
mkdir -p "$1/etc/systemd/system/multi-user.target.wants"
ln -s ../tell.service "$1/etc/systemd/system/multi-user.target.wants/tell.service"`

// fleetSize is how many of them a run takes: two, one after the other, so that one is recorded and the other gets the record, or
// KILN_TEST_FLEET, up to eight.
func fleetSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("KILN_TEST_FLEET")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 2 || n > len(fleetVariants) {
		t.Fatalf("KILN_TEST_FLEET is %q: give 2 to %d", text, len(fleetVariants))
	}
	return n
}

func (s *stand) fleet(t *testing.T, n int) debian.Fleet {
	t.Helper()
	mirrors, proxy, err := debian.Mirrors(filepath.Join(s.keep, "fleet-packages"))
	if err != nil {
		t.Fatal(err)
	}
	f := debian.Fleet{
		Release: "bookworm", Common: append(debian.System(), "openssl", "ifupdown", "isc-dhcp-client"), Variants: fleetVariants[:n], Setup: tells,
		Dir: filepath.Join(s.keep, "fleet"), Work: filepath.Join(s.dir, "fleet"), Mirrors: mirrors, Proxy: proxy,
	}
	if err := f.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// give uploads a file as a user would, without Kiln.
func (s *stand) give(t *testing.T, path, name string) catalog.GlanceImage {
	t.Helper()
	g := glance.New(s.login(t, "member"))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{
		ID: uuid.NewString(), Name: name, DiskFormat: "qcow2", ContainerFormat: "bare", Visibility: "private", MinDiskGiB: 4,
	})
	if err == nil {
		err = g.Upload(t.Context(), img.ID, f, st.Size())
	}
	if err == nil {
		img, err = g.Image(t.Context(), img.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestRealFleet: images that people uploaded are found by notification, planned, upgraded in one campaign, test-booted and
// published; the originals keep every bit; the new ones start on the real compute and say their new versions.
func TestRealFleet(t *testing.T) {
	f := newFactory(t) // its worker boots what it makes
	n := fleetSize(t)
	images := f.fleet(t, n)
	originals := make([]catalog.GlanceImage, n)
	ids := make([]string, n)
	for i := range n {
		originals[i] = f.give(t, images.Path(i), "fleet "+strings.SplitN(fleetVariants[i], ":", 2)[0])
		ids[i] = originals[i].ID
	}
	f.collected(t, ids)
	said, err := f.kiln("upgrade", "plan", "--image-id", ids[0])
	if err != nil || !strings.Contains(said, "linux-image") {
		t.Errorf("the plan: %v\n%s", err, said)
	}
	t.Log(said)

	c := f.campaign(t, campaign.New{Name: "fleet", Filter: campaign.Filter{ImageIDs: ids}, Policy: upgrade.Policy{TestBoot: true}, MaxParallel: min(2, n-1)}, time.Duration(n)*8*time.Minute)
	said, err = f.kiln("campaign", "report", c.ID)
	t.Logf("%v\n%s", err, said)
	var report campaign.Report
	if err := f.member.Get(t.Context(), "/v1/campaigns/"+c.ID+"/report", &report); err != nil {
		t.Fatal(err)
	}
	if c.State != campaign.Succeeded || len(report.Fixed) != n || len(report.Remaining) != 0 {
		t.Fatalf("the campaign is %s: %d of %d images fixed, remaining %+v", c.State, len(report.Fixed), n, report.Remaining)
	}
	for _, fixed := range report.Fixed {
		t.Logf("%s: %s to %s, %d packages, %s, %d of %d files replayed, %d s", fixed.Name, fixed.From, fixed.To, len(fixed.Packages), fixed.Record, fixed.Replayed, fixed.Changed, fixed.Seconds)
	}
	t.Run("originals", func(t *testing.T) {
		for _, o := range originals {
			if got := f.bytesOf(t, o.ID); got != o.HashAlgo+":"+o.HashValue {
				t.Errorf("image %s has %s now", o.Name, got)
			}
		}
	})
	t.Run("published", func(t *testing.T) {
		for _, fixed := range report.Fixed {
			f.upgraded(t, fixed)
		}
	})
	t.Run("console", func(t *testing.T) {
		f.tells(t, report.Fixed[0])
	})
	t.Run("diff", func(t *testing.T) {
		one := report.Fixed[0]
		out, err := f.kiln("image", "diff", string(one.Family), one.From, one.To)
		if err != nil || !strings.Contains(out, "CVE-") {
			t.Errorf("the diff: %v\n%s", err, out)
		}
		t.Log(out)
	})
}

// collected waits until the images' facts are known, from their notifications and without a download.
func (f *factory) collected(t *testing.T, ids []string) {
	t.Helper()
	err := until(t.Context(), 3*time.Minute, "the uploaded images have their facts", func(ctx context.Context) (bool, error) {
		for _, id := range ids {
			var img catalog.Image
			if err := f.member.Get(ctx, "/v1/images/"+id, &img); err != nil || img.State != catalog.Inspected || img.PendingUpdates == 0 {
				return false, nil //nolint:nilerr // not known yet
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// campaign runs one to its end.
func (f *factory) campaign(t *testing.T, n campaign.New, limit time.Duration) campaign.View {
	t.Helper()
	var c campaign.View
	if err := f.member.Post(t.Context(), "/v1/campaigns", n, &c); err != nil {
		t.Fatal(err)
	}
	err := until(t.Context(), limit, "the campaign ends", func(ctx context.Context) (bool, error) {
		err := f.member.Get(ctx, "/v1/campaigns/"+c.ID, &c)
		return !c.Open, err
	})
	if err != nil {
		said, _ := f.kiln("campaign", "report", c.ID)
		t.Fatalf("%v\n%s", err, said)
	}
	return c
}

// upgraded: the new version is whole, has its documents, and names its parent, which is hidden.
func (f *factory) upgraded(t *testing.T, fixed campaign.FixedImage) {
	t.Helper()
	g, err := f.glance.Image(t.Context(), fixed.ToImage)
	if err != nil || g.Status != "active" || g.Hidden || g.Owner != f.project || g.Properties[catalog.PropParent] != fixed.FromImage || g.Properties[catalog.PropSBOM] == "" {
		t.Errorf("%s: image %+v, %v", fixed.Name, g, err)
	}
	err = until(t.Context(), time.Minute, "the old image is hidden", func(ctx context.Context) (bool, error) {
		old, err := f.glance.Image(ctx, fixed.FromImage)
		return old.Hidden, err
	})
	if err != nil {
		t.Errorf("%s: %v", fixed.Name, err)
	}
	if len(fixed.Packages) == 0 || !slices.ContainsFunc(fixed.Packages, func(p upgrade.PackageChange) bool { return strings.HasPrefix(p.Name, "linux-image") }) {
		t.Errorf("%s: packages %+v", fixed.Name, fixed.Packages)
	}
}

// tells starts the new version on the libvirt compute and reads its console.
func (f *factory) tells(t *testing.T, fixed campaign.FixedImage) {
	t.Helper()
	var u upgrade.Upgrade
	if err := f.member.Get(t.Context(), "/v1/upgrades/"+fixed.UpgradeID, &u); err != nil || u.Report == nil {
		t.Fatalf("upgrade %+v, %v", u, err)
	}
	var w placement.Workload
	err := f.member.Post(t.Context(), "/v1/workloads", placement.NewWorkload{
		Name: "fleet", Kind: placement.VM, Family: fixed.Family, Channel: fixed.To, Flavor: "kiln.small", Node: os.Getenv("KILN_TEST_LIBVIRT_HOST"),
	}, &w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := f.member.Delete(ctx, "/v1/workloads/"+w.ID, nil); err != nil {
			t.Error(err)
		}
	})
	finished(t, f.member, w.JobID)
	if err := f.member.Get(t.Context(), "/v1/workloads/"+w.ID, &w); err != nil {
		t.Fatal(err)
	}
	compute := nova.New(f.login(t, "member"))
	var console string
	err = until(t.Context(), 10*time.Minute, "the guest has told its packages", func(ctx context.Context) (bool, error) {
		text, err := compute.Console(ctx, "", w.ExternalID, 0)
		if err == nil {
			console = text
		}
		return strings.Contains(console, "kiln-ready"), nil
	})
	if err != nil {
		t.Fatalf("%v; its console ends with\n%s", err, console[max(0, len(console)-3000):])
	}
	lines, err := demo.Told(console, &demo.Outcome{Report: u.Report})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.Join(lines, "; "))
}
