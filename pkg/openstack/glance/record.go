package glance

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// record is an image as Glance writes it: base attributes and additional properties side by side
// (https://docs.openstack.org/api-ref/image/v2/#show-image).
type record map[string]any

// base is the attributes that are no additional properties.
var base = map[string]bool{
	"id": true, "name": true, "status": true, "visibility": true, "protected": true, "checksum": true, "owner": true,
	"size": true, "virtual_size": true, "container_format": true, "disk_format": true, "created_at": true,
	"updated_at": true, "tags": true, "direct_url": true, "min_ram": true, "min_disk": true, "self": true, "file": true,
	"schema": true, "stores": true, "os_hash_algo": true, "os_hash_value": true, "os_hidden": true, "locations": true,
}

func (r record) image() (catalog.GlanceImage, error) {
	i := catalog.GlanceImage{
		ID: r.text("id"), Name: r.text("name"), Status: r.text("status"), DiskFormat: r.text("disk_format"),
		ContainerFormat: r.text("container_format"), Size: r.number("size"), VirtualSize: r.number("virtual_size"),
		HashAlgo: r.text("os_hash_algo"), HashValue: r.text("os_hash_value"), Owner: r.text("owner"),
		Visibility: r.text("visibility"), Hidden: r["os_hidden"] == true, Protected: r["protected"] == true,
		MinDiskGiB: int(r.number("min_disk")), MinRAMMiB: int(r.number("min_ram")),
		CreatedAt: r.time("created_at"), UpdatedAt: r.time("updated_at"), Properties: map[string]string{},
	}
	if i.ID == "" {
		return i, errs.New(errs.Unavailable, "kiln.glance.answer", "glance gave an image without an id")
	}
	if stores := r.text("stores"); stores != "" {
		i.Stores = strings.Split(stores, ",")
	}
	if tags, ok := r["tags"].([]any); ok {
		for _, t := range tags {
			if tag, ok := t.(string); ok {
				i.Tags = append(i.Tags, tag)
			}
		}
	}
	for name := range r {
		if text, ok := r[name].(string); ok && !base[name] {
			i.Properties[name] = text
		}
	}
	return i, nil
}

func (r record) text(name string) string {
	s, _ := r[name].(string)
	return s
}

func (r record) number(name string) int64 {
	switch v := r[name].(type) {
	case json.Number: // gophercloud's decoder
		n, _ := v.Int64()
		return n
	case float64:
		return int64(v)
	}
	return 0
}

func (r record) time(name string) time.Time {
	t, _ := time.Parse(time.RFC3339, r.text(name))
	return t
}
