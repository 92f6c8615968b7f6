package glance

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Members are the projects that a shared image's owner named, whether they accepted it or not: Glance lets all of
// them use the image by its id
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/db/sqlalchemy/api.py, is_image_visible).
func (c *Client) Members(ctx context.Context, imageID string) ([]string, error) {
	var out struct {
		Members []struct {
			MemberID string `json:"member_id"`
		} `json:"members"`
	}
	if err := c.service.Get(ctx, "members", "images/"+openstack.Segment(imageID)+"/members", nil, &out); err != nil {
		return nil, err
	}
	ids := make([]string, len(out.Members))
	for i, m := range out.Members {
		ids[i] = m.MemberID
	}
	return ids, nil
}
