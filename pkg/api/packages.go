package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// listPackages tells which images have a package, or lack a fix.
func (a *api) listPackages(ctx context.Context, req *Request[None]) (Response, error) {
	f := req.List.Filter
	q := advisory.Question{Name: f["name"], Source: f["source"], CVE: f["cve"], Advisory: f["advisory"]}
	if v, ok := f["version"]; ok {
		var err error
		if q.Op, q.Version, err = advisory.ParseVersion(v); err != nil {
			return Response{}, err
		}
	}
	if err := q.Check(); err != nil {
		return Response{}, err
	}
	find := func(ctx context.Context, l listing.Query) ([]advisory.Holding, error) {
		q.ProjectID, q.Marker, q.Limit = l.ProjectID, l.Marker, l.Limit
		return a.Store.Holdings(ctx, q)
	}
	return page(ctx, req, "packages", find, func(h advisory.Holding) string { return h.ID })
}

// showCVE tells how many images lack a fix of the CVE, and which versions have one.
func (a *api) showCVE(ctx context.Context, req *Request[None]) (Response, error) {
	project := req.Caller.ProjectID
	switch all := req.Query.Get("all_projects"); {
	case all != "" && all != "true" && all != "false":
		return Response{}, errs.New(errs.Invalid, "kiln.request.query", "all_projects is true or false").At(errs.Where{Field: "all_projects"})
	case all == "true" || project == "":
		if err := req.enforce(policy.AllProjects, ""); err != nil {
			return Response{}, err
		}
		project = ""
	}
	k, err := a.Store.KnownCVE(ctx, project, req.Param("id"))
	return ok(k), err
}
