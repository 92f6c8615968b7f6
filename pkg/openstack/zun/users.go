package zun

import (
	"context"
	"net/url"
	"slices"
	"strconv"
)

// UsersOfImage lists the containers of all projects whose image Zun took from Glance by this id, or by one of these
// names: Zun keeps the word that its caller said. It needs the admin role
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/containers.py, get_all).
func (c *Client) UsersOfImage(ctx context.Context, imageID string, names ...string) ([]string, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}, "all_projects": {"true"}}
	var found []string
	for {
		var page struct {
			Containers []struct {
				UUID        string `json:"uuid"`
				Image       string `json:"image"`
				ImageDriver string `json:"image_driver"`
			} `json:"containers"`
			Next string `json:"next"`
		}
		if err := c.service.Get(ctx, "containers_of_image", "containers", query, &page); err != nil {
			return nil, err
		}
		for _, k := range page.Containers {
			if k.Image == imageID || k.ImageDriver == "glance" && slices.Contains(names, k.Image) {
				found = append(found, k.UUID)
			}
		}
		if page.Next == "" || len(page.Containers) == 0 {
			return found, nil
		}
		query.Set("marker", page.Containers[len(page.Containers)-1].UUID)
	}
}
