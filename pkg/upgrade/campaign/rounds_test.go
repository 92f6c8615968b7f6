package campaign_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// Eight images, two of them of no family, three at a time, three engines, and one image that fails.
func TestEightImages(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *fleet) {
		for n, id := range ids(8) {
			family := catalog.FamilyName("family-" + id)
			if n >= 6 {
				family = ""
			}
			f.image(id, "p", family, "openssl high")
		}
		f.image("foreign", "q", "foreign", "openssl high")
		f.image("fresh", "p", "fresh")
		c := f.create(campaign.New{Name: "march", MaxParallel: 3})
		started := map[string]int{}
		for range 12 {
			f.rounds()
			open := f.open()
			if len(open) > 3 {
				t.Fatalf("%d upgrades at a time", len(open))
			}
			for _, u := range open {
				if u.CampaignID != c.ID {
					t.Fatalf("an upgrade of campaign %q", u.CampaignID)
				}
				f.pass(time.Minute)
				started[u.FromImageID]++
				if u.FromImageID == "i3" {
					f.end(u, upgrade.Failed)
				} else {
					f.end(u, upgrade.Succeeded)
				}
			}
		}
		got := f.wants(c.ID, campaign.Succeeded, campaign.Counts{Total: 8, Succeeded: 7, Failed: 1})
		if len(started) != 8 || got.Open || got.FinishedAt == nil || f.told("campaign.succeeded") != 1 || f.told("campaign.image_started") != 8 || f.told("campaign.created") != 1 {
			t.Errorf("started %v; %+v", started, got)
		}
		for id, n := range started {
			if n != 1 {
				t.Errorf("image %s was upgraded %d times", id, n)
			}
		}
		first, err := f.db.VersionByImage(t.Context(), "i7")
		f.ok(err)
		if first.Family != "image-i7" || first.Origin != catalog.Adopted || first.State != catalog.Superseded || first.ProjectID != "p" {
			t.Errorf("the adopted version is %+v", first)
		}
		r, err := f.Report(t.Context(), got)
		f.ok(err)
		if len(r.Fixed) != 7 || len(r.Remaining) != 1 || !strings.Contains(r.Remaining[0].Reason, "broken package in i3") || r.Remaining[0].Lacks != 1 || len(r.Packages) != 1 ||
			r.Packages[0].Images != 7 || r.Files != (campaign.Files{Changed: 70, Replayed: 28}) || !slices.Equal(r.CVEs, []string{"CVE-2026-0001"}) || r.Seconds.Mean < 60 {
			t.Errorf("report %+v", r)
		}
		var text bytes.Buffer
		f.ok(r.Text(&text))
		for _, want := range []string{"8 images: 7 fixed", "70 files changed, 28 of them came from a record (40 %)", "1 CVEs closed: CVE-2026-0001", "failed     Image i3", "openssl 3.0.2-1 in 7 images"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("the report does not say %q:\n%s", want, text.String())
			}
		}
	})
}

func TestStopsAtFailures(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		for _, id := range ids(6) {
			f.image(id, "p", catalog.FamilyName(id), "openssl high")
		}
		c := f.create(campaign.New{MaxParallel: 3, StopAfterFailures: 2})
		f.rounds()
		open := f.open()
		f.end(open[0], upgrade.Failed)
		f.end(open[1], upgrade.Failed)
		f.rounds()
		got := f.wants(c.ID, campaign.Failed, campaign.Counts{Total: 6, Running: 1, Failed: 2, Skipped: 3})
		if !got.Open || got.Reason != "2 images failed" || f.told("campaign.failed") != 1 {
			t.Errorf("%+v", got)
		}
		f.end(open[2], upgrade.Succeeded) // what ran ends, and is told
		f.rounds()
		if got = f.wants(c.ID, campaign.Failed, campaign.Counts{Total: 6, Succeeded: 1, Failed: 2, Skipped: 3}); got.Open || len(f.open()) != 0 {
			t.Errorf("%+v", got)
		}
		if _, err := f.Resume(t.Context(), f.by, c.ID); !errs.Is(err, errs.Conflict) {
			t.Errorf("resumed: %v", err)
		}
	})
}

