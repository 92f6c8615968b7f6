package glance

import (
	"context"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/errs"
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

// AddMember lets a project use a shared image by its id; no error where it is a member already. errs.Forbidden for an
// image that is not shared (https://docs.openstack.org/api-ref/image/v2/#create-image-member).
func (c *Client) AddMember(ctx context.Context, imageID, projectID string) error {
	err := c.service.Do(ctx, openstack.Call{
		Operation: "add_member", Method: http.MethodPost, Path: "images/" + openstack.Segment(imageID) + "/members",
		Body: map[string]any{"member": projectID},
	})
	if errs.Is(err, errs.Conflict) {
		return nil
	}
	return err
}

// RemoveMember takes a project's use of an image back; no error where it is no member, or the image is gone.
func (c *Client) RemoveMember(ctx context.Context, imageID, projectID string) error {
	err := c.service.Do(ctx, openstack.Call{
		Operation: "remove_member", Method: http.MethodDelete,
		Path: "images/" + openstack.Segment(imageID) + "/members/" + openstack.Segment(projectID),
	})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}
