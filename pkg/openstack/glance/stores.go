package glance

import (
	"context"
	"net/http"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Store is one of Glance's stores. Type and Properties are filled in where the caller is an admin.
type Store struct {
	ID          string         `json:"id"`
	Description string         `json:"description"`
	Default     bool           `json:"-"`
	Type        string         `json:"type"`
	Properties  map[string]any `json:"properties"` // pool and fsid of an rbd store, data_dir of a file store
}

// Stores lists the stores with their details
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/discovery.py, get_stores_detail).
func (c *Client) Stores(ctx context.Context) ([]Store, error) {
	var answer struct {
		Stores []struct {
			Store
			Default any `json:"default"` // Glance writes "true" or true
		} `json:"stores"`
	}
	if err := c.service.Get(ctx, "stores", "info/stores/detail", nil, &answer); err != nil {
		return nil, err
	}
	stores := make([]Store, 0, len(answer.Stores))
	for _, s := range answer.Stores {
		s.Store.Default = s.Default == true || s.Default == "true"
		stores = append(stores, s.Store)
	}
	return stores, nil
}

// CopyToStores starts a copy-image into all the stores at once. Glance runs one import of an image at a time:
// errs.Conflict for a second one. Progress is what Image tells: Stores grows, and ImportingTo gets empty
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, import_image).
func (c *Client) CopyToStores(ctx context.Context, id string, stores []string) error {
	return c.service.Do(ctx, openstack.Call{
		Operation: "copy_image", Method: http.MethodPost, Path: "images/" + openstack.Segment(id) + "/import",
		Body: map[string]any{
			"method": map[string]string{"name": "copy-image"}, "stores": stores, "all_stores_must_succeed": false,
		},
	})
}

// The properties in which Glance tells how an import goes, with store ids behind commas
// (https://docs.openstack.org/glance/zed/admin/interoperable-image-import.html).
const (
	propImporting = "os_glance_importing_to_stores"
	propFailed    = "os_glance_failed_import"
)

// Import is how a copy-image goes.
type Import struct{ Running, Failed, Done []string }

// ImportOf tells which stores an image is being copied to, which failed, and which have it.
func (c *Client) ImportOf(ctx context.Context, id string) (Import, error) {
	image, err := c.Image(ctx, id)
	if err != nil {
		return Import{}, err
	}
	return Import{Running: split(image.Properties[propImporting]), Failed: split(image.Properties[propFailed]), Done: image.Stores}, nil
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// Location is where a store has the image's bytes.
type Location struct {
	URL      string            `json:"url"` // rbd://FSID/POOL/IMAGE/SNAPSHOT
	Metadata map[string]string `json:"metadata"`
}

// Locations lists them; empty unless Glance has show_multiple_locations
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, _get_image_locations).
func (c *Client) Locations(ctx context.Context, id string) ([]Location, error) {
	var answer struct {
		Locations []Location `json:"locations"`
	}
	err := c.service.Get(ctx, "locations", "images/"+openstack.Segment(id), nil, &answer)
	return answer.Locations, err
}

// AddLocation tells Glance of a place that has the image's bytes. The same place twice is errs.Invalid
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/images.py, _do_add_locations).
func (c *Client) AddLocation(ctx context.Context, id string, l Location) error {
	if l.Metadata == nil {
		l.Metadata = map[string]string{}
	}
	return c.service.Do(ctx, openstack.Call{
		Operation: "add_location", Method: http.MethodPatch, Path: "images/" + openstack.Segment(id),
		Body:   []change{{"add", "/locations/-", l}},
		Header: map[string]string{"Content-Type": "application/openstack-images-v2.1-json-patch"},
	})
}

// CacheImage asks Glance to put an image into its own node-local cache; it does so in the background
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/cached_images.py, queue_image_from_api).
func (c *Client) CacheImage(ctx context.Context, id string) error {
	return c.service.Do(ctx, openstack.Call{Operation: "cache_image", Method: http.MethodPut, Path: "cache/" + openstack.Segment(id)})
}

// CachedImages lists the ids of the images in Glance's cache, and of those that wait for it. errs.NotFound where
// Glance has no cache.
func (c *Client) CachedImages(ctx context.Context) (cached, queued []string, err error) {
	var answer struct {
		Cached []struct {
			ID string `json:"image_id"`
		} `json:"cached_images"`
		Queued []string `json:"queued_images"`
	}
	err = c.service.Get(ctx, "cached_images", "cache", nil, &answer)
	for _, i := range answer.Cached {
		cached = append(cached, i.ID)
	}
	return cached, answer.Queued, err
}

// UncacheImage removes an image from Glance's cache.
func (c *Client) UncacheImage(ctx context.Context, id string) error {
	return c.service.Do(ctx, openstack.Call{Operation: "uncache_image", Method: http.MethodDelete, Path: "cache/" + openstack.Segment(id)})
}
