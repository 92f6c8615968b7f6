package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func (a *api) updateFamily(ctx context.Context, req *Request[catalog.FamilyChange]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	f, err = a.catalog.UpdateFamily(ctx, req.By, f, req.Body)
	return ok(f), err
}

// dryRun reads the key dry_run of the query.
func dryRun[In any](req *Request[In]) (bool, error) {
	switch req.Query.Get("dry_run") {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, errs.New(errs.Invalid, "kiln.request.query", "dry_run is true or false").At(errs.Where{Field: "dry_run"})
}

func (a *api) retainFamily(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	dry, err := dryRun(req)
	if err != nil {
		return Response{}, err
	}
	j, err := a.catalog.Retain(ctx, req.By, f, dry)
	return accepted("/v1/jobs/"+j.ID, map[string]any{"family": f.Name, "dry_run": dry, "job_id": j.ID}), err
}

// reasoned is a body that says why; it may be left out.
type reasoned struct {
	Reason string `json:"reason"`
}

func (reasoned) mayBeEmpty() {}

// noted is a body with a note; it may be left out.
type noted struct {
	Note string `json:"note"`
}

func (noted) mayBeEmpty() {}

// versionNamed finds the family and the version of the path.
func versionNamed[In any](ctx context.Context, a *api, req *Request[In]) (catalog.Family, catalog.Version, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return f, catalog.Version{}, err
	}
	v, err := versionOf(ctx, a, req, f)
	return f, v, err
}

func (a *api) revokeVersion(ctx context.Context, req *Request[reasoned]) (Response, error) {
	f, v, err := versionNamed(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	dry, err := dryRun(req)
	if err != nil {
		return Response{}, err
	}
	out, err := a.catalog.Revoke(ctx, req.By, f, v.Name, req.Body.Reason, dry)
	return ok(out), err
}

func (a *api) unrevokeVersion(ctx context.Context, req *Request[None]) (Response, error) {
	f, v, err := versionNamed(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	out, err := a.catalog.Unrevoke(ctx, req.By, f, v.Name)
	return ok(out), err
}

func (a *api) pinVersion(ctx context.Context, req *Request[noted]) (Response, error) {
	return a.pin(ctx, req, true)
}

func (a *api) unpinVersion(ctx context.Context, req *Request[noted]) (Response, error) {
	return a.pin(ctx, req, false)
}

func (a *api) pin(ctx context.Context, req *Request[noted], pinned bool) (Response, error) {
	_, v, err := versionNamed(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	v, err = a.catalog.Pin(ctx, req.By, v, pinned, req.Body.Note)
	return ok(v), err
}

type promotion struct {
	Version string `json:"version"`
	Reason  string `json:"reason"`
}

func (a *api) promoteChannel(ctx context.Context, req *Request[promotion]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	f, err = a.catalog.Promote(ctx, req.By, f, req.Param("channel"), req.Body.Version, req.Body.Reason)
	return ok(f), err
}

func (a *api) rollBackChannel(ctx context.Context, req *Request[reasoned]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	out, err := a.catalog.RollBack(ctx, req.By, f, req.Param("channel"), req.Body.Reason)
	return ok(out), err
}

func (a *api) listChannelMoves(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	req.List = req.List.Where("family_id", f.ID).Where("channel", req.Param("channel"))
	return page(ctx, req, "moves", a.Store.ListChannelMoves, func(m catalog.ChannelMove) string { return m.ID })
}

// lintImage reads the image as Glance has it now.
func (a *api) lintImage(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	report, err := a.catalog.Lint(ctx, i.ID)
	return ok(report), err
}
