package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

func campaignProject(c campaign.Campaign) string      { return c.ProjectID }
func upgradePolicyProject(p campaign.Policy) string   { return p.ProjectID }
func campaignPath(c campaign.Campaign) string         { return "/v1/campaigns/" + c.ID }
func upgradePolicyPath(p campaign.Policy) string      { return "/v1/upgrade-policies/" + p.ID }
func campaignOf(v campaign.View) string               { return v.ID }
func (a *api) seen(c campaign.Campaign) campaign.View { return c.Viewed(a.Now()) }

// chooser finds the images of a campaign, as far as the image service here can be asked for more than one.
func (a *api) chooser() *campaign.Chooser {
	c := &campaign.Chooser{Store: a.Store, Catalog: a.Store}
	if all, can := a.Glance.(campaign.Images); can {
		c.Glance = all
	}
	return c
}

func (a *api) listCampaigns(ctx context.Context, req *Request[None]) (Response, error) {
	find := func(ctx context.Context, q listing.Query) ([]campaign.View, error) {
		found, err := a.Store.ListCampaigns(ctx, q)
		views := make([]campaign.View, len(found))
		for i, c := range found {
			views[i] = a.seen(c)
		}
		return views, err
	}
	return page(ctx, req, "campaigns", find, campaignOf)
}

// reach refuses a filter that takes images of other projects than the caller's, but for an administrator.
func reach[In any](req *Request[In], f campaign.Filter) error {
	return reachOf(req, req.Caller.ProjectID, f)
}

// reachOf is reach for what a project has: what an administrator lets reach other projects, administrators alone change.
func reachOf[In any](req *Request[In], projectID string, f campaign.Filter) error {
	if f.Beyond(projectID) {
		return req.enforce(policy.CampaignsEverywhere, "")
	}
	return nil
}

func (a *api) createCampaign(ctx context.Context, req *Request[campaign.New]) (Response, error) {
	if err := reach(req, req.Body.Filter); err != nil {
		return Response{}, err
	}
	dry, err := dryRun(req)
	if err != nil {
		return Response{}, err
	}
	if !dry {
		c, err := a.campaigns.Create(ctx, req.By, req.Body)
		return accepted(campaignPath(c), a.seen(c)), err
	}
	if err := req.Body.Check(); err != nil {
		return Response{}, err
	}
	choice, err := a.chooser().Choose(ctx, req.Caller.ProjectID, req.Body.Filter)
	return ok(choice), err
}

func (a *api) campaignOfPath(ctx context.Context, req *Request[None]) (campaign.Campaign, error) {
	return owned(ctx, req, "campaign", req.Param("id"), a.Store.FindCampaign, campaignProject)
}

func (a *api) showCampaign(ctx context.Context, req *Request[None]) (Response, error) {
	c, err := a.campaignOfPath(ctx, req)
	return ok(a.seen(c)), err
}

func (a *api) listCampaignItems(ctx context.Context, req *Request[None]) (Response, error) {
	c, err := a.campaignOfPath(ctx, req)
	if err != nil {
		return Response{}, err
	}
	req.List = req.List.Where("campaign_id", c.ID)
	req.List.ProjectID = "" // an administrator's campaign has images of other projects
	return page(ctx, req, "items", a.Store.ListCampaignItems, func(i campaign.Item) string { return i.ID })
}

func (a *api) showCampaignReport(ctx context.Context, req *Request[None]) (Response, error) {
	c, err := a.campaignOfPath(ctx, req)
	if err != nil {
		return Response{}, err
	}
	r, err := a.campaigns.Report(ctx, c)
	return ok(r), err
}

// steer is a call that changes where a campaign is.
func (a *api) steer(do func(ctx context.Context, by job.By, id string) (campaign.Campaign, error)) handler[None] {
	return func(ctx context.Context, req *Request[None]) (Response, error) {
		c, err := a.campaignOfPath(ctx, req)
		if err != nil {
			return Response{}, err
		}
		if err := reachOf(req, c.ProjectID, c.Filter); err != nil {
			return Response{}, err
		}
		c, err = do(ctx, req.By, c.ID)
		return ok(a.seen(c)), err
	}
}

