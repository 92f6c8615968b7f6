package build_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

func (f *factory) watch() *build.Watch {
	log := logrus.New()
	log.SetOutput(f.t.Output())
	return &build.Watch{Service: f.Service, Catalog: f.db, Fixes: f.db, Log: log}
}

// rounds lets several engines look at once.
func (f *factory) rounds() {
	f.t.Helper()
	var all sync.WaitGroup
	for range 3 {
		w := f.watch()
		all.Go(func() {
			if err := w.Round(f.t.Context()); err != nil {
				f.t.Error(err)
			}
		})
	}
	all.Wait()
}

// reasons ends every queued build in the state and gives their reasons.
func (f *factory) reasons(s build.State) string {
	f.t.Helper()
	var out []string
	for _, b := range f.builds(build.Queued) {
		out = append(out, string(b.Trigger)+": "+b.Reason)
		f.end(b, s)
	}
	return strings.Join(out, "\n")
}

func (f *factory) version(family catalog.FamilyName, name, image, base string) {
	f.t.Helper()
	ctx := f.t.Context()
	fam, err := f.db.EnsureFamily(ctx, "p", family)
	f.ok(err)
	f.ok(f.db.AddVersion(ctx, catalog.Version{
		ID: string(family) + name, ProjectID: "p", FamilyID: fam.ID, Family: family, Name: name, ImageID: image, Origin: "build",
		State: catalog.Published, Base: base, CreatedAt: f.now(),
	}))
}

func TestScheduleFiresOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		f.commit("c1", web+"triggers: {schedule: \"0 3 * * *\"}\n", "name: quiet\nfrom: {release: bookworm}\n")
		want := `schedule: schedule "0 3 * * *"`
		f.rounds() // it is seen at noon
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("before its time: %q", got)
		}
		f.pass(15*time.Hour - time.Second)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("a second before its time: %q", got)
		}
		f.pass(time.Second)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != want {
			t.Errorf("at its time: %q", got)
		}
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("once more: %q", got)
		}
		f.pass(5 * 24 * time.Hour) // no engine ran for five days
		f.rounds()
		f.rounds()
		if got := f.reasons(build.Succeeded); got != want {
			t.Errorf("missed times: %q", got)
		}
		// Another schedule counts from when it is seen.
		f.commit("c2", web+"triggers: {schedule: \"0 2 * * *\"}\n")
		f.pass(24 * time.Hour)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("a new schedule: %q", got)
		}
	})
}

func TestBaseMoves(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		f.commit("c1", "name: mid\nfrom: {family: debian, channel: stable}\n", "name: web\nfrom: {recipe: mid}\ntriggers: {base: true}\n")
		f.rounds() // there is neither a base nor a version
		f.version("debian", "20260301.1", "i1", "")
		fam, err := f.db.FindFamily(t.Context(), "p", "debian")
		f.ok(err)
		f.channel(fam.ID, "20260301.1")
		f.version("web", "20260301.1", "w1", "debian/20260301.1")
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Fatalf("nothing moved: %q", got)
		}
		f.pass(time.Hour)
		f.version("debian", "20260301.2", "i2", "")
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Fatalf("a version without the channel: %q", got)
		}
		f.channel(fam.ID, "20260301.2")
		f.rounds()
		if got := f.reasons(build.Failed); got != "base: base debian moved to 20260301.2" {
			t.Fatalf("the channel moved: %q", got)
		}
		f.pass(30 * time.Minute)
		f.rounds()
		if got := f.reasons(build.Failed); got != "" {
			t.Errorf("soon after the failure: %q", got)
		}
		f.pass(30 * time.Minute)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "base: base debian moved to 20260301.2" {
			t.Errorf("an hour after the failure: %q", got)
		}
		f.version("web", "20260301.2", "w2", "debian/20260301.2")
		f.pass(48 * time.Hour)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("built from it: %q", got)
		}
		// The first build of a recipe failed, because its base was not there yet.
		r := f.commit("c2", "name: mid\nfrom: {family: debian, channel: stable}\n", "name: web\nfrom: {recipe: mid}\ntriggers: {base: true}\n",
			"name: late\nfrom: {family: debian}\ntriggers: {base: true}\n")["late"]
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Errorf("never asked for: %q", got)
		}
		first, err := f.Triggered(t.Context(), someone, r.ID, build.ByPush, "push")
		f.ok(err)
		f.end(first, build.Failed)
		f.pass(time.Minute)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "base: base debian moved to 20260301.2" {
			t.Errorf("its first build failed: %q", got)
		}
		// One that no push builds waits for its base alone.
		f.commit("c3", "name: mid\nfrom: {family: debian, channel: stable}\n", "name: web\nfrom: {recipe: mid}\ntriggers: {base: true}\n",
			"name: late\nfrom: {family: debian}\n", "name: quiet\nfrom: {family: debian}\ntriggers: {base: true, no_push: true}\n")
		for range 2 {
			f.rounds()
		}
		if got := f.reasons(build.Succeeded); got != "base: base debian moved to 20260301.2" {
			t.Errorf("never built, and not by a push: %q", got)
		}
		f.commit("c4", "name: mid\nfrom: {family: debian, channel: stable}\n", "name: web\nfrom: {recipe: mid}\ntriggers: {base: true}\n")
		f.channel(fam.ID, "20260301.1") // rolled back
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "base: base debian moved to 20260301.1" {
			t.Errorf("rolled back: %q", got)
		}
	})
}

