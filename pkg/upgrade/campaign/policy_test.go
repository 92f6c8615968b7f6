package campaign_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

func (f *fleet) policy(name string, change func(*campaign.PolicyChange)) campaign.Policy {
	f.t.Helper()
	c := campaign.PolicyChange{Name: &name}
	if change != nil {
		change(&c)
	}
	p, err := f.CreatePolicy(f.t.Context(), f.by, c)
	f.ok(err)
	return p
}

func (f *fleet) campaigns(policy string) []campaign.Campaign {
	f.t.Helper()
	all, err := f.db.ListCampaigns(f.t.Context(), listing.Query{Limit: 100, Sort: []listing.Key{{Field: "created_at"}}}.Where("policy_id", policy))
	f.ok(err)
	return all
}

// work ends every open upgrade until there are no more: what a round ends is followed by others two rounds later at the latest.
func (f *fleet) work(s upgrade.State, each time.Duration) {
	f.t.Helper()
	for idle := 0; idle < 3; idle++ {
		f.rounds()
		open := f.open()
		if len(open) > 0 {
			idle = -1
		}
		for _, u := range open {
			f.pass(each)
			f.end(u, s)
		}
	}
}

func TestPolicyFiresOncePerBurst(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, f *fleet) {
		for _, id := range ids(3) {
			f.image(id, "p", "", "bash medium")
		}
		f.image("foreign", "q", "", "nginx critical")
		p := f.policy("urgent", func(c *campaign.PolicyChange) { c.HotfixHours = new(48) })
		for range 3 {
			f.pass(20 * time.Minute)
			f.rounds()
		}
		if n := len(f.campaigns(p.ID)); n != 0 {
			t.Fatalf("%d campaigns though nothing urgent is lacking", n)
		}
		appeared := f.now()
		f.lacks("i1", "bash medium", "openssl high")
		f.pass(8 * time.Minute)
		f.rounds()
		f.lacks("i2", "bash medium", "curl critical") // more of the same afternoon
		f.pass(8 * time.Minute)
		f.rounds()
		if n := len(f.campaigns(p.ID)); n != 0 {
			t.Fatalf("%d campaigns before the burst was over", n)
		}
		f.pass(2 * time.Minute)
		f.rounds()
		f.rounds()
		made := f.campaigns(p.ID)
		if len(made) != 1 || made[0].HotfixBy == nil || !made[0].HotfixBy.Equal(appeared.Add(48*time.Hour)) || made[0].Promise != campaign.PromiseOpen ||
			made[0].Counts.Total != 2 || !strings.HasPrefix(made[0].Name, "urgent-2026") || f.told("upgrade_policy.fired") != 1 {
			t.Fatalf("%+v", made)
		}
		// While it is open nothing else begins, though more appears; what it brings is not asked for again.
		f.lacks("i3", "bash medium", "zlib high")
		f.pass(time.Hour)
		f.rounds()
		if n := len(f.campaigns(p.ID)); n != 1 {
			t.Fatalf("%d campaigns at once", n)
		}
		f.end(f.open()[0], upgrade.Failed) // i1 or i2 stays without its fix
		f.work(upgrade.Succeeded, time.Minute)
		made = f.campaigns(p.ID)
		if len(made) != 2 || made[0].State != campaign.Succeeded || made[0].Promise != campaign.PromiseBroken || f.told("campaign.promise_broken") != 1 ||
			made[1].Counts.Total == 0 || made[1].Promise != campaign.PromiseKept || f.told("campaign.promise_kept") != 1 {
			t.Fatalf("%+v", made)
		}
		for range 5 {
			f.pass(2 * time.Hour)
			f.work(upgrade.Succeeded, time.Minute)
		}
		if n := len(f.campaigns(p.ID)); n != 2 {
			t.Errorf("%d campaigns for nothing new", n)
		}
	})
}

