package campaign

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// plan ends the planning when the plans are there, or are not to be had: images are grouped, those that nothing is to be
// done about have had their turn, and the campaign begins or waits for approval.
func (t *turn) plan(ctx context.Context) error {
	c := t.c
	if c.State != Planning {
		return nil
	}
	if c.PlanJobID != "" && t.now.Sub(c.CreatedAt) < planWait {
		open, err := t.Open(ctx, c.PlanJobID)
		if err != nil || open != nil {
			return err
		}
	}
	plans, err := t.plans(ctx)
	if err != nil {
		return err
	}
	c.Batches = upgrade.Batches(plans)
	t.group()
	for n := range t.items {
		if t.items[n].State == Pending {
			if err := t.save(ctx, &t.items[n], ""); err != nil {
				return err
			}
		}
	}
	if c.Approve {
		c.State = Ready
		t.tells("ready")
		return nil
	}
	c.State, c.StartedAt = Running, &t.now
	t.tells("running")
	return nil
}

// planAge is how much older than a campaign a plan may be that is used for it: clocks differ.
const planAge = 10 * time.Minute

// plans are those that were made for this campaign.
func (t *turn) plans(ctx context.Context) ([]upgrade.Plan, error) {
	var out []upgrade.Plan
	if t.Planner == nil {
		return nil, nil
	}
	for n := range t.items {
		i := &t.items[n]
		if i.State != Pending {
			continue
		}
		p, err := t.Planner.FindPlan(ctx, i.ImageID)
		switch {
		case errs.Is(err, errs.NotFound), err == nil && (p.Policy != t.c.Policy || p.CreatedAt.Before(t.c.CreatedAt.Add(-planAge))):
			continue // not planned: it is upgraded by itself
		case err != nil:
			return nil, err
		case p.Refused != "":
			err = t.end(ctx, i, Skipped, p.Refused)
		case len(p.Changes) == 0 && len(p.Held) > 0:
			err = t.end(ctx, i, Skipped, "nothing that is pending can be done: "+heldText(p.Held))
		case len(p.Changes) == 0:
			err = t.end(ctx, i, Unchanged, "nothing is pending")
		default:
			out = append(out, p)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func heldText(held []upgrade.Held) string {
	words := make([]string, 0, len(held))
	for _, h := range held[:min(len(held), 5)] {
		words = append(words, h.Name+" ("+h.Reason+")")
	}
	if len(held) > 5 {
		words = append(words, fmt.Sprintf("and %d more", len(held)-5))
	}
	return strings.Join(words, ", ")
}

// group says which batch each image is in, and orders the turns: the first of each batch, which is recorded, before all
// others, the largest batch at the very front. Whether the others wait for the record is the worker's business: records are its own.
func (t *turn) group() {
	in, size := map[string]int{}, map[int]int{}
	for n, b := range t.c.Batches {
		if len(b.Share) == 0 || len(b.ImageIDs) < 2 {
			continue
		}
		for _, id := range b.ImageIDs {
			in[id] = n + 1
		}
		size[n+1] = len(b.ImageIDs)
	}
	first := map[int]string{}
	for n := range t.items {
		i := &t.items[n]
		i.Batch = in[i.ImageID]
		if i.Batch > 0 && first[i.Batch] == "" && i.State == Pending {
			first[i.Batch] = i.ImageID
		}
	}
	rank := func(i Item) int {
		if i.Batch > 0 && first[i.Batch] == i.ImageID {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(t.items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(size[b.Batch], size[a.Batch]), cmp.Compare(a.Batch, b.Batch))
	})
	for n := range t.items {
		t.items[n].Position = n
	}
}

// start gives as many images their turn as may run at a time.
func (t *turn) start(ctx context.Context) error {
	if t.c.State != Running {
		return nil
	}
	running := count(t.items).Running
	for n := range t.items {
		i := &t.items[n]
		if running >= max(1, t.c.MaxParallel) {
			return nil
		}
		if i.State != Pending {
			continue
		}
		started, err := t.one(ctx, i)
		if err != nil {
			return err
		}
		if started {
			running++
		}
	}
	return nil
}

// one gives an image its turn: it is adopted where it has no family, and its upgrade is asked for.
func (t *turn) one(ctx context.Context, i *Item) (started bool, err error) {
	v, err := t.version(ctx, *i)
	switch {
	case errs.Retryable(err):
		return false, err
	case err != nil:
		return false, t.end(ctx, i, ItemFailed, err.Error())
	case v.State == catalog.Superseded:
		return false, t.superseded(ctx, i, v)
	}
	i.Family, i.Version = v.Family, v.Name
	w := upgrade.Wish{Policy: t.c.Policy, CampaignID: t.c.ID}
	if i.Batch > 0 && i.Batch <= len(t.c.Batches) {
		w.Shares = t.c.Batches[i.Batch-1].Shares(i.ImageID)
	}
	u, err := t.Upgrade.Request(ctx, by(*t.c), v, w)
	switch {
	case err == nil:
		i.State, i.Reason, i.HeldBy, i.UpgradeID, i.StartedAt = Started, "", "", u.ID, &t.now
		return true, t.save(ctx, i, "started")
	case errs.CodeOf(err) == upgrade.CodeOpen:
		return false, t.held(ctx, i)
	case errs.Retryable(err):
		return false, err
	}
	return false, t.end(ctx, i, ItemFailed, err.Error())
}

// version is the image's, made where it has none.
func (t *turn) version(ctx context.Context, i Item) (catalog.Version, error) {
	v, err := t.Catalog.Store.VersionByImage(ctx, i.ImageID)
	if !errs.Is(err, errs.NotFound) {
		return v, err
	}
	img, err := t.Catalog.Store.FindImage(ctx, i.ImageID)
	if err != nil {
		return v, err
	}
	return t.Catalog.Adopt(ctx, by(*t.c), img, "")
}

// held keeps an image waiting that somebody else upgrades.
func (t *turn) held(ctx context.Context, i *Item) error {
	for _, state := range []upgrade.State{upgrade.Running, upgrade.Queued} {
		open, err := t.Upgrades.ListUpgrades(ctx, listing.Query{Limit: 1}.Where("from_image_id", i.ImageID).Where("state", string(state)))
		if err != nil {
			return err
		}
		if len(open) == 0 || open[0].ID == i.HeldBy {
			continue
		}
		i.HeldBy = open[0].ID
		i.Reason = "waits for " + ofWhom(open[0])
		return t.save(ctx, i, "held")
	}
	return nil
}

func ofWhom(u upgrade.Upgrade) string {
	text := "upgrade " + u.ID
	if u.CampaignID != "" {
		text += " of campaign " + u.CampaignID
	}
	return text
}

// superseded ends the turn of an image that somebody else made a newer version of.
func (t *turn) superseded(ctx context.Context, i *Item, v catalog.Version) error {
	i.Family, i.Version = v.Family, v.Name
	made, err := t.Upgrades.ListUpgrades(ctx, listing.Query{Limit: 1}.Where("from_image_id", i.ImageID).Where("state", string(upgrade.Succeeded)))
	switch {
	case err != nil:
		return err
	case len(made) == 0:
		return t.end(ctx, i, Skipped, "its family has a newer version by now")
	}
	i.ToVersion, i.ToImageID = made[0].ToVersion, made[0].ToImageID
	return t.end(ctx, i, Skipped, ofWhom(made[0])+" has made version "+i.ToVersion+" of it")
}
