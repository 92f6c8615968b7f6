package nova

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

type flavor struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	VCPUs      int64             `json:"vcpus"`
	RAM        int64             `json:"ram"`  // MiB
	Disk       int64             `json:"disk"` // GiB
	Ephemeral  int64             `json:"OS-FLV-EXT-DATA:ephemeral"`
	Swap       any               `json:"swap"` // MiB; "" for none before 2.75
	ExtraSpecs map[string]string `json:"extra_specs"`
}

// flavor counts what Nova asks of Placement, its extra specs resources:<CLASS> included
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/scheduler/utils.py, ResourceRequest).
func (f flavor) flavor() placement.Flavor {
	var swap int64
	switch v := f.Swap.(type) {
	case json.Number:
		swap, _ = v.Int64()
	case float64:
		swap = int64(v)
	}
	const mibPerGiB = 1024
	r := placement.Resources{VCPUs: f.VCPUs, MemoryMB: f.RAM, DiskGB: f.Disk + f.Ephemeral + (swap+mibPerGiB-1)/mibPerGiB}
	for class, amount := range map[string]*int64{"VCPU": &r.VCPUs, "MEMORY_MB": &r.MemoryMB, "DISK_GB": &r.DiskGB} {
		if n, err := strconv.ParseInt(f.ExtraSpecs["resources:"+class], 10, 64); err == nil {
			*amount = n
		}
	}
	return placement.Flavor{ID: f.ID, Name: f.Name, Resources: r}
}

// Flavor finds a flavor by its id, then by its name; errs.NotFound for none.
func (c *Client) Flavor(ctx context.Context, idOrName string) (placement.Flavor, error) {
	var one struct {
		Flavor flavor `json:"flavor"`
	}
	err := c.service.Get(ctx, "flavor", "flavors/"+openstack.Segment(idOrName), nil, &one)
	if err == nil {
		return one.Flavor.flavor(), nil
	}
	if !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) { // a name with a space is a bad id
		return placement.Flavor{}, err
	}
	query := url.Values{"is_public": {"None"}, "limit": {strconv.Itoa(pageSize)}}
	for {
		var page struct {
			Flavors []flavor               `json:"flavors"`
			Links   []struct{ Rel string } `json:"flavors_links"`
		}
		if err := c.service.Get(ctx, "flavors", "flavors/detail", query, &page); err != nil {
			return placement.Flavor{}, err
		}
		for _, f := range page.Flavors {
			if f.Name == idOrName {
				return f.flavor(), nil
			}
		}
		if len(page.Links) == 0 || len(page.Flavors) == 0 {
			return placement.Flavor{}, errs.New(errs.NotFound, "kiln.nova.not_found", "nova has no flavor %q", idOrName)
		}
		query.Set("marker", page.Flavors[len(page.Flavors)-1].ID)
	}
}
