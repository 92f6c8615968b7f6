// Package placement is what Kiln needs of OpenStack's Placement; Client implements the domain's placement.Providers.
package placement

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Microversion is sent with every call: 1.38 has consumer types (Xena)
// (https://docs.openstack.org/placement/zed/placement-api-microversion-history.html).
const Microversion = "1.38"

// Client makes Placement's calls. It is safe for many goroutines. The user needs the role admin or service.
type Client struct{ service *openstack.Service }

var _ placement.Providers = (*Client)(nil)

// New makes a client.
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{Name: "placement", Types: []string{"placement"}, Microversion: Microversion})}
}

// amounts is what a resource class map says in Placement's words.
type amounts map[string]int64

func (a amounts) resources() placement.Resources {
	return placement.Resources{VCPUs: a["VCPU"], MemoryMB: a["MEMORY_MB"], DiskGB: a["DISK_GB"]}
}

// parallel bounds the calls that Providers has under way: Placement has no call that tells of many providers.
const parallel = 8

// Providers lists the root providers with what they have and what is used of it. One that goes away meanwhile
// is left out.
func (c *Client) Providers(ctx context.Context) ([]placement.Provider, error) {
	var answer struct {
		Providers []struct {
			UUID   string `json:"uuid"`
			Name   string `json:"name"`
			Parent string `json:"parent_provider_uuid"`
		} `json:"resource_providers"`
	}
	if err := c.service.Get(ctx, "providers", "resource_providers", nil, &answer); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	found := map[string]placement.Provider{}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, p := range answer.Providers {
		if p.Parent != "" {
			continue
		}
		group.Go(func() error {
			provider, err := c.provider(inner, p.UUID, p.Name)
			if errs.Is(err, errs.NotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found[p.UUID] = provider
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := make([]placement.Provider, 0, len(found))
	for _, p := range answer.Providers {
		if provider, ok := found[p.UUID]; ok {
			all = append(all, provider)
		}
	}
	return all, nil
}

func (c *Client) provider(ctx context.Context, id, name string) (placement.Provider, error) {
	var inventory struct {
		Inventories map[string]struct {
			Total    int64       `json:"total"`
			Reserved int64       `json:"reserved"`
			Ratio    json.Number `json:"allocation_ratio"`
		} `json:"inventories"`
	}
	path := "resource_providers/" + openstack.Segment(id)
	if err := c.service.Get(ctx, "inventories", path+"/inventories", nil, &inventory); err != nil {
		return placement.Provider{}, err
	}
	var usage struct {
		Usages amounts `json:"usages"`
	}
	if err := c.service.Get(ctx, "usages", path+"/usages", nil, &usage); err != nil {
		return placement.Provider{}, err
	}
	capacity := amounts{}
	for class, i := range inventory.Inventories {
		ratio, err := i.Ratio.Float64()
		if err != nil {
			return placement.Provider{}, errs.Wrap(err, errs.Unavailable, "kiln.placement.answer", "placement gave an allocation ratio that is no number")
		}
		capacity[class] = int64(float64(i.Total-i.Reserved) * ratio)
	}
	return placement.Provider{ID: id, Name: name, Capacity: capacity.resources(), Used: usage.Usages.resources()}, nil
}

// held is the body of allocations, by consumer or by provider.
type held struct {
	Allocations map[string]struct {
		Resources amounts `json:"resources"`
	} `json:"allocations"`
}

func (h held) all() map[string]placement.Resources {
	all := make(map[string]placement.Resources, len(h.Allocations))
	for id, a := range h.Allocations {
		all[id] = a.Resources.resources()
	}
	return all
}

// Consumers returns what each consumer holds of the provider; errs.NotFound for no such provider.
func (c *Client) Consumers(ctx context.Context, providerID string) (map[string]placement.Resources, error) {
	var answer held
	err := c.service.Get(ctx, "consumers", "resource_providers/"+openstack.Segment(providerID)+"/allocations", nil, &answer)
	return answer.all(), err
}

// Allocation returns what the consumer holds, by provider id; empty where it holds nothing.
func (c *Client) Allocation(ctx context.Context, consumerID string) (map[string]placement.Resources, error) {
	var answer held
	err := c.service.Get(ctx, "allocation", "allocations/"+openstack.Segment(consumerID), nil, &answer)
	return answer.all(), err
}

// DeleteAllocation removes what an orphan holds; no error where there is none.
func (c *Client) DeleteAllocation(ctx context.Context, consumerID string) error {
	err := c.service.Do(ctx, openstack.Call{
		Operation: "delete_allocation", Method: http.MethodDelete, Path: "allocations/" + openstack.Segment(consumerID),
	})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}
