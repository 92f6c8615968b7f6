package cinder

import (
	"context"
	"net/url"
	"strconv"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// ImagesInUse counts the servers of all projects that boot from a volume, by the image that its bytes came from. See
// UsersOfImage.
func (c *Client) ImagesInUse(ctx context.Context) (map[string]int, error) {
	query := url.Values{"all_tenants": {"1"}, "limit": {strconv.Itoa(pageSize)}}
	out := map[string]int{}
	for {
		var page struct {
			Volumes []volumes.Volume       `json:"volumes"`
			Links   []struct{ Rel string } `json:"volumes_links"`
		}
		if err := c.service.Get(ctx, "volumes", "volumes/detail", query, &page); err != nil {
			return nil, err
		}
		for _, v := range page.Volumes {
			if v.ID == "" {
				return nil, errs.New(errs.Unavailable, "kiln.cinder.answer", "cinder gave a volume without an id")
			}
			if id := v.VolumeImageMetadata["image_id"]; id != "" && v.Bootable == "true" && len(v.Attachments) > 0 {
				out[id] += len(v.Attachments)
			}
		}
		if len(page.Links) == 0 || len(page.Volumes) == 0 {
			return out, nil
		}
		query.Set("marker", page.Volumes[len(page.Volumes)-1].ID)
	}
}
