package zun

import (
	"context"
	"net/url"
	"strconv"
)

// ImagesInUse counts the containers of all projects that were made from an image of Glance, by the word that their
// caller said: its id or its name. It needs the admin role; see UsersOfImage.
func (c *Client) ImagesInUse(ctx context.Context) (map[string]int, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}, "all_projects": {"true"}}
	out := map[string]int{}
	for {
		var page struct {
			Containers []struct {
				UUID        string `json:"uuid"`
				Image       string `json:"image"`
				ImageDriver string `json:"image_driver"`
			} `json:"containers"`
			Next string `json:"next"`
		}
		if err := c.service.Get(ctx, "containers_by_image", "containers", query, &page); err != nil {
			return nil, err
		}
		for _, k := range page.Containers {
			if k.ImageDriver == "glance" && k.Image != "" {
				out[k.Image]++
			}
		}
		if page.Next == "" || len(page.Containers) == 0 {
			return out, nil
		}
		query.Set("marker", page.Containers[len(page.Containers)-1].UUID)
	}
}
