package nova

import (
	"context"
	"net/url"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// ImagesInUse counts the servers of all projects by the image that they were made from, whatever their state. A server
// that boots from a volume has none: see cinder's. It needs the admin role
// (https://docs.openstack.org/api-ref/compute/#list-servers-detailed).
func (c *Client) ImagesInUse(ctx context.Context) (map[string]int, error) {
	query := url.Values{"all_tenants": {"1"}, "limit": {strconv.Itoa(pageSize)}}
	out := map[string]int{}
	for {
		var page struct {
			Servers []struct {
				ID    string `json:"id"`
				Image any    `json:"image"`
			} `json:"servers"`
			Links []struct{ Rel string } `json:"servers_links"`
		}
		if err := c.service.Get(ctx, "servers_by_image", "servers/detail", query, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Servers {
			if s.ID == "" {
				return nil, errs.New(errs.Unavailable, "kiln.nova.answer", "nova gave a server without an id")
			}
			image, _ := s.Image.(map[string]any)
			if id, _ := image["id"].(string); id != "" {
				out[id]++
			}
		}
		if len(page.Links) == 0 || len(page.Servers) == 0 {
			return out, nil
		}
		query.Set("marker", page.Servers[len(page.Servers)-1].ID)
	}
}
