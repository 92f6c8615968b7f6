package api

import (
	"context"
	"encoding/json"
	"net/url"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func clusterProject(cache.Cluster) string { return "" }

func (a *api) listClusters(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "clusters", a.Store.ListClusters, func(c cache.Cluster) string { return c.ID })
}

func (a *api) createCluster(ctx context.Context, req *Request[cache.NewCluster]) (Response, error) {
	c, err := a.cache.CreateCluster(ctx, req.By, req.Body)
	return created("/v1/clusters/"+c.Name, c), err
}

func (a *api) showCluster(ctx context.Context, req *Request[None]) (Response, error) {
	c, err := owned(ctx, req, "cluster", req.Param("name"), a.Store.FindCluster, clusterProject)
	return ok(c), err
}

func (a *api) updateCluster(ctx context.Context, req *Request[cache.Change]) (Response, error) {
	c, err := a.cache.UpdateCluster(ctx, req.By, req.Param("name"), req.Body)
	return ok(c), err
}

func (a *api) deleteCluster(ctx context.Context, req *Request[None]) (Response, error) {
	return noContent(), a.cache.DeleteCluster(ctx, req.By, req.Param("name"))
}

// listCopies shows copies of one image of the project. Copies stand in clusters, which are the cloud's, so that
// only those who see every project see all of them.
func (a *api) listCopies(ctx context.Context, req *Request[None]) (Response, error) {
	if req.List.ProjectID != "" {
		id := req.Query.Get("image_id")
		if id == "" {
			return Response{}, errs.New(errs.Invalid, "kiln.copy.image", "name the image whose copies you want; all copies need all_projects=true").
				At(errs.Where{Field: "image_id"})
		}
		if _, err := owned(ctx, req, "image", id, a.catalog.FindImage, imageProject); err != nil {
			return Response{}, inBody(err, "image_id")
		}
	}
	req.List.ProjectID = "" // the rows have none
	return page(ctx, req, "copies", a.Store.ListCopies, func(p cache.Copy) string { return p.ID })
}

// newCopies names an image as named does, and where its copies shall be.
type newCopies struct {
	ImageID string             `json:"image_id"`
	Family  catalog.FamilyName `json:"family"`
	Channel string             `json:"channel"`
	Cluster string             `json:"cluster"`
	Nodes   nodes              `json:"nodes"`
}

// nodes is a list of names, or the text "all".
type nodes struct {
	all   bool
	names []string
}

// UnmarshalJSON reads both forms.
func (n *nodes) UnmarshalJSON(data []byte) error {
	var word string
	if err := json.Unmarshal(data, &word); err == nil && (word == "all" || string(data) == "null") {
		n.all = word == "all"
		return nil
	}
	if err := json.Unmarshal(data, &n.names); err != nil {
		return errs.New(errs.Invalid, "kiln.request.type", `nodes is a list of names, or "all"`).At(errs.Where{Field: "nodes"})
	}
	return nil
}

func (a *api) createCopies(ctx context.Context, req *Request[newCopies]) (Response, error) {
	i, err := a.imageOfBody(ctx, req)
	if err != nil {
		return Response{}, err
	}
	copies, err := a.cache.WarmUp(ctx, req.By, cache.Wanted{
		ImageID: i.ID, ProjectID: i.ProjectID, Cluster: req.Body.Cluster, Nodes: req.Body.Nodes.names, AllNodes: req.Body.Nodes.all,
	})
	where := url.Values{"image_id": {i.ID}, "cluster": {req.Body.Cluster}}
	return accepted("/v1/copies?"+where.Encode(), map[string]any{"copies": copies}), err
}

func (a *api) imageOfBody(ctx context.Context, req *Request[newCopies]) (catalog.Image, error) {
	n := named{ImageID: req.Body.ImageID, Family: req.Body.Family, Channel: req.Body.Channel}
	if err := n.check(); err != nil {
		return catalog.Image{}, err
	}
	if req.Body.Cluster == "" {
		return catalog.Image{}, errs.New(errs.Invalid, "kiln.cluster.not_found", "name the cluster").At(errs.Where{Field: "cluster"})
	}
	if n.Family == "" {
		i, err := owned(ctx, req, "image", n.ImageID, a.catalog.FindImage, imageProject)
		return i, inBody(err, "image_id")
	}
	v, _, err := catalog.Resolve(ctx, a.Store, req.Caller.ProjectID, n.Family, n.Channel)
	return catalog.Image{ID: v.ImageID, ProjectID: v.ProjectID}, inBody(err, "family")
}

// copyOf finds a copy and the project of its image. A copy of an image that Kiln does not know any more belongs
// to no project: only the administrator acts on it.
func (a *api) copyOf(ctx context.Context, req *Request[None]) (cache.Copy, string, error) {
	project := ""
	find := func(ctx context.Context, id string) (cache.Copy, error) {
		p, err := a.Store.FindCopy(ctx, id)
		if err != nil {
			return p, err
		}
		i, err := a.catalog.FindImage(ctx, p.ImageID)
		project = i.ProjectID
		if errs.Is(err, errs.NotFound) {
			err = nil
		}
		return p, err
	}
	p, err := owned(ctx, req, "copy", req.Param("id"), find, func(cache.Copy) string { return project })
	return p, project, err
}

func (a *api) showCopy(ctx context.Context, req *Request[None]) (Response, error) {
	p, _, err := a.copyOf(ctx, req)
	return ok(p), err
}

func (a *api) deleteCopy(ctx context.Context, req *Request[None]) (Response, error) {
	p, project, err := a.copyOf(ctx, req)
	if err != nil {
		return Response{}, err
	}
	p, err = a.cache.Evict(ctx, req.By, p.ID, project)
	return accepted("/v1/copies/"+p.ID, p), err
}
