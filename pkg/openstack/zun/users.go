package zun

import (
	"context"
	"net/url"
	"slices"
)

// UsersOfImage lists the containers of all projects whose image Zun took from Glance by this id, or by one of these
// names: Zun keeps the word that its caller said. It needs the admin role
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/containers.py, get_all).
func (c *Client) UsersOfImage(ctx context.Context, imageID string, names ...string) (found []string, err error) {
	err = each(ctx, c.service, "containers_by_image", ofAll(), func(k container) {
		if k.Image == imageID || k.ImageDriver == "glance" && slices.Contains(names, k.Image) {
			found = append(found, k.UUID)
		}
	})
	return found, err
}

// ofAll asks for the containers of all projects.
func ofAll() url.Values { return url.Values{"all_projects": {"true"}} }
