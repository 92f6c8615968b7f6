// Package placement decides where workloads run and keeps the ledger of what they hold. One node is seen
// by Nova, Zun and Placement; the ledger holds VMs and containers side by side.
package placement

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Kind is what a workload is.
type Kind string

// The kinds of workloads.
const (
	VM        Kind = "vm"
	Container Kind = "container"
)

// Resources is an amount of a node: VCPU, MEMORY_MB and DISK_GB of Placement.
type Resources struct {
	VCPUs    int64 `json:"vcpus"`
	MemoryMB int64 `json:"memory_mb"`
	DiskGB   int64 `json:"disk_gb"`
}

// Add returns the sum.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.VCPUs + o.VCPUs, r.MemoryMB + o.MemoryMB, r.DiskGB + o.DiskGB}
}

// Sub returns the difference.
func (r Resources) Sub(o Resources) Resources {
	return Resources{r.VCPUs - o.VCPUs, r.MemoryMB - o.MemoryMB, r.DiskGB - o.DiskGB}
}

// Fits reports whether r fits into free.
func (r Resources) Fits(free Resources) bool {
	return r.VCPUs <= free.VCPUs && r.MemoryMB <= free.MemoryMB && r.DiskGB <= free.DiskGB
}

// Node is one compute host.
type Node struct {
	Name       string     `json:"name"`
	Cluster    string     `json:"cluster"`
	ProviderID string     `json:"provider_id"` // Placement's resource provider
	NovaHost   string     `json:"nova_host"`   // "" where Nova does not run there
	ZunHost    string     `json:"zun_host"`    // "" where Zun does not run there
	Up         bool       `json:"up"`
	Disabled   bool       `json:"disabled"`
	Capacity   Resources  `json:"capacity"`   // (total - reserved) × allocation ratio
	Foreign    Resources  `json:"foreign"`    // what Placement said that others than the ledger hold
	Held       Resources  `json:"held"`       // the ledger's open claims
	AgentSeen  *time.Time `json:"agent_seen"` // last heartbeat of kiln-agent
	UpdatedAt  time.Time  `json:"updated_at"`
}

// WorkloadState is where a workload is.
type WorkloadState string

// The states of a workload.
const (
	Requested WorkloadState = "requested"
	Placing   WorkloadState = "placing"
	Active    WorkloadState = "active"
	Errored   WorkloadState = "error"
	Deleting  WorkloadState = "deleting"
	Deleted   WorkloadState = "deleted"
)

// Workload is a VM or a container that Kiln placed. Its id is the idempotency key that is written on the
// server's metadata or the container's labels.
type Workload struct {
	ID         string             `json:"id"`
	ProjectID  string             `json:"project_id"`
	UserID     string             `json:"user_id"`
	Name       string             `json:"name"`
	Kind       Kind               `json:"kind"`
	Family     catalog.FamilyName `json:"family"`  // "" where an image was named
	Channel    string             `json:"channel"` // channel or version asked for
	Version    string             `json:"version"` // version that was resolved
	ImageID    string             `json:"image_id"`
	ImageRef   string             `json:"image_ref"` // a container's own image name ("nginx:1.25") where no Glance image is meant
	Command    []string           `json:"command"`   // containers
	Flavor     string             `json:"flavor"`    // VMs: Nova's flavor id or name
	Cluster    string             `json:"cluster"`   // asked for; "" any
	Node       string             `json:"node"`      // asked for, then chosen
	Resources  Resources          `json:"resources"`
	State      WorkloadState      `json:"state"`
	ExternalID string             `json:"external_id"` // Nova's or Zun's uuid
	Note       string             `json:"note"`        // what was not as asked (a fallback)
	Error      string             `json:"error"`
	JobID      string             `json:"job_id"`
	CreatedAt  time.Time          `json:"created_at"`
	UpdatedAt  time.Time          `json:"updated_at"`
}

// ClaimState says how sure a claim is.
type ClaimState string

// The states of a claim.
const (
	ClaimHeld      ClaimState = "held"      // counted by Kiln before the manager was called
	ClaimConfirmed ClaimState = "confirmed" // equals the allocation that Placement has
	ClaimReleased  ClaimState = "released"
)

// Claim is what one workload holds of one node.
type Claim struct {
	ID         string     `json:"id"` // the workload's id
	WorkloadID string     `json:"workload_id"`
	Node       string     `json:"node"`
	ProviderID string     `json:"provider_id"`
	ConsumerID string     `json:"consumer_id"` // Placement's consumer: the server's or container's uuid
	Resources  Resources  `json:"resources"`
	State      ClaimState `json:"state"`
	UpdatedAt  time.Time  `json:"updated_at"`
}

// CodeMoved is the code of a write that came after another writer's.
const CodeMoved = "kiln.workload.moved"

// Store keeps nodes, workloads and the ledger.
type Store interface {
	PutNode(ctx context.Context, n Node) error // insert or replace; Cluster, Held and AgentSeen are not touched
	SeenNode(ctx context.Context, name string, at time.Time) error
	FindNode(ctx context.Context, name string) (Node, error) // Held and Cluster filled in
	ListNodes(ctx context.Context, q listing.Query) ([]Node, error)

	CreateWorkload(ctx context.Context, w Workload) error
	// UpdateWorkload writes the workload if it is in one of the states from; errs.Conflict "kiln.workload.moved"
	// where another writer moved it meanwhile. Without from it writes in any state.
	UpdateWorkload(ctx context.Context, w Workload, from ...WorkloadState) error
	FindWorkload(ctx context.Context, id string) (Workload, error)
	ListWorkloads(ctx context.Context, q listing.Query) ([]Workload, error)

	// Hold writes a held claim if, counted in the same transaction with the node's row locked,
	// Capacity - Foreign - the node's other open claims has room for it.
	// errs.Conflict "kiln.placement.full" where it has not. The same claim twice: no error.
	Hold(ctx context.Context, c Claim) error
	Confirm(ctx context.Context, workloadID, consumerID string, r Resources) error
	Release(ctx context.Context, workloadID string) error // no error where it is released or missing
	FindClaim(ctx context.Context, workloadID string) (Claim, error)
	ListClaims(ctx context.Context, q listing.Query) ([]Claim, error) // filter: node, state
}
