package campaign

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Policy is a standing one: it makes a campaign by itself when an advisory appears that images of its filter lack.
type Policy struct {
	ID                string         `json:"id"`
	ProjectID         string         `json:"project_id"`
	Name              string         `json:"name"`
	Filter            Filter         `json:"filter"`
	MinSeverity       string         `json:"min_severity"` // low, medium, high, critical
	Hours             []string       `json:"hours"`
	HotfixHours       int            `json:"hotfix_hours"` // from an advisory to the last image with its fix (SCS-0102); 0: nothing is promised
	Policy            upgrade.Policy `json:"policy"`
	MaxParallel       int            `json:"max_parallel"`
	StopAfterFailures int            `json:"stop_after_failures"`
	Enabled           bool           `json:"enabled"`
	EnabledAt         time.Time      `json:"enabled_at"`  // promises count from here for advisories that are older
	CampaignID        string         `json:"campaign_id"` // the last one that it made
	UserID            string         `json:"user_id"`
	CreatedAt         time.Time      `json:"created_at"`
	UpdatedAt         time.Time      `json:"updated_at"`
}

// PolicyChange is what is made or changed of a policy; nil fields stay as they are.
type PolicyChange struct {
	Name              *string         `json:"name"`
	Filter            *Filter         `json:"filter"`
	MinSeverity       *string         `json:"min_severity"`
	Hours             *[]string       `json:"hours"`
	HotfixHours       *int            `json:"hotfix_hours"`
	Policy            *upgrade.Policy `json:"policy"`
	MaxParallel       *int            `json:"max_parallel"`
	StopAfterFailures *int            `json:"stop_after_failures"`
	Enabled           *bool           `json:"enabled"`
}

// mostHotfixHours is SCS-0102's year.
const mostHotfixHours = 8760

// DefaultSeverity is that of a policy which names none.
const DefaultSeverity = advisory.High

func (c PolicyChange) onto(p *Policy) {
	set(&p.Name, c.Name)
	set(&p.Filter, c.Filter)
	set(&p.MinSeverity, c.MinSeverity)
	set(&p.HotfixHours, c.HotfixHours)
	set(&p.Policy, c.Policy)
	set(&p.MaxParallel, c.MaxParallel)
	set(&p.StopAfterFailures, c.StopAfterFailures)
	set(&p.Enabled, c.Enabled)
	if c.Hours != nil {
		p.Hours = slices.Clone(*c.Hours)
	}
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// wish is the campaign that the policy makes.
func (p Policy) wish(now time.Time) New {
	f := p.Filter
	f.MinSeverity = p.MinSeverity
	return New{
		Name: p.Name[:min(len(p.Name), 45)] + "-" + now.UTC().Format("20060102-150405"), Filter: f, Policy: p.Policy,
		MaxParallel: p.MaxParallel, StopAfterFailures: p.StopAfterFailures, Hours: p.Hours,
	}
}

// Check refuses a policy that could not be followed: errs.Invalid.
func (p Policy) Check() error {
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, "kiln.upgrade_policy."+field, format, args...).At(errs.Where{Field: field})
	}
	if err := job.CheckName("kiln.upgrade_policy.name", "name", p.Name); err != nil {
		return err
	}
	switch {
	case p.Filter.MinSeverity != "":
		return bad("filter", "name the severity as min_severity of the policy, not of its filter")
	case p.HotfixHours < 0 || p.HotfixHours > mostHotfixHours:
		return bad("hotfix_hours", "%d hours: 1 to %d, or 0 for no promise", p.HotfixHours, mostHotfixHours)
	}
	if err := checkSeverity(p.MinSeverity); err != nil {
		return bad("min_severity", "%v", err)
	}
	return p.wish(p.CreatedAt).Check()
}

// CreatePolicy makes a standing policy; it is enabled where the change does not say otherwise.
func (s *Service) CreatePolicy(ctx context.Context, by job.By, c PolicyChange) (Policy, error) {
	now := s.Now().UTC()
	p := Policy{
		ID: s.NewID(), ProjectID: by.ProjectID, MinSeverity: DefaultSeverity, MaxParallel: defaultParallel, Enabled: true, Hours: []string{},
		EnabledAt: now, UserID: by.UserID, CreatedAt: now, UpdatedAt: now,
	}
	c.onto(&p)
	p.MinSeverity = cmp.Or(p.MinSeverity, DefaultSeverity)
	if err := p.Check(); err != nil {
		return p, err
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.CreateUpgradePolicy(ctx, p); err != nil {
			return err
		}
		return s.tellPolicy(ctx, by, p, "created")
	})
	return p, err
}

func (s *Service) tellPolicy(ctx context.Context, by job.By, p Policy, what string) error {
	return s.Tell(ctx, by, "upgrade_policy."+what, "upgrade-policies/"+p.ID, p.ProjectID, p)
}

// UpdatePolicy changes a standing policy. Campaigns that it made stay as they are.
func (s *Service) UpdatePolicy(ctx context.Context, by job.By, id string, c PolicyChange) (Policy, error) {
	var p Policy
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockUpgradePolicy(ctx, id); err != nil {
			return err
		}
		var err error
		if p, err = s.Store.FindUpgradePolicy(ctx, id); err != nil {
			return err
		}
		was := p.Enabled
		c.onto(&p)
		p.UpdatedAt = s.Now().UTC()
		if p.Enabled && !was {
			p.EnabledAt = p.UpdatedAt
		}
		if err := p.Check(); err != nil {
			return err
		}
		if err := s.Store.UpdateUpgradePolicy(ctx, p); err != nil {
			return err
		}
		return s.tellPolicy(ctx, by, p, "updated")
	})
	return p, err
}

// DeletePolicy removes a standing policy. A campaign that it made goes on.
func (s *Service) DeletePolicy(ctx context.Context, by job.By, p Policy) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.DeleteUpgradePolicy(ctx, p.ID); err != nil {
			return err
		}
		return s.tellPolicy(ctx, by, p, "deleted")
	})
}