func (a *api) approveCampaign(ctx context.Context, req *Request[None]) (Response, error) {
	return a.steer(a.campaigns.Approve)(ctx, req)
}

func (a *api) pauseCampaign(ctx context.Context, req *Request[None]) (Response, error) {
	return a.steer(a.campaigns.Pause)(ctx, req)
}

func (a *api) resumeCampaign(ctx context.Context, req *Request[None]) (Response, error) {
	return a.steer(a.campaigns.Resume)(ctx, req)
}

func (a *api) cancelCampaign(ctx context.Context, req *Request[None]) (Response, error) {
	return a.steer(a.campaigns.Cancel)(ctx, req)
}

func (a *api) listUpgradePolicies(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "upgrade_policies", a.Store.ListUpgradePolicies, func(p campaign.Policy) string { return p.ID })
}

func reachOfChange(req *Request[campaign.PolicyChange]) error {
	if req.Body.Filter == nil {
		return nil
	}
	return reach(req, *req.Body.Filter)
}

func (a *api) createUpgradePolicy(ctx context.Context, req *Request[campaign.PolicyChange]) (Response, error) {
	if err := reachOfChange(req); err != nil {
		return Response{}, err
	}
	p, err := a.campaigns.CreatePolicy(ctx, req.By, req.Body)
	return created(upgradePolicyPath(p), p), err
}

func upgradePolicyOf[In any](ctx context.Context, a *api, req *Request[In]) (campaign.Policy, error) {
	return owned(ctx, req, "upgrade_policy", req.Param("id"), a.Store.FindUpgradePolicy, upgradePolicyProject)
}

func (a *api) showUpgradePolicy(ctx context.Context, req *Request[None]) (Response, error) {
	p, err := upgradePolicyOf(ctx, a, req)
	return ok(p), err
}

func (a *api) updateUpgradePolicy(ctx context.Context, req *Request[campaign.PolicyChange]) (Response, error) {
	p, err := upgradePolicyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	if err := reachOf(req, p.ProjectID, p.Filter); err != nil {
		return Response{}, err
	}
	if req.Body.Filter != nil {
		if err := reachOf(req, p.ProjectID, *req.Body.Filter); err != nil {
			return Response{}, err
		}
	}
	p, err = a.campaigns.UpdatePolicy(ctx, req.By, p.ID, req.Body)
	return ok(p), err
}

func (a *api) deleteUpgradePolicy(ctx context.Context, req *Request[None]) (Response, error) {
	p, err := upgradePolicyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	if err := reachOf(req, p.ProjectID, p.Filter); err != nil {
		return Response{}, err
	}
	return noContent(), a.campaigns.DeletePolicy(ctx, req.By, p)
}

// adoption names the family that an image is to begin.
type adoption struct {
	Family catalog.FamilyName `json:"family"`
}

func (adoption) mayBeEmpty() {}

func (a *api) adoptImage(ctx context.Context, req *Request[adoption]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	v, err := a.catalog.Adopt(ctx, req.By, i, req.Body.Family)
	return created(familyPath(v.Family)+"/versions/"+v.Name, v), err
}

// versionToUpgrade is the version that the body names; an image of no family is adopted first.
func (a *api) versionToUpgrade(ctx context.Context, req *Request[newUpgrade]) (catalog.Version, error) {
	b := req.Body
	v, err := versionOfBody(ctx, a, req, named{ImageID: b.ImageID, Family: b.Family, Channel: b.Channel})
	if errs.CodeOf(err) != codeNoFamily {
		if err == nil && b.AdoptInto != "" && b.AdoptInto != v.Family {
			err = errs.New(errs.Conflict, "kiln.image.adopted", "image %s is version %s already", v.ImageID, v.Label()).At(errs.Where{Field: "adopt_into"})
		}
		return v, err
	}
	i, err := a.catalog.FindImage(ctx, b.ImageID)
	if err != nil {
		return v, err
	}
	return a.catalog.Adopt(ctx, req.By, i, b.AdoptInto)
}
