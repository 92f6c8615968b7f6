package placement

import (
	"context"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Claim is an allocation of Kiln's own, for consumers that neither Nova nor Zun knows.
type Claim struct {
	ConsumerID string // uuid
	Type       string // capital letters, digits and underscores: IMAGE_CACHE
	ProjectID  string
	UserID     string
	Generation *int                           // of the consumer as it was read; nil for a new one
	Held       map[string]placement.Resources // by provider id
}

// PutClaim writes an allocation whole. errs.Conflict with the code kiln.placement.concurrent where somebody wrote
// at the same time (read and try again), kiln.placement.full where a provider has no room
// (https://opendev.org/openstack/placement/src/branch/stable/zed/placement/schemas/allocation.py, ALLOCATION_SCHEMA_V1_38).
func (c *Client) PutClaim(ctx context.Context, k Claim) error {
	allocations := map[string]any{}
	for provider, r := range k.Held {
		resources := amounts{}
		for class, n := range map[string]int64{"VCPU": r.VCPUs, "MEMORY_MB": r.MemoryMB, "DISK_GB": r.DiskGB} {
			if n > 0 {
				resources[class] = n
			}
		}
		allocations[provider] = map[string]any{"resources": resources}
	}
	return c.service.Do(ctx, openstack.Call{
		Operation: "put_claim", Method: http.MethodPut, Path: "allocations/" + openstack.Segment(k.ConsumerID),
		Body: map[string]any{
			"allocations": allocations, "project_id": k.ProjectID, "user_id": k.UserID,
			"consumer_generation": k.Generation, "consumer_type": k.Type,
		},
	})
}
