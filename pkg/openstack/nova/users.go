package nova

import (
	"context"
	"net/url"
	"slices"
	"strconv"
)

// maxUsers bounds what UsersOfImage lists: one is enough to keep an image.
const maxUsers = 100

// UsersOfImage lists servers of all projects that were made from the image, up to 100, those that were deleted softly
// and may come back included. A server that boots from a volume made from it is not among them: Nova keeps no
// image of it, the volume does. It needs the admin role
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/api/openstack/compute/servers.py, _get_servers).
func (c *Client) UsersOfImage(ctx context.Context, imageID string, _ ...string) ([]string, error) {
	var found []string
	for _, status := range []string{"", "SOFT_DELETED"} {
		query := url.Values{"all_tenants": {"1"}, "image": {imageID}, "limit": {strconv.Itoa(maxUsers)}}
		if status != "" {
			query.Set("status", status)
		}
		var page struct {
			Servers []struct {
				ID    string `json:"id"`
				Image any    `json:"image"`
			} `json:"servers"`
		}
		if err := c.service.Get(ctx, "servers_of_image", "servers/detail", query, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Servers {
			image, _ := s.Image.(map[string]any) // "" for one that boots from a volume
			if image["id"] == imageID && !slices.Contains(found, s.ID) {
				found = append(found, s.ID)
			}
		}
	}
	return found, nil
}