func (f *factory) channel(familyID, version string) {
	f.t.Helper()
	f.ok(f.db.SetChannel(f.t.Context(), familyID, catalog.Stable, version))
}

func TestAdvisoryFiresOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		f.commit("c1", web+"triggers: {advisory: high}\n")
		f.version("web", "20260301.1", "w1", "")
		lacks := func(image string, fixes ...string) { // "package urgency"
			var all []advisory.Advisory
			var ps []advisory.Pending
			for _, x := range fixes {
				pkg, urgency, _ := strings.Cut(x, " ")
				all = append(all, advisory.Advisory{ID: "s/" + pkg + "/2/amd64", Package: pkg, Version: "2", Suite: "s", Urgency: urgency, CVEs: []string{}})
				ps = append(ps, advisory.Pending{ImageID: image, AdvisoryID: "s/" + pkg + "/2/amd64", Package: pkg, Installed: "1", Fixed: "2", Suite: "s"})
			}
			f.ok(f.db.PutAdvisories(t.Context(), all))
			f.ok(f.db.ReplacePending(t.Context(), image, ps))
		}
		lacks("w1", "bash medium", "tar low", "sed ")
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "" {
			t.Fatalf("nothing urgent: %q", got)
		}
		lacks("w1", "bash medium", "openssl high", "curl emergency")
		f.rounds()
		if got := f.reasons(build.Failed); got != "advisory: advisory of urgency emergency for curl, openssl" {
			t.Fatalf("urgent: %q", got)
		}
		f.rounds()
		if got := f.reasons(build.Failed); got != "" {
			t.Errorf("again: %q", got)
		}
		f.pass(time.Hour)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "advisory: advisory of urgency emergency for curl, openssl" {
			t.Errorf("an hour after it failed: %q", got)
		}
		// The new version lacks them still: its mirror has no fixes. That is no reason to build for ever.
		f.version("web", "20260301.2", "w2", "")
		lacks("w2", "openssl high", "curl emergency", "zlib critical")
		f.pass(24 * time.Hour)
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "advisory: advisory of urgency critical for zlib" {
			t.Errorf("what is new: %q", got)
		}
	})
}

// What a crash leaves: a mark is written with its build or not at all, and what was to follow is found again.
func TestCrashForgetsNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *factory) {
		r := f.commit("c1", web+"triggers: {schedule: \"0 3 * * *\"}\n")["web"]
		f.rounds()
		f.pass(24 * time.Hour)
		w := f.watch()
		broken := *f.Service
		broken.Store = dies{f.db}
		w.Service = &broken
		if err := w.Round(t.Context()); err == nil || len(f.builds(build.Queued)) != 0 {
			t.Fatalf("a round that dies between mark and build: %v", err)
		}
		f.rounds()
		if got := len(f.builds(build.Queued)); got != 1 {
			t.Fatalf("the next engine: %d builds", got)
		}
		b := f.builds(build.Queued)[0]
		running, err := f.db.BeginBuild(t.Context(), b.ID, "w1", f.now())
		f.ok(err)
		_, err = f.Triggered(t.Context(), someone, r.ID, build.ByPush, "push")
		f.ok(err)
		running.State = build.Failed
		f.ok(f.db.UpdateBuild(t.Context(), running)) // and nobody called Ended
		f.rounds()
		if got := f.reasons(build.Succeeded); got != "push: push" {
			t.Errorf("what follows: %q", got)
		}
		left, err := f.db.ListAgain(t.Context(), 10)
		f.ok(err)
		all, err := f.db.ListBuilds(t.Context(), listing.All())
		f.ok(err)
		if len(left) != 0 || len(all) != 2 {
			t.Errorf("%d marks left, %d builds", len(left), len(all))
		}
	})
}

// dies is a store whose process is killed before a build is written.
type dies struct{ build.Store }

func (dies) CreateBuild(context.Context, build.Build) error { return errors.New("killed") }