func TestPauseResumeCancel(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		ctx := t.Context()
		for _, id := range ids(5) {
			f.image(id, "p", catalog.FamilyName(id), "openssl high")
		}
		c := f.create(campaign.New{MaxParallel: 2, Approve: true})
		if _, err := f.Pause(ctx, f.by, c.ID); !errs.Is(err, errs.Conflict) {
			t.Errorf("paused while it is planned: %v", err)
		}
		f.rounds()
		f.wants(c.ID, campaign.Ready, campaign.Counts{Total: 5, Pending: 5})
		_, err := f.Approve(ctx, f.by, c.ID)
		f.ok(err)
		f.rounds()
		f.wants(c.ID, campaign.Running, campaign.Counts{Total: 5, Pending: 3, Running: 2})
		for range 2 { // again is no error, and no further event
			_, err = f.Pause(ctx, f.by, c.ID)
			f.ok(err)
		}
		open := f.open()
		f.end(open[0], upgrade.Succeeded)
		f.rounds()
		f.wants(c.ID, campaign.Paused, campaign.Counts{Total: 5, Pending: 3, Running: 1, Succeeded: 1})
		_, err = f.Resume(ctx, f.by, c.ID)
		f.ok(err)
		f.rounds()
		f.wants(c.ID, campaign.Running, campaign.Counts{Total: 5, Pending: 2, Running: 2, Succeeded: 1})

		// One of the two runs: a worker has leased its job. The other one is queued.
		leased, err := f.db.LeaseJob(ctx, []job.Queue{job.WorkerQueue}, nil, "w", f.now(), f.now().Add(time.Hour))
		f.ok(err)
		for leased != nil && leased.ResourceID() != f.open()[0].ID { // the first image's job is still there
			leased, err = f.db.LeaseJob(ctx, []job.Queue{job.WorkerQueue}, nil, "w", f.now(), f.now().Add(time.Hour))
			f.ok(err)
		}
		for range 2 {
			_, err = f.Cancel(ctx, f.by, c.ID)
			f.ok(err)
		}
		j, err := f.db.FindJob(ctx, leased.ID)
		f.ok(err)
		got := f.find(c.ID)
		if got.State != campaign.Cancelled || !got.Open || got.Counts.Cancelled != 2 || !j.CancelRequested {
			t.Errorf("%+v, job %+v", got, j)
		}
		for _, u := range f.open() {
			f.end(u, upgrade.Cancelled)
		}
		f.rounds()
		got = f.wants(c.ID, campaign.Cancelled, campaign.Counts{Total: 5, Succeeded: 1, Cancelled: 4})
		if got.Open || len(f.open()) != 0 || f.told("campaign.cancelled") != 1 || f.told("campaign.paused") != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestWaitsForItsHours(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		for _, id := range ids(4) {
			f.image(id, "p", catalog.FamilyName(id), "openssl high")
		}
		c := f.create(campaign.New{MaxParallel: 1, Hours: []string{"20:00-22:00 Europe/Berlin"}}) // noon in UTC now
		f.rounds()
		got := f.wants(c.ID, campaign.Waiting, campaign.Counts{Total: 4, Pending: 4})
		if got.Reason != "waits for its hours, from 2026-03-02 19:00 UTC" {
			t.Errorf("it says %q", got.Reason)
		}
		f.pass(7 * time.Hour)
		f.rounds()
		f.wants(c.ID, campaign.Running, campaign.Counts{Total: 4, Pending: 3, Running: 1})
		f.pass(time.Hour)
		f.end(f.open()[0], upgrade.Succeeded)
		f.rounds()
		got = f.wants(c.ID, campaign.Running, campaign.Counts{Total: 4, Pending: 2, Running: 1, Succeeded: 1})
		// An hour each, one at a time, until 22:00 in Berlin and again from 20:00 of the next day.
		p := got.Viewed(f.now()).Progress
		if p.PerHour != 1 || p.ETA == nil || p.ETA.Before(moment(t, "2026-03-03 19:30")) || p.ETA.After(moment(t, "2026-03-03 21:00")) {
			t.Errorf("progress %+v", p)
		}
		f.pass(time.Hour) // the window is over; what runs ends
		f.rounds()
		f.end(f.open()[0], upgrade.Succeeded)
		f.rounds()
		f.wants(c.ID, campaign.Waiting, campaign.Counts{Total: 4, Pending: 2, Succeeded: 2})
		if len(f.open()) != 0 {
			t.Error("an upgrade was started outside the hours")
		}
		f.pass(22 * time.Hour)
		f.rounds()
		f.wants(c.ID, campaign.Running, campaign.Counts{Total: 4, Pending: 1, Running: 1, Succeeded: 2})
	})
}

// Two campaigns, and a person, want one image: it is upgraded once, and the others say by whom.
func TestOneImageForTwo(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *fleet) {
		f.image("i1", "p", "a", "openssl high")
		f.image("i2", "p", "b", "openssl high")
		first := f.create(campaign.New{MaxParallel: 2})
		second := f.create(campaign.New{MaxParallel: 2})
		f.rounds()
		f.rounds()
		open := f.open()
		if len(open) != 2 {
			t.Fatalf("%d upgrades", len(open))
		}
		for _, u := range open {
			other := first.ID
			if u.CampaignID == first.ID {
				other = second.ID
			}
			if i := f.item(other, u.FromImageID); i.State != campaign.Pending || i.HeldBy != u.ID || i.Reason != "waits for upgrade "+u.ID+" of campaign "+u.CampaignID {
				t.Errorf("%+v", i)
			}
		}
		f.end(open[0], upgrade.Succeeded)
		f.end(open[1], upgrade.Failed)
		f.rounds()
		f.rounds()
		ended := 0
		for _, c := range []campaign.Campaign{first, second} {
			i := f.item(c.ID, open[0].FromImageID)
			if i.State == campaign.Skipped && strings.Contains(i.Reason, "upgrade "+open[0].ID+" of campaign "+open[0].CampaignID+" has made version") && i.ToImageID == "new-"+i.ImageID {
				ended++
			}
		}
		left := f.open() // the one that failed is tried by the other campaign
		if ended != 1 || len(left) != 1 || left[0].FromImageID != open[1].FromImageID || left[0].CampaignID == open[1].CampaignID {
			t.Fatalf("%d items tell that another campaign did it; open %+v", ended, left)
		}
		v, err := f.db.VersionByImage(t.Context(), left[0].FromImageID)
		f.ok(err)
		person := upgrade.Service{Desk: f.desk, Store: f.db}
		if _, err := person.Request(t.Context(), f.by, v, upgrade.Wish{}); errs.CodeOf(err) != upgrade.CodeOpen {
			t.Errorf("a person's upgrade of the same version: %v", err)
		}
		f.end(left[0], upgrade.Succeeded)
		f.rounds()
		for _, c := range []campaign.Campaign{first, second} {
			if got := f.find(c.ID); got.State != campaign.Succeeded || got.Open {
				t.Errorf("%+v", got)
			}
		}
	})
}

