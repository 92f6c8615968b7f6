package cinder

import (
	"context"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
)

// ImagesInUse counts the servers of all projects that boot from a volume, by the image that its bytes came from. See
// UsersOfImage.
func (c *Client) ImagesInUse(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	return out, c.each(ctx, func(v volumes.Volume) {
		if id := v.VolumeImageMetadata["image_id"]; id != "" && v.Bootable == "true" && len(v.Attachments) > 0 {
			out[id] += len(v.Attachments)
		}
	})
}
