package campaign

import (
	"cmp"
	"context"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// New is what somebody asks for.
type New struct {
	Name              string         `json:"name"`
	Filter            Filter         `json:"filter"`
	Policy            upgrade.Policy `json:"policy"`
	MaxParallel       int            `json:"max_parallel"`        // 2 where left out
	StopAfterFailures int            `json:"stop_after_failures"` // 0: never
	Hours             []string       `json:"hours"`
	Approve           bool           `json:"approve"`
}

// Bounds and defaults of what is asked for.
const (
	defaultParallel = 2
	mostParallel    = 100
	mostFailures    = 100_000
)

// Check refuses what could not be done: errs.Invalid.
func (n New) Check() error {
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, "kiln.campaign."+field, format, args...).At(errs.Where{Field: field})
	}
	if n.Name != "" {
		if err := job.CheckName("kiln.campaign.name", "name", n.Name); err != nil {
			return err
		}
	}
	switch {
	case n.MaxParallel < 0 || n.MaxParallel > mostParallel:
		return bad("max_parallel", "%d upgrades at a time: 1 to %d", n.MaxParallel, mostParallel)
	case n.StopAfterFailures < 0 || n.StopAfterFailures > mostFailures:
		return bad("stop_after_failures", "%d failures: 0 to %d", n.StopAfterFailures, mostFailures)
	}
	if err := n.Filter.Check(); err != nil {
		return err
	}
	if _, err := ParseHours(n.Hours); err != nil {
		return err
	}
	return n.Policy.Check()
}

// Beyond reports whether the filter reaches images of other projects than the one.
func (f Filter) Beyond(projectID string) bool {
	return f.AllProjects || f.ProjectID != "" && f.ProjectID != projectID
}

// Service makes and steers campaigns.
type Service struct {
	job.Desk
	Store    Store
	Upgrades upgrade.Store
	// StopJob cancels the job of an upgrade; errs.Conflict where it has ended.
	StopJob func(ctx context.Context, by job.By, jobID string) error
}

// Create makes a campaign, which chooses its images in the next round of an engine.
func (s *Service) Create(ctx context.Context, by job.By, n New) (Campaign, error) {
	if err := n.Check(); err != nil {
		return Campaign{}, err
	}
	c := s.draft(by, n)
	err := s.Tx.InTx(ctx, func(ctx context.Context) error { return s.add(ctx, by, c) })
	return c, err
}

func (s *Service) draft(by job.By, n New) Campaign {
	now := s.Now().UTC()
	return Campaign{
		ID: s.NewID(), ProjectID: by.ProjectID, Name: cmp.Or(n.Name, "upgrade-"+now.Format("20060102-150405")), Filter: n.Filter, Policy: n.Policy,
		MaxParallel: cmp.Or(n.MaxParallel, defaultParallel), StopAfterFailures: n.StopAfterFailures, Hours: slices.Clone(n.Hours), Approve: n.Approve,
		State: Planning, Open: true, UserID: by.UserID, RequestID: by.RequestID, CreatedAt: now, UpdatedAt: now,
	}
}

func (s *Service) add(ctx context.Context, by job.By, c Campaign) error {
	if err := s.Store.CreateCampaign(ctx, c); err != nil {
		return err
	}
	return s.tell(ctx, by, c, "created")
}

// tell records what happened to the campaign.
func (s *Service) tell(ctx context.Context, by job.By, c Campaign, what string) error {
	return s.Tell(ctx, by, "campaign."+what, "campaigns/"+c.ID, c.ProjectID, c)
}

// change does something to a campaign that no engine moves meanwhile.
func (s *Service) change(ctx context.Context, id string, do func(ctx context.Context, c *Campaign) error) (Campaign, error) {
	var c Campaign
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockCampaign(ctx, id); err != nil {
			return err
		}
		var err error
		if c, err = s.Store.FindCampaign(ctx, id); err != nil {
			return err
		}
		return do(ctx, &c)
	})
	return c, err
}