// Images that share changes: the first of the batch, which is recorded, has its turn before all others.
func TestBatches(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		f.planner = &planner{desk: f.desk, plans: map[string]upgrade.Plan{}}
		plan := func(id string, changes ...string) {
			p := upgrade.Plan{ImageID: id, CreatedAt: f.now(), Release: "bookworm", Architecture: "amd64"}
			for _, name := range changes {
				p.Changes = append(p.Changes, upgrade.PlannedChange{PackageRef: upgrade.PackageRef{Name: name, Architecture: "amd64", From: "1", To: "2"}, Bytes: 1 << 20, Script: upgrade.ScriptSafe})
			}
			f.planner.plans[id] = p
		}
		for _, id := range ids(7) {
			f.image(id, "p", catalog.FamilyName(id), "openssl high")
		}
		for _, id := range ids(4) {
			plan(id, "libc6", "openssl")
		}
		plan("i5")
		f.planner.plans["i6"] = upgrade.Plan{ImageID: "i6", CreatedAt: f.now(), Refused: "its package database is broken"}
		c := f.create(campaign.New{MaxParallel: 3}) // i7 has no plan: nobody could make one
		f.rounds()
		f.rounds()
		f.wants(c.ID, campaign.Planning, campaign.Counts{Total: 7, Pending: 7})
		j, err := f.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "w", f.now(), f.now().Add(time.Minute))
		f.ok(err)
		if j == nil || j.Kind != "upgrade.plan" || string(j.Payload) != `["i1","i2","i3","i4","i5","i6","i7"]` {
			t.Fatalf("%+v", j)
		}
		f.ok(f.db.FinishJob(t.Context(), j.ID, "w", f.now(), job.Outcome{State: job.Succeeded}, func(context.Context) error { return nil }))
		f.rounds()
		f.wants(c.ID, campaign.Running, campaign.Counts{Total: 7, Pending: 2, Running: 3, Unchanged: 1, Skipped: 1})
		if i := f.item(c.ID, "i6"); i.State != campaign.Skipped || i.Reason != "its package database is broken" {
			t.Errorf("%+v", i)
		}
		shares := func() map[string]int {
			out := map[string]int{}
			for _, u := range f.open() {
				j, err := f.db.FindJob(t.Context(), u.JobID)
				f.ok(err)
				var p upgrade.JobPayload
				f.ok(j.Decode(&p))
				out[u.FromImageID] = len(slices.Concat(p.Shares...))
			}
			return out
		}
		if got := shares(); got["i1"] != 2 || got["i2"] != 2 || len(got) != 3 || got["i7"] != 0 {
			t.Fatalf("at first: %v", got)
		}
		open := f.open()
		f.end(open[slices.IndexFunc(open, func(u upgrade.Upgrade) bool { return u.FromImageID == "i1" })], upgrade.Failed)
		f.rounds()
		if got := shares(); len(got) != 3 || got["i3"] != 2 {
			t.Fatalf("after the first failed: %v", got)
		}
	})
}

// An engine that is killed at any moment of a round leaves nothing that starts twice or is forgotten.
func TestKilledEngines(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *fleet) {
		for _, id := range ids(3) {
			f.image(id, "p", "", "openssl high")
		}
		c := f.create(campaign.New{MaxParallel: 2})
		for n := range 60 {
			e := f.engine()
			killed := &dying{Recorder: f.db, left: n % 13}
			e.Events, e.Catalog.Events, e.Upgrade.Events = killed, killed, killed
			if err := e.Round(t.Context()); err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			open := f.open()
			if len(open) > 2 {
				t.Fatalf("%d upgrades at a time", len(open))
			}
			if len(open) > 0 && n%3 == 0 {
				f.end(open[0], upgrade.Succeeded)
			}
		}
		f.wants(c.ID, campaign.Succeeded, campaign.Counts{Total: 3, Succeeded: 3})
		if f.told("campaign.image_started") != 3 || f.told("image.adopted") != 3 || f.told("campaign.succeeded") != 1 {
			t.Errorf("%d starts, %d adoptions, %d ends", f.told("campaign.image_started"), f.told("image.adopted"), f.told("campaign.succeeded"))
		}
	})
}
