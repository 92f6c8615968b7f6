package store

import (
	"context"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

var _ campaign.Store = (*DB)(nil)

var campaignTable = tableOf[campaign.Campaign](spec{
	name: "campaigns", resource: "campaign",
	filters: []string{"id", "name", "state", "policy_id", "open", "promise"},
	sorts:   []string{"created_at", "updated_at", "name", "state"},
	order:   newestFirst,
})

var campaignItemTable = tableOf[campaign.Item](spec{
	name: "campaign_items", resource: "campaign_item",
	filters: []string{"id", "campaign_id", "image_id", "state", "family", "upgrade_id", "batch"},
	sorts:   []string{"position", "name", "state", "updated_at"},
	order:   []listing.Key{{Field: "position"}},
})

var upgradePolicyTable = tableOf[campaign.Policy](spec{
	name: "upgrade_policies", resource: "upgrade_policy",
	filters: []string{"id", "name", "enabled", "min_severity"},
	sorts:   []string{"name", "created_at", "updated_at"},
	order:   byName(),
})

// CreateCampaign implements campaign.Store.
func (db *DB) CreateCampaign(ctx context.Context, c campaign.Campaign) error {
	return campaignTable.insert(ctx, db, "", c)
}

// LockCampaign implements campaign.Store by a write, as LockRecipe does.
func (db *DB) LockCampaign(ctx context.Context, id string) error {
	return db.lockRow(ctx, "campaigns", "campaign", id)
}

func (db *DB) lockRow(ctx context.Context, table, resource, id string) error {
	n, err := db.exec(ctx, resource, id, "UPDATE "+quote(table)+" SET `locks` = `locks` + 1 WHERE `id` = ?", id)
	if err == nil && n == 0 {
		err = notFound(resource, id)
	}
	return err
}

// UpdateCampaign implements campaign.Store.
func (db *DB) UpdateCampaign(ctx context.Context, c campaign.Campaign) error {
	return campaignTable.update(ctx, db, c)
}

// FindCampaign implements campaign.Store.
func (db *DB) FindCampaign(ctx context.Context, id string) (campaign.Campaign, error) {
	return campaignTable.byID(ctx, db, id)
}

// ListCampaigns implements campaign.Store.
func (db *DB) ListCampaigns(ctx context.Context, q listing.Query) ([]campaign.Campaign, error) {
	return campaignTable.list(ctx, db, q)
}

// AddCampaignItems implements campaign.Store.
func (db *DB) AddCampaignItems(ctx context.Context, items []campaign.Item) error {
	if len(items) == 0 {
		return nil
	}
	return db.InTx(ctx, func(ctx context.Context) error { return campaignItemTable.insert(ctx, db, "", items...) })
}

// UpdateCampaignItem implements campaign.Store.
func (db *DB) UpdateCampaignItem(ctx context.Context, i campaign.Item) error {
	return campaignItemTable.update(ctx, db, i)
}

// ListCampaignItems implements campaign.Store.
func (db *DB) ListCampaignItems(ctx context.Context, q listing.Query) ([]campaign.Item, error) {
	return campaignItemTable.list(ctx, db, q)
}

// UrgentNeeds implements campaign.Store.
func (db *DB) UrgentNeeds(ctx context.Context, least string, security bool) ([]campaign.Need, error) {
	words, args := []string{}, []any{}
	for _, u := range []string{advisory.Low, advisory.Medium, advisory.High, advisory.Critical} {
		if advisory.Level(u) >= advisory.Level(least) {
			words, args = append(words, u), append(args, u)
		}
	}
	urgent := "`pending`.`urgency` IN (" + marks(len(words)) + ")"
	switch {
	case advisory.Level(least) <= advisory.Level(advisory.Low):
		urgent = "(" + urgent + " OR `pending`.`urgency` = '')"
	case advisory.Level(least) == advisory.Level(advisory.Medium):
		urgent = "(" + urgent + " OR `pending`.`urgency` = '' AND `pending`.`security` = 1)"
	}
	query := "SELECT `pending`.`image_id`, `images`.`project_id`, `pending`.`advisory_id`, `advisories`.`created_at`, `images`.`created_at` FROM `pending`" +
		" JOIN `advisories` ON `advisories`.`id` = `pending`.`advisory_id` JOIN `images` ON `images`.`id` = `pending`.`image_id`" +
		" LEFT JOIN `versions` ON `versions`.`image_id` = `pending`.`image_id`" +
		" WHERE " + urgent + " AND (`versions`.`id` IS NULL OR `versions`.`state` = 'published')"
	if security {
		query += " AND `pending`.`security` = 1"
	}
	var out []campaign.Need
	err := db.each(ctx, "advisory", "", func(r *sqlx.Rows) error {
		var n campaign.Need
		var published, uploaded time.Time
		if err := r.Scan(&n.ImageID, &n.ProjectID, &n.AdvisoryID, timeInto(&published), timeInto(&uploaded)); err != nil {
			return err
		}
		n.AppearedAt = published
		if uploaded.After(published) {
			n.AppearedAt = uploaded
		}
		out = append(out, n)
		return nil
	}, query+" ORDER BY `pending`.`image_id`, `pending`.`advisory_id`", args...)
	return out, err
}

// CreateUpgradePolicy implements campaign.Store.
func (db *DB) CreateUpgradePolicy(ctx context.Context, p campaign.Policy) error {
	return upgradePolicyTable.insert(ctx, db, "", p)
}

// LockUpgradePolicy implements campaign.Store.
func (db *DB) LockUpgradePolicy(ctx context.Context, id string) error {
	return db.lockRow(ctx, "upgrade_policies", "upgrade_policy", id)
}

// UpdateUpgradePolicy implements campaign.Store.
func (db *DB) UpdateUpgradePolicy(ctx context.Context, p campaign.Policy) error {
	return upgradePolicyTable.update(ctx, db, p)
}

// DeleteUpgradePolicy implements campaign.Store.
func (db *DB) DeleteUpgradePolicy(ctx context.Context, id string) error {
	found, err := upgradePolicyTable.delete(ctx, db, id)
	if err == nil && !found {
		err = notFound("upgrade_policy", id)
	}
	return err
}

// FindUpgradePolicy implements campaign.Store.
func (db *DB) FindUpgradePolicy(ctx context.Context, id string) (campaign.Policy, error) {
	return upgradePolicyTable.byID(ctx, db, id)
}

// ListUpgradePolicies implements campaign.Store.
func (db *DB) ListUpgradePolicies(ctx context.Context, q listing.Query) ([]campaign.Policy, error) {
	return upgradePolicyTable.list(ctx, db, q)
}

// TriedImages implements campaign.Store. What a campaign made of an image counts as tried when it was made.
func (db *DB) TriedImages(ctx context.Context, policyID string) (map[string]time.Time, error) {
	out := map[string]time.Time{}
	err := db.each(ctx, "campaign", "", func(r *sqlx.Rows) error {
		var id string
		var at time.Time
		if err := r.Scan(&id, timeInto(&at)); err != nil {
			return err
		}
		if at.After(out[id]) {
			out[id] = at
		}
		return nil
	}, "SELECT `campaign_items`.`image_id`, MAX(`campaign_items`.`created_at`) FROM `campaign_items` JOIN `campaigns` ON `campaigns`.`id` = `campaign_items`.`campaign_id`"+
		" WHERE `campaigns`.`policy_id` = ? GROUP BY `campaign_items`.`image_id` UNION ALL"+
		" SELECT `campaign_items`.`to_image_id`, MAX(`campaign_items`.`finished_at`) FROM `campaign_items` JOIN `campaigns` ON `campaigns`.`id` = `campaign_items`.`campaign_id`"+
		" WHERE `campaigns`.`policy_id` = ? AND `campaign_items`.`to_image_id` <> '' AND `campaign_items`.`finished_at` IS NOT NULL GROUP BY `campaign_items`.`to_image_id`", policyID, policyID)
	return out, err
}
