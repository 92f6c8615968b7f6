package zun

import (
	"context"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Image is a container image that Zun pulled, or was asked to pull, onto one host.
type Image struct {
	UUID    string `json:"uuid"`
	ImageID string `json:"image_id"` // "" until it is there
	Repo    string `json:"repo"`
	Tag     string `json:"tag"`
	Size    string `json:"size"`
	Host    string `json:"host"`
}

// Pulled reports whether the image is on the host. A pull that failed leaves the row as it was for ever.
func (i Image) Pulled() bool { return i.ImageID != "" && i.Size != "" }

// Pull asks a host to pull an image in the background; errs.Conflict where it was asked before
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/images.py, post).
func (c *Client) Pull(ctx context.Context, repo, host string) (Image, error) {
	var i Image
	err := c.service.Do(ctx, openstack.Call{
		Operation: "pull_image", Method: http.MethodPost, Path: "images", Body: map[string]string{"repo": repo, "host": host}, Out: &i,
	})
	return i, err
}

// Image finds what Pull made; errs.NotFound for none.
func (c *Client) Image(ctx context.Context, uuid string) (Image, error) {
	var i Image
	err := c.service.Get(ctx, "image", "images/"+openstack.Segment(uuid), nil, &i)
	return i, err
}

// DeleteImage removes a pulled image from Zun and from its host.
func (c *Client) DeleteImage(ctx context.Context, uuid string) error {
	return c.service.Do(ctx, openstack.Call{Operation: "delete_image", Method: http.MethodDelete, Path: "images/" + openstack.Segment(uuid)})
}
