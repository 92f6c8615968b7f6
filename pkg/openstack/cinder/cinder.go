// Package cinder is what Kiln needs of OpenStack's block storage service: which volumes were made from an image.
package cinder

import (
	"context"
	"net/url"
	"strconv"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Client makes Cinder's calls. It is safe for many goroutines.
type Client struct{ service *openstack.Service }

// New makes a client. The endpoint is taken as the catalog has it: since microversion 3.67 the project's id need not
// stand in it (https://docs.openstack.org/cinder/zed/contributor/api_microversion_history.html).
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{Name: "cinder", Types: []string{"block-storage", "volumev3", "volume"}})}
}

// pageSize is Cinder's default osapi_max_limit.
const pageSize = 1000

// UsersOfImage lists the volumes of all projects whose bytes came from the image. It reads all volumes, because Cinder
// filters by what it keeps of the image only where its operator let it (resource_filters.json). It needs the admin
// role. A cloud without a volume service has none: errs.Unavailable kiln.cinder.no_endpoint
// (https://docs.openstack.org/api-ref/block-storage/v3/#list-accessible-volumes-with-details).
func (c *Client) UsersOfImage(ctx context.Context, imageID string, _ ...string) (found []string, err error) {
	err = c.each(ctx, func(v volumes.Volume) {
		if v.VolumeImageMetadata["image_id"] == imageID {
			found = append(found, v.ID)
		}
	})
	return found, err
}

// each shows every volume of all projects.
func (c *Client) each(ctx context.Context, see func(volumes.Volume)) error {
	query := url.Values{"all_tenants": {"1"}, "limit": {strconv.Itoa(pageSize)}}
	for {
		var page struct {
			Volumes []volumes.Volume       `json:"volumes"`
			Links   []struct{ Rel string } `json:"volumes_links"`
		}
		if err := c.service.Get(ctx, "volumes", "volumes/detail", query, &page); err != nil {
			return err
		}
		for _, v := range page.Volumes {
			if v.ID == "" {
				return errs.New(errs.Unavailable, "kiln.cinder.answer", "cinder gave a volume without an id")
			}
			see(v)
		}
		if len(page.Links) == 0 || len(page.Volumes) == 0 {
			return nil
		}
		query.Set("marker", page.Volumes[len(page.Volumes)-1].ID)
	}
}
