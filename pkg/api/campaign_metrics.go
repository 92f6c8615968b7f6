package api

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

type campaignLister interface {
	ListCampaigns(ctx context.Context, q listing.Query) ([]campaign.Campaign, error)
}

// campaignCollector counts the open campaigns and their images when somebody asks. Final ones are not counted: there is no end to them.
type campaignCollector struct{ campaigns campaignLister }

var (
	openCampaigns = prometheus.NewDesc("kiln_campaigns_open", "Open campaigns; the newest 1000 are counted.", []string{"state"}, nil)
	openImages    = prometheus.NewDesc("kiln_campaign_images", "Images of the open campaigns.", []string{"state"}, nil)
	atRisk        = prometheus.NewDesc("kiln_campaign_promises_late", "Open campaigns whose promised fix is, or is going to be, late.", nil, nil)
)

// Describe names the metrics.
func (c *campaignCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- openCampaigns
	ch <- openImages
	ch <- atRisk
}

// Collect asks the store; one that is away leaves the metrics out, and /healthcheck tells.
func (c *campaignCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	open, err := c.campaigns.ListCampaigns(ctx, listing.All().Where("open", "true"))
	if err != nil {
		return
	}
	states, images, late := map[string]int{}, map[string]int{}, 0
	for _, o := range open {
		states[string(o.State)]++
		if o.Promise == campaign.PromiseAtRisk || o.Promise == campaign.PromiseBroken {
			late++
		}
		for state, n := range map[campaign.ItemState]int{campaign.Pending: o.Counts.Pending, campaign.Started: o.Counts.Running, campaign.Done: o.Counts.Succeeded,
			campaign.Unchanged: o.Counts.Unchanged, campaign.ItemFailed: o.Counts.Failed, campaign.Skipped: o.Counts.Skipped, campaign.ItemCancelled: o.Counts.Cancelled} {
			images[string(state)] += n
		}
	}
	for desc, counts := range map[*prometheus.Desc]map[string]int{openCampaigns: states, openImages: images} {
		for state, n := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), state)
		}
	}
	ch <- prometheus.MustNewConstMetric(atRisk, prometheus.GaugeValue, float64(late))
}
