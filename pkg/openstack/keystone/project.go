package keystone

import (
	"context"
	"net/url"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// FindProject gives the id of a project by its id or its name; errs.NotFound for none, errs.Conflict where several
// domains have one of that name.
func (c *Client) FindProject(ctx context.Context, idOrName string) (string, error) {
	var one struct {
		Project Ref `json:"project"`
	}
	err := c.service.Get(ctx, "project", "projects/"+openstack.Segment(idOrName), nil, &one)
	if err == nil || !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Forbidden) {
		return one.Project.ID, err
	}
	var many struct {
		Projects []Ref `json:"projects"`
	}
	if err := c.service.Get(ctx, "projects", "projects", url.Values{"name": {idOrName}}, &many); err != nil {
		return "", err
	}
	switch len(many.Projects) {
	case 0:
		return "", errs.New(errs.NotFound, "kiln.keystone.not_found", "keystone has no project %q", idOrName)
	case 1:
		return many.Projects[0].ID, nil
	}
	return "", errs.New(errs.Conflict, "kiln.keystone.ambiguous", "%d domains have a project %q: use its id", len(many.Projects), idOrName)
}