// move brings a campaign from one of the states into another; where it is there already nothing changes.
func (s *Service) move(ctx context.Context, by job.By, id, verb, what string, to State, from ...State) (Campaign, error) {
	return s.change(ctx, id, func(ctx context.Context, c *Campaign) error {
		if c.State == to {
			return nil
		}
		if !slices.Contains(from, c.State) {
			return errs.New(errs.Conflict, "kiln.campaign.state", "campaign %s is %s: it cannot be %s", c.Name, c.State, verb)
		}
		now := s.Now().UTC()
		c.State, c.Reason, c.UpdatedAt = to, "", now
		if to == Running && c.StartedAt == nil {
			c.StartedAt = &now
		}
		if err := s.Store.UpdateCampaign(ctx, *c); err != nil {
			return err
		}
		return s.tell(ctx, by, *c, what)
	})
}

// Approve lets a campaign begin that waits for it. errs.Conflict in any other state but running.
func (s *Service) Approve(ctx context.Context, by job.By, id string) (Campaign, error) {
	return s.move(ctx, by, id, "approved", "approved", Running, Ready)
}

// Pause starts no further upgrades; those that run end. errs.Conflict where it has not begun or has ended.
func (s *Service) Pause(ctx context.Context, by job.By, id string) (Campaign, error) {
	return s.move(ctx, by, id, "paused", "paused", Paused, Running, Waiting)
}

// Resume goes on with a campaign that was paused.
func (s *Service) Resume(ctx context.Context, by job.By, id string) (Campaign, error) {
	return s.move(ctx, by, id, "resumed", "resumed", Running, Paused)
}

// Cancel ends a campaign: what waits is not started, what runs is asked to stop. What was published stays.
// Again is no error; errs.Conflict for one that has ended otherwise.
func (s *Service) Cancel(ctx context.Context, by job.By, id string) (Campaign, error) {
	return s.change(ctx, id, func(ctx context.Context, c *Campaign) error {
		if c.State == Cancelled {
			return nil
		}
		if c.State.Final() {
			return errs.New(errs.Conflict, "kiln.campaign.state", "campaign %s has %s", c.Name, c.State)
		}
		items, err := s.items(ctx, id)
		if err != nil {
			return err
		}
		now := s.Now().UTC()
		for i := range items {
			if err := s.cancelItem(ctx, by, &items[i]); err != nil {
				return err
			}
		}
		c.State, c.Reason, c.UpdatedAt, c.FinishedAt = Cancelled, "", now, &now
		c.Counts = count(items)
		c.Open = c.Counts.Running > 0 // the next rounds write how those end
		c.settlePromise(items, now)
		if err := s.Store.UpdateCampaign(ctx, *c); err != nil {
			return err
		}
		return s.tell(ctx, by, *c, "cancelled")
	})
}

func (s *Service) cancelItem(ctx context.Context, by job.By, i *Item) error {
	now := s.Now().UTC()
	switch i.State {
	case Pending:
		i.State, i.Reason, i.UpdatedAt, i.FinishedAt = ItemCancelled, "the campaign was cancelled", now, &now
		return s.Store.UpdateCampaignItem(ctx, *i)
	case Started:
		u, err := s.Upgrades.FindUpgrade(ctx, i.UpgradeID)
		if err != nil || ended(u.State) {
			return err
		}
		if err := s.StopJob(ctx, by, u.JobID); !errs.Is(err, errs.Conflict) { // it has just ended
			return err
		}
	}
	return nil
}

// items are all of a campaign, in the order of their turns.
func (s *Service) items(ctx context.Context, id string) ([]Item, error) {
	q := listing.All().Where("campaign_id", id)
	q.Sort = []listing.Key{{Field: "position"}}
	return listing.Read(ctx, q, s.Store.ListCampaignItems, func(i Item) string { return i.ID })
}

func count(items []Item) Counts {
	c := Counts{Total: len(items)}
	for _, i := range items {
		switch i.State {
		case Pending:
			c.Pending++
		case Started:
			c.Running++
		case Done:
			c.Succeeded++
		case Unchanged:
			c.Unchanged++
		case ItemFailed:
			c.Failed++
		case Skipped:
			c.Skipped++
		default:
			c.Cancelled++
		}
	}
	return c
}

func ended(s upgrade.State) bool { return s != upgrade.Queued && s != upgrade.Running }
