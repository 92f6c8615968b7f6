package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

func imageProject(i catalog.Image) string      { return i.ProjectID }
func familyProject(f catalog.Family) string    { return f.ProjectID }
func upgradeProject(u upgrade.Upgrade) string  { return u.ProjectID }
func versionProject(v catalog.Version) string  { return v.ProjectID }
func advisoryProject(advisory.Advisory) string { return "" }
func familyPath(f catalog.FamilyName) string   { return "/v1/families/" + string(f) }
func versionKey(v catalog.Version) string      { return v.ID }

func (a *api) listFamilies(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "families", a.Store.ListFamilies, func(f catalog.Family) string { return f.ID })
}

type newFamily struct {
	Name        catalog.FamilyName `json:"name"`
	Description string             `json:"description"`
}

func (a *api) createFamily(ctx context.Context, req *Request[newFamily]) (Response, error) {
	f, err := a.catalog.CreateFamily(ctx, req.By, req.Body.Name, req.Body.Description)
	return created(familyPath(f.Name), f), err
}

// familyOf finds the family of the path in the caller's project: names are of a project.
func familyOf[In any](ctx context.Context, a *api, req *Request[In]) (catalog.Family, error) {
	find := func(ctx context.Context, name string) (catalog.Family, error) {
		return a.Store.FindFamily(ctx, req.Caller.ProjectID, catalog.FamilyName(name))
	}
	return owned(ctx, req, "family", req.Param("name"), find, familyProject)
}

func (a *api) showFamily(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	return ok(f), err
}

func (a *api) listVersions(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	req.List = req.List.Where("family_id", f.ID)
	return page(ctx, req, "versions", a.Store.ListVersions, versionKey)
}

func (a *api) showVersionOfFamily(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	v, err := versionOf(ctx, a, req, f)
	return ok(v), err
}

func versionOf[In any](ctx context.Context, a *api, req *Request[In], f catalog.Family) (catalog.Version, error) {
	find := func(ctx context.Context, name string) (catalog.Version, error) {
		return a.Store.FindVersion(ctx, f.ID, name)
	}
	return owned(ctx, req, "version", req.Param("version"), find, versionProject)
}

func (a *api) listImages(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "images", a.Store.ListImages, func(i catalog.Image) string { return i.ID })
}

func (a *api) showImage(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	return ok(i), err
}

func (a *api) inspectImage(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	out, err := a.catalog.Inspect(ctx, req.By, i)
	return accepted("/v1/images/"+i.ID, out), err
}

// listImageAdvisories tells what was found pending when the image was last compared; GET /v1/images/{id} tells when.
func (a *api) listImageAdvisories(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	pending, err := a.Store.ListPending(ctx, i.ID)
	return ok(map[string]any{"pending": pending}), err
}

func (a *api) listAdvisories(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "advisories", a.Store.ListAdvisories, func(v advisory.Advisory) string { return v.ID })
}

func (a *api) showAdvisory(ctx context.Context, req *Request[None]) (Response, error) {
	v, err := owned(ctx, req, "advisory", req.Param("id"), a.Store.FindAdvisory, advisoryProject)
	return ok(v), err
}

func (a *api) refreshAdvisories(ctx context.Context, req *Request[None]) (Response, error) {
	j, err := a.advisory.Refresh(ctx, req.By)
	return accepted("/v1/jobs/"+j.ID, map[string]any{"job_id": j.ID, "state": j.State}), err
}

func (a *api) listUpgrades(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "upgrades", a.Store.ListUpgrades, func(u upgrade.Upgrade) string { return u.ID })
}

// named is a version: by its Glance image, or by its family and a channel or version of it.
type named struct {
	ImageID string             `json:"image_id"`
	Family  catalog.FamilyName `json:"family"`
	Channel string             `json:"channel"`
}

func (n named) check() error {
	if (n.ImageID == "") == (n.Family == "") || n.ImageID != "" && n.Channel != "" {
		return errs.New(errs.Invalid, "kiln.request.image", "name an image by image_id, or by family and channel").At(errs.Where{Field: "image_id"})
	}
	return nil
}

// newUpgrade names a version as named does, and says how it is upgraded.
type newUpgrade struct {
	ImageID string             `json:"image_id"`
	Family  catalog.FamilyName `json:"family"`
	Channel string             `json:"channel"`
	Policy  upgrade.Policy     `json:"policy"`
	// AdoptInto names the family of an image that has none; made of the image's name where it is left out.
	AdoptInto catalog.FamilyName `json:"adopt_into"`
}

// codeNoFamily is the code of the refusal of an image that is no version.
const codeNoFamily = "kiln.image.no_family"

func (a *api) createUpgrade(ctx context.Context, req *Request[newUpgrade]) (Response, error) {
	if err := req.Body.Policy.Check(); err != nil { // before an image is adopted
		return Response{}, err
	}
	v, err := a.versionToUpgrade(ctx, req)
	if err != nil {
		return Response{}, err
	}
	u, err := a.upgrades.Request(ctx, req.By, v, upgrade.Wish{Policy: req.Body.Policy})
	return accepted("/v1/upgrades/"+u.ID, u), err
}

func versionOfBody[In any](ctx context.Context, a *api, req *Request[In], n named) (catalog.Version, error) {
	if err := n.check(); err != nil {
		return catalog.Version{}, err
	}
	if n.Family != "" {
		v, _, err := catalog.Resolve(ctx, a.Store, req.Caller.ProjectID, n.Family, n.Channel)
		return v, inBody(err, "family")
	}
	if _, err := owned(ctx, req, "image", n.ImageID, a.catalog.FindImage, imageProject); err != nil {
		return catalog.Version{}, inBody(err, "image_id")
	}
	v, err := a.Store.VersionByImage(ctx, n.ImageID)
	if errs.Is(err, errs.NotFound) {
		return v, errs.New(errs.Conflict, codeNoFamily, "image %s is no version of a family: only versions are upgraded", n.ImageID)
	}
	return v, err
}

func (a *api) showUpgrade(ctx context.Context, req *Request[None]) (Response, error) {
	u, err := owned(ctx, req, "upgrade", req.Param("id"), a.Store.FindUpgrade, upgradeProject)
	return ok(u), err
}
