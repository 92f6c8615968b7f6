package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

func planProject(p upgrade.Plan) string { return p.ProjectID }

// newPlan names images in one of three ways: by their ids, by a family and a channel, or all that the project has.
type newPlan struct {
	ImageIDs []string           `json:"image_ids"`
	Family   catalog.FamilyName `json:"family"`
	Channel  string             `json:"channel"`
	All      bool               `json:"all"`
	Policy   upgrade.Policy     `json:"policy"`
}

// planUpgrades answers with the job; the plans are seen once it ended.
func (a *api) planUpgrades(ctx context.Context, req *Request[newPlan]) (Response, error) {
	ids, err := a.imagesToPlan(ctx, req)
	if err != nil {
		return Response{}, err
	}
	j, err := a.plans.Request(ctx, req.By, ids, req.Body.Policy)
	return accepted("/v1/jobs/"+j.ID, j), err
}

func (a *api) imagesToPlan(ctx context.Context, req *Request[newPlan]) ([]string, error) {
	b := req.Body
	ways := 0
	for _, named := range []bool{len(b.ImageIDs) > 0, b.Family != "", b.All} {
		if named {
			ways++
		}
	}
	switch {
	case ways != 1, b.Channel != "" && b.Family == "":
		return nil, errs.New(errs.Invalid, "kiln.request.image", "name images by image_ids, or by family and channel, or ask for all").At(errs.Where{Field: "image_ids"})
	case b.Family != "":
		v, _, err := catalog.Resolve(ctx, a.Store, req.Caller.ProjectID, b.Family, b.Channel)
		return []string{v.ImageID}, inBody(err, "family")
	case b.All:
		return a.inspectedImages(ctx, req.Caller.ProjectID)
	}
	for _, id := range b.ImageIDs {
		if _, err := owned(ctx, req, "image", id, a.Store.FindImage, imageProject); err != nil {
			return nil, inBody(err, "image_ids")
		}
	}
	return b.ImageIDs, nil
}

// inspectedImages are the project's images that have facts; superseded and revoked versions are nobody's to upgrade.
func (a *api) inspectedImages(ctx context.Context, projectID string) ([]string, error) {
	q := listing.All().Where("state", string(catalog.Inspected))
	q.ProjectID = projectID
	var ids []string
	for img, err := range listing.Rows(ctx, q, a.Store.ListImages, func(i catalog.Image) string { return i.ID }) {
		if err != nil {
			return nil, err
		}
		v, err := a.Store.VersionByImage(ctx, img.ID)
		switch {
		case errs.Is(err, errs.NotFound), err == nil && v.State == catalog.Published:
			ids = append(ids, img.ID)
		case err != nil:
			return nil, err
		}
	}
	return ids, nil
}

func (a *api) listPlans(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "plans", a.Store.ListPlans, func(p upgrade.Plan) string { return p.ImageID })
}

func (a *api) showPlan(ctx context.Context, req *Request[None]) (Response, error) {
	p, err := owned(ctx, req, "plan", req.Param("id"), a.Store.FindPlan, planProject)
	return ok(p), err
}
