package campaign

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Planner finds out what upgrades would do.
type Planner interface {
	// Request starts planning the images and answers with the job.
	Request(ctx context.Context, by job.By, imageIDs []string, p upgrade.Policy) (job.Job, error)
	// FindPlan is the last plan of an image; errs.NotFound.
	FindPlan(ctx context.Context, imageID string) (upgrade.Plan, error)
}

// Rounds moves campaigns and fires standing policies. Any number of engines may run them: each step of a campaign is taken
// with the campaign held, and what it starts commits with it, so nothing starts twice and a crash forgets nothing.
type Rounds struct {
	*Service
	Catalog *catalog.Service // adopts images of no family; without a Glance, because choosing asked it
	Upgrade *upgrade.Service
	Chooser *Chooser
	Planner Planner // nil: nothing is planned and nothing shared
	// Settle is how long no further advisory may appear before a policy fires: those of one afternoon make one campaign.
	Settle time.Duration
	// PolicyEvery is how often policies are looked at; in every round where it is 0.
	PolicyEvery time.Duration
	Log         logrus.FieldLogger

	mu       sync.Mutex
	looked   map[string]look // by policy
	policied time.Time
}

// planWait is how long a campaign waits for its plans. Images without one are upgraded as if they were alone.
const planWait = 30 * time.Minute

// Round looks at every open campaign and every enabled policy once. One that fails does not hold up the others.
func (r *Rounds) Round(ctx context.Context) error {
	all := r.policies(ctx)
	for c, err := range listing.Rows(ctx, listing.All().Where("open", "true"), r.Store.ListCampaigns, func(c Campaign) string { return c.ID }) {
		if err != nil {
			return errors.Join(all, err)
		}
		if err := r.step(ctx, c); err != nil && !errs.Is(err, errs.NotFound) {
			all = errors.Join(all, fmt.Errorf("campaign %s of project %s: %w", c.Name, c.ProjectID, err))
		}
	}
	return all
}

func by(c Campaign) job.By {
	return job.By{ProjectID: c.ProjectID, UserID: c.UserID, RequestID: c.RequestID}
}

func (r *Rounds) step(ctx context.Context, c Campaign) error {
	if c.State == Planning && !c.Chosen {
		choice, err := r.Chooser.Choose(ctx, c.ProjectID, c.Filter)
		if err != nil {
			return err
		}
		if err := r.choose(ctx, c.ID, choice); err != nil {
			return err
		}
	}
	_, err := r.change(ctx, c.ID, func(ctx context.Context, c *Campaign) error {
		if !c.Open || !c.Chosen {
			return nil
		}
		items, err := r.items(ctx, c.ID)
		if err != nil {
			return err
		}
		before := *c
		t := &turn{Rounds: r, c: c, items: items, now: r.Now().UTC()}
		for _, do := range []func(context.Context) error{t.follow, t.plan, t.judge, t.start, t.finish} {
			if err := do(ctx); err != nil {
				return err
			}
		}
		return t.write(ctx, before)
	})
	return err
}

// choose writes the items of a campaign, once.
func (r *Rounds) choose(ctx context.Context, id string, choice Choice) error {
	_, err := r.change(ctx, id, func(ctx context.Context, c *Campaign) error {
		if c.State != Planning || c.Chosen {
			return nil
		}
		now := r.Now().UTC()
		items := make([]Item, len(choice.Taken))
		ids := make([]string, len(choice.Taken))
		for n, p := range choice.Taken {
			ids[n] = p.ImageID
			items[n] = Item{
				ID: r.NewID(), CampaignID: c.ID, ImageID: p.ImageID, ProjectID: p.ProjectID, Name: p.Name, Family: p.Family, Version: p.Version,
				Lacks: p.Lacks, CVEs: p.CVEs, Position: n, State: Pending, CreatedAt: now, UpdatedAt: now,
			}
		}
		if err := r.Store.AddCampaignItems(ctx, items); err != nil {
			return err
		}
		c.Chosen, c.Counts, c.UpdatedAt = true, count(items), now
		if r.Planner != nil && len(ids) > 0 {
			j, err := r.Planner.Request(ctx, by(*c), ids, c.Policy)
			if errs.Retryable(err) {
				return err
			}
			if err != nil { // too many for one plan: each is upgraded by itself
				r.Log.WithError(err).WithField("campaign", c.ID).Warning("the campaign goes on without plans")
			}
			c.PlanJobID = j.ID
		}
		return r.Store.UpdateCampaign(ctx, *c)
	})
	return err
}

// turn is one step of one campaign, which is held meanwhile.
type turn struct {
	*Rounds
	c     *Campaign
	items []Item
	now   time.Time
	told  []string // events, in their order
}

func (t *turn) tells(what string) { t.told = append(t.told, what) }

// end writes how an image's turn ended.
func (t *turn) end(ctx context.Context, i *Item, s ItemState, reason string) error {
	i.State, i.Reason, i.FinishedAt = s, reason, &t.now
	return t.save(ctx, i, string(s))
}

