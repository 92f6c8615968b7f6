package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/placement"
)

func nodeProject(placement.Node) string           { return "" }
func workloadProject(w placement.Workload) string { return w.ProjectID }

func (a *api) listNodes(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "nodes", a.Store.ListNodes, func(n placement.Node) string { return n.Name })
}

func (a *api) showNode(ctx context.Context, req *Request[None]) (Response, error) {
	n, err := owned(ctx, req, "node", req.Param("name"), a.Store.FindNode, nodeProject)
	return ok(n), err
}

func (a *api) listWorkloads(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "workloads", a.Store.ListWorkloads, func(w placement.Workload) string { return w.ID })
}

// createWorkload starts a workload. An image that is named by its id is Glance's to judge when the workload
// starts: public and shared images are not only those of the project.
func (a *api) createWorkload(ctx context.Context, req *Request[placement.NewWorkload]) (Response, error) {
	w, err := a.placement.CreateWorkload(ctx, req.By, req.Body)
	return accepted("/v1/workloads/"+w.ID, w), err
}

func (a *api) showWorkload(ctx context.Context, req *Request[None]) (Response, error) {
	w, err := owned(ctx, req, "workload", req.Param("id"), a.Store.FindWorkload, workloadProject)
	return ok(w), err
}

func (a *api) deleteWorkload(ctx context.Context, req *Request[None]) (Response, error) {
	w, err := owned(ctx, req, "workload", req.Param("id"), a.Store.FindWorkload, workloadProject)
	if err != nil {
		return Response{}, err
	}
	w, err = a.placement.DeleteWorkload(ctx, req.By, w.ID)
	return accepted("/v1/workloads/"+w.ID, w), err
}

func (a *api) listClaims(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "claims", a.Store.ListClaims, func(c placement.Claim) string { return c.ID })
}
