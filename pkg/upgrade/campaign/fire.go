package campaign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// burst is how many times Settle advisories may go on appearing before a policy fires all the same.
const burst = 4

// lookAgain is how long what came to nothing is not looked at again while it stays the same.
const lookAgain = 5 * time.Minute

// look is what an engine last found for a policy without a campaign coming of it.
type look struct {
	key string
	at  time.Time
}

// policies fires those whose images lack something.
func (r *Rounds) policies(ctx context.Context) error {
	now := r.Now()
	if r.PolicyEvery > 0 && now.Sub(r.policied) < r.PolicyEvery {
		return nil
	}
	r.policied = now
	var all error
	for p, err := range listing.Rows(ctx, listing.All().Where("enabled", "true"), r.Store.ListUpgradePolicies, func(p Policy) string { return p.ID }) {
		if err != nil {
			return errors.Join(all, err)
		}
		if err := r.policy(ctx, p); err != nil && !errs.Is(err, errs.NotFound) { // it may be gone by now
			all = errors.Join(all, fmt.Errorf("upgrade policy %s of project %s: %w", p.Name, p.ProjectID, err))
		}
	}
	return all
}

// needs are the images of the policy's projects that lack something urgent which no campaign of it has tried to bring.
type needs struct {
	images         map[string]bool
	oldest, newest time.Time
	key            string
}

func (r *Rounds) needs(ctx context.Context, p Policy) (needs, error) {
	n := needs{images: map[string]bool{}}
	found, err := r.Store.UrgentNeeds(ctx, p.MinSeverity, p.Filter.Security)
	if err != nil || len(found) == 0 {
		return n, err
	}
	tried, err := r.Store.TriedImages(ctx, p.ID)
	if err != nil {
		return n, err
	}
	scope := cmp.Or(p.Filter.ProjectID, p.ProjectID)
	var keys []string
	for _, f := range found {
		if !p.Filter.AllProjects && f.ProjectID != scope {
			continue
		}
		if at, was := tried[f.ImageID]; was && !at.Before(f.AppearedAt) {
			continue
		}
		n.images[f.ImageID] = true
		keys = append(keys, f.ImageID+" "+f.AdvisoryID)
		if n.oldest.IsZero() || f.AppearedAt.Before(n.oldest) {
			n.oldest = f.AppearedAt
		}
		if f.AppearedAt.After(n.newest) {
			n.newest = f.AppearedAt
		}
	}
	slices.Sort(keys)
	n.key = strings.Join(keys, "\n")
	return n, nil
}

// quiet reports whether no further advisory is waited for.
func (n needs) quiet(now time.Time, settle time.Duration) bool {
	return len(n.images) > 0 && (now.Sub(n.newest) >= settle || now.Sub(n.oldest) >= burst*settle)
}

func (r *Rounds) policy(ctx context.Context, p Policy) error {
	now := r.Now().UTC()
	n, err := r.needs(ctx, p)
	if err != nil || !n.quiet(now, r.Settle) || r.seen(p, n, now) {
		return err
	}
	if open, err := r.openOf(ctx, p); err != nil || open {
		return err
	}
	choice, err := r.Chooser.Choose(ctx, p.ProjectID, p.wish(now).Filter)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(choice.Taken, func(k Pick) bool { return n.images[k.ImageID] }) {
		r.remember(p, n, now)
		return nil
	}
	return r.Tx.InTx(ctx, func(ctx context.Context) error { return r.fire(ctx, p.ID) })
}

// seen reports whether the same was looked at a while ago and no image of the filter was in it.
func (r *Rounds) seen(p Policy, n needs, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.looked[p.ID]
	return l.key == n.key+p.UpdatedAt.String() && now.Sub(l.at) < lookAgain
}

func (r *Rounds) remember(p Policy, n needs, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looked == nil {
		r.looked = map[string]look{}
	}
	r.looked[p.ID] = look{n.key + p.UpdatedAt.String(), now}
}

func (r *Rounds) openOf(ctx context.Context, p Policy) (bool, error) {
	open, err := r.Store.ListCampaigns(ctx, listing.Query{Limit: 1}.Where("policy_id", p.ID).Where("open", "true"))
	return len(open) > 0, err
}

// fire makes the campaign, where it is still to be made when the policy is held.
func (r *Rounds) fire(ctx context.Context, id string) error {
	if err := r.Store.LockUpgradePolicy(ctx, id); err != nil {
		return err
	}
	p, err := r.Store.FindUpgradePolicy(ctx, id)
	if err != nil || !p.Enabled {
		return err
	}
	now := r.Now().UTC()
	n, err := r.needs(ctx, p)
	if err != nil || !n.quiet(now, r.Settle) {
		return err
	}
	if open, err := r.openOf(ctx, p); err != nil || open {
		return err
	}
	who := job.By{ProjectID: p.ProjectID, UserID: p.UserID, RequestID: "req-" + r.NewID()}
	c := r.draft(who, p.wish(now))
	c.PolicyID = p.ID
	if p.HotfixHours > 0 {
		from := n.oldest
		if from.Before(p.EnabledAt) {
			from = p.EnabledAt
		}
		by := from.Add(time.Duration(p.HotfixHours) * time.Hour)
		c.HotfixBy, c.Promise = &by, PromiseOpen
	}
	if err := r.add(ctx, who, c); err != nil {
		return err
	}
	p.CampaignID, p.UpdatedAt = c.ID, now
	if err := r.Store.UpdateUpgradePolicy(ctx, p); err != nil {
		return err
	}
	r.Log.WithFields(logrus.Fields{"campaign": c.ID, "upgrade_policy": p.ID, "project_id": p.ProjectID}).Infof("upgrade policy %s made a campaign: %d images lack fixes", p.Name, len(n.images))
	return r.tellPolicy(ctx, who, p, "fired")
}