// save writes an item; what is "" where nobody has to hear of it.
func (t *turn) save(ctx context.Context, i *Item, what string) error {
	i.UpdatedAt = t.now
	if err := t.Store.UpdateCampaignItem(ctx, *i); err != nil || what == "" {
		return err
	}
	return t.Tell(ctx, by(*t.c), "campaign.image_"+what, "campaigns/"+t.c.ID, t.c.ProjectID, *i)
}

// follow reads how the upgrades that were started ended.
func (t *turn) follow(ctx context.Context) error {
	for n := range t.items {
		i := &t.items[n]
		if i.State != Started {
			continue
		}
		u, err := t.Upgrades.FindUpgrade(ctx, i.UpgradeID)
		switch {
		case errs.Is(err, errs.NotFound):
			err = t.end(ctx, i, ItemFailed, "its upgrade is gone")
		case err != nil:
		case ended(u.State):
			err = t.took(ctx, i, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *turn) took(ctx context.Context, i *Item, u upgrade.Upgrade) error {
	if i.StartedAt != nil && u.State != upgrade.Cancelled {
		t.c.SpentSeconds += max(1, int64(u.UpdatedAt.Sub(*i.StartedAt)/time.Second))
	}
	switch u.State {
	case upgrade.Succeeded:
		i.ToVersion, i.ToImageID = u.ToVersion, u.ToImageID
		return t.end(ctx, i, Done, "")
	case upgrade.Unchanged:
		return t.end(ctx, i, Unchanged, "nothing was pending")
	case upgrade.Failed:
		return t.end(ctx, i, ItemFailed, u.Error)
	}
	return t.end(ctx, i, ItemCancelled, u.Error)
}

// judge decides whether the campaign goes on, waits or stops.
func (t *turn) judge(ctx context.Context) error {
	c := t.c
	c.Counts = count(t.items)
	if t.stops() {
		c.State, c.FinishedAt = Failed, &t.now
		c.Reason = fmt.Sprintf("%d images failed", c.Counts.Failed)
		t.tells("failed")
		for n := range t.items {
			if t.items[n].State == Pending {
				if err := t.end(ctx, &t.items[n], Skipped, "the campaign stopped because "+c.Reason); err != nil {
					return err
				}
			}
		}
	}
	if c.State != Running && c.State != Waiting {
		return nil
	}
	ok, overtime, why := c.mayStart(t.now)
	switch {
	case c.Counts.Pending == 0: // nothing is left that could wait
		c.State, c.Reason = Running, ""
	case !ok && c.State == Running:
		c.State, c.Reason = Waiting, why
		t.tells("waiting")
	case !ok:
		c.Reason = why
	case c.State == Waiting || overtime && !c.Overtime:
		c.State, c.Reason = Running, ""
		if overtime {
			c.Overtime = true
			c.Reason = "runs outside its hours, because the fix was promised by " + told(*c.HotfixBy)
		}
		t.tells("running")
	case !overtime:
		c.Reason = "" // its hours have come
	}
	return nil
}

func (t *turn) stops() bool {
	limit := t.c.StopAfterFailures
	return !t.c.State.Final() && limit > 0 && t.c.Counts.Failed >= limit && t.c.Counts.Pending > 0
}

// finish ends the campaign when every image has had its turn, and says how it stands with the promise.
func (t *turn) finish(context.Context) error {
	c := t.c
	c.Counts = count(t.items)
	c.Open = c.Counts.Pending+c.Counts.Running > 0
	if !c.Open && !c.State.Final() {
		c.State, c.Reason, c.FinishedAt = Succeeded, "", &t.now
		if c.Counts.Total == 0 {
			c.Reason = "no image was chosen"
		}
		t.tells("succeeded")
	}
	if c.settlePromise(t.items, t.now) {
		t.tells("promise_" + string(c.Promise))
	}
	return nil
}

// write keeps the campaign where something about it changed, with its events.
func (t *turn) write(ctx context.Context, before Campaign) error {
	same := before.State == t.c.State && before.Reason == t.c.Reason && before.Counts == t.c.Counts && before.Open == t.c.Open &&
		before.Promise == t.c.Promise && len(before.Batches) == len(t.c.Batches) && before.SpentSeconds == t.c.SpentSeconds
	if same && len(t.told) == 0 {
		return nil
	}
	t.c.UpdatedAt = t.now
	if err := t.Store.UpdateCampaign(ctx, *t.c); err != nil {
		return err
	}
	for _, what := range t.told {
		if err := t.tell(ctx, by(*t.c), *t.c, what); err != nil {
			return err
		}
		t.Log.WithFields(logrus.Fields{"campaign": t.c.ID, "project_id": t.c.ProjectID}).Infof("campaign %s: %s %s", t.c.Name, what, t.c.Reason)
	}
	return nil
}