// A promise is older than the hours: upgrades begin outside of them, as late as is safe, and it is told when a promise breaks.
func TestPromiseAndHours(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		for _, id := range ids(2) {
			f.image(id, "p", "", "openssl high")
		}
		p := f.policy("sundays", func(c *campaign.PolicyChange) {
			c.HotfixHours, c.Hours, c.MaxParallel = new(12), &[]string{"Sun 01:00-05:00"}, new(1)
		})
		f.pass(10 * time.Minute) // Monday, 12:10
		f.rounds()
		f.rounds()
		c := f.campaigns(p.ID)[0]
		got := f.wants(c.ID, campaign.Waiting, campaign.Counts{Total: 2, Pending: 2})
		// Two at ten minutes each, half as much again and five minutes: 23:25 for a promise until midnight.
		if got.Reason != "waits until 2026-03-02 23:25 UTC, when it has to begin outside its hours to be ready by 2026-03-03 00:00 UTC" {
			t.Errorf("it says %q", got.Reason)
		}
		f.pass(11 * time.Hour)
		f.rounds()
		f.wants(c.ID, campaign.Waiting, campaign.Counts{Total: 2, Pending: 2})
		f.pass(15 * time.Minute)
		f.rounds()
		got = f.wants(c.ID, campaign.Running, campaign.Counts{Total: 2, Pending: 1, Running: 1})
		if !strings.Contains(got.Reason, "outside its hours") || got.Promise != campaign.PromiseOpen {
			t.Errorf("%q, %s", got.Reason, got.Promise)
		}
		f.pass(25 * time.Minute) // slower than was thought
		f.end(f.open()[0], upgrade.Succeeded)
		f.rounds()
		if got = f.find(c.ID); got.Promise != campaign.PromiseAtRisk || f.told("campaign.promise_at_risk") != 1 {
			t.Errorf("with ten minutes left: %s", got.Promise)
		}
		f.pass(11 * time.Minute)
		f.rounds()
		if got = f.find(c.ID); got.Promise != campaign.PromiseBroken || f.told("campaign.promise_broken") != 1 || got.State != campaign.Running {
			t.Errorf("after midnight: %s, %s", got.Promise, got.State)
		}
		f.work(upgrade.Succeeded, time.Minute)
		if got = f.find(c.ID); got.State != campaign.Succeeded || got.Promise != campaign.PromiseBroken {
			t.Errorf("at the end: %+v", got)
		}
	})
}

func TestPolicyIsChangedAndDeleted(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *testing.T, f *fleet) {
		ctx := t.Context()
		f.image("i1", "p", "", "openssl high")
		p := f.policy("urgent", func(c *campaign.PolicyChange) { c.Enabled, c.HotfixHours = new(false), new(24) })
		f.pass(48 * time.Hour)
		f.rounds()
		if n := len(f.campaigns(p.ID)); n != 0 {
			t.Fatalf("%d campaigns of a policy that is off", n)
		}
		if _, err := f.CreatePolicy(ctx, f.by, campaign.PolicyChange{Name: new("urgent")}); !errs.Is(err, errs.Conflict) {
			t.Errorf("the same name twice: %v", err)
		}
		if _, err := f.UpdatePolicy(ctx, f.by, p.ID, campaign.PolicyChange{Hours: &[]string{"never"}}); !errs.Is(err, errs.Invalid) {
			t.Errorf("hours that nobody can read: %v", err)
		}
		p, err := f.UpdatePolicy(ctx, f.by, p.ID, campaign.PolicyChange{Enabled: new(true), MinSeverity: new("low")})
		f.ok(err)
		f.rounds()
		// What appeared before counts from the moment the policy is on: nobody promised earlier.
		if c := f.campaigns(p.ID); len(c) != 1 || !c[0].HotfixBy.Equal(f.now().Add(24*time.Hour)) || c[0].Filter.MinSeverity != "low" {
			t.Fatalf("%+v", c)
		}
		f.ok(f.DeletePolicy(ctx, f.by, p))
		f.work(upgrade.Succeeded, time.Minute)
		if err := f.DeletePolicy(ctx, f.by, p); !errs.Is(err, errs.NotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if c := f.campaigns(p.ID); len(c) != 1 || c[0].State != campaign.Succeeded {
			t.Errorf("its campaign is %+v", c)
		}
	})
}
