// Package glance is what Kiln needs of OpenStack's image service; Client implements catalog.Glance.
package glance

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Client makes Glance's calls. It is safe for many goroutines.
type Client struct{ service *openstack.Service }

var _ catalog.Glance = (*Client)(nil)

// New makes a client in the project of the connection.
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{Name: "glance", Types: []string{"image"}, Version: "v2"})}
}

// ForProject is the same client in another project; "" is the user's own.
func (c *Client) ForProject(projectID string) *Client {
	return &Client{c.service.ForProject(projectID)}
}

// Image finds an image; errs.NotFound for none.
func (c *Client) Image(ctx context.Context, id string) (catalog.GlanceImage, error) {
	var r record
	if err := c.service.Get(ctx, "image", "images/"+openstack.Segment(id), nil, &r); err != nil {
		return catalog.GlanceImage{}, err
	}
	return r.image()
}

// pageSize is below the api_limit_max of 1000 that Glance has by default.
const pageSize = 500

// Images lists the images that match the filter, hidden ones included where os_hidden is not in the filter:
// Glance itself shows either the visible or the hidden ones
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, _get_filters).
func (c *Client) Images(ctx context.Context, filter map[string]string) ([]catalog.GlanceImage, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}, "sort": {"created_at:asc,id:asc"}}
	for name, value := range filter {
		query.Set(name, value)
	}
	if query.Has("os_hidden") {
		return c.list(ctx, query)
	}
	query.Set("os_hidden", "false")
	images, err := c.list(ctx, query)
	if err != nil {
		return nil, err
	}
	query.Set("os_hidden", "true")
	hidden, err := c.list(ctx, query)
	if err != nil {
		return nil, err
	}
	for _, h := range hidden { // one may have been hidden between the two lists
		if !slices.ContainsFunc(images, func(i catalog.GlanceImage) bool { return i.ID == h.ID }) {
			images = append(images, h)
		}
	}
	return images, nil
}

func (c *Client) list(ctx context.Context, query url.Values) ([]catalog.GlanceImage, error) {
	var images []catalog.GlanceImage
	for {
		var page struct {
			Images []record `json:"images"`
			Next   string   `json:"next"`
		}
		if err := c.service.Get(ctx, "images", "images", query, &page); err != nil {
			return nil, err
		}
		for _, r := range page.Images {
			image, err := r.image()
			if err != nil {
				return nil, err
			}
			images = append(images, image)
		}
		if page.Next == "" || len(page.Images) == 0 {
			return images, nil
		}
		query.Set("marker", images[len(images)-1].ID)
	}
}

// CreateImage makes the record that Upload fills. An id that is taken is errs.Conflict: with the code
// kiln.glance.conflict where the image is there, kiln.glance.id_used where it was deleted, since Glance keeps the
// ids of deleted images for ever.
func (c *Client) CreateImage(ctx context.Context, n catalog.NewGlanceImage) (catalog.GlanceImage, error) {
	body := map[string]any{}
	for name, value := range n.Properties {
		body[name] = value
	}
	for name, value := range map[string]string{
		"id": n.ID, "name": n.Name, "disk_format": n.DiskFormat, "container_format": n.ContainerFormat,
		"owner": n.Owner, "visibility": n.Visibility,
	} {
		if value != "" {
			body[name] = value
		}
	}
	if n.MinDiskGiB > 0 {
		body["min_disk"] = n.MinDiskGiB
	}
	if n.MinRAMMiB > 0 {
		body["min_ram"] = n.MinRAMMiB
	}
	if len(n.Tags) > 0 {
		body["tags"] = n.Tags
	}
	var r record
	err := c.service.Do(ctx, openstack.Call{Operation: "create_image", Method: http.MethodPost, Path: "images", Body: body, Out: &r})
	if errs.Is(err, errs.Conflict) && n.ID != "" {
		if _, findErr := c.Image(ctx, n.ID); errs.Is(findErr, errs.NotFound) {
			return catalog.GlanceImage{}, errs.Wrap(err, errs.Conflict, "kiln.glance.id_used",
				"the image id %s belonged to an image that was deleted: take a new id", n.ID)
		}
	}
	if err != nil {
		return catalog.GlanceImage{}, err
	}
	return r.image()
}

// PatchImage changes the record and answers the new one.
func (c *Client) PatchImage(ctx context.Context, id string, p catalog.GlancePatch) (catalog.GlanceImage, error) {
	now, err := c.Image(ctx, id)
	if err != nil {
		return catalog.GlanceImage{}, err
	}
	changes := patch(now, p)
	if len(changes) == 0 {
		return now, nil
	}
	var r record
	err = c.service.Do(ctx, openstack.Call{
		Operation: "patch_image", Method: http.MethodPatch, Path: "images/" + openstack.Segment(id), Body: changes, Out: &r,
		Header: map[string]string{"Content-Type": "application/openstack-images-v2.1-json-patch"},
	})
	if err != nil {
		return catalog.GlanceImage{}, err
	}
	return r.image()
}

// Deactivate lets nobody but administrators read the bytes, so that no server starts from the image; again is no error.
// It needs the admin role. errs.Forbidden where the image is not active yet
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/image_actions.py).
func (c *Client) Deactivate(ctx context.Context, id string) error {
	return c.act(ctx, id, "deactivate")
}

// Reactivate takes Deactivate back; again is no error.
func (c *Client) Reactivate(ctx context.Context, id string) error {
	return c.act(ctx, id, "reactivate")
}

func (c *Client) act(ctx context.Context, id, action string) error {
	return c.service.Read(ctx, openstack.Call{
		Operation: action + "_image", Method: http.MethodPost, Path: "images/" + openstack.Segment(id) + "/actions/" + action,
	})
}

type change struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch names the changes. "add" also replaces a property, "remove" and "replace" fail where there is none
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, _do_add, _do_remove).
func patch(now catalog.GlanceImage, p catalog.GlancePatch) []change {
	var changes []change
	if p.Hidden != nil && *p.Hidden != now.Hidden {
		changes = append(changes, change{"replace", "/os_hidden", *p.Hidden})
	}
	if p.Visibility != nil && *p.Visibility != now.Visibility {
		changes = append(changes, change{"replace", "/visibility", *p.Visibility})
	}
	if p.Protected != nil && *p.Protected != now.Protected {
		changes = append(changes, change{"replace", "/protected", *p.Protected})
	}
	for name, value := range p.Properties {
		have, there := now.Properties[name]
		path := "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		switch {
		case value == "" && there:
			changes = append(changes, change{Op: "remove", Path: path})
		case value == "" || there && have == value:
		default:
			changes = append(changes, change{"add", path, value})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.Path, b.Path) })
	return changes
}

// DeleteImage removes the image, and tries again where Glance is away or meets a store that is busy with the image
// (500); errs.NotFound for none, errs.Conflict where it is in use, errs.Forbidden where it is protected.
func (c *Client) DeleteImage(ctx context.Context, id string) error {
	return c.service.Read(ctx, openstack.Call{Operation: "delete_image", Method: http.MethodDelete, Path: "images/" + openstack.Segment(id)})
}
