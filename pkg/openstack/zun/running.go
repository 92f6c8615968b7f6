package zun

import "context"

// ImagesInUse counts the containers of all projects that were made from an image of Glance, by the word that their
// caller said: its id or its name. It needs the admin role; see UsersOfImage.
func (c *Client) ImagesInUse(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	return out, each(ctx, c.service, "containers_by_image", ofAll(), func(k container) {
		if k.ImageDriver == "glance" && k.Image != "" {
			out[k.Image]++
		}
	})
}
