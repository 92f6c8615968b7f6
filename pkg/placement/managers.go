package placement

import "context"

// Flavor is Nova's flavor.
type Flavor struct {
	ID        string
	Name      string
	Resources Resources
}

// NewServer is what Kiln asks of Nova. Host is a compute host; Nova's filters still run (microversion 2.74).
type NewServer struct {
	Name     string
	ImageID  string
	FlavorID string
	Host     string
	Metadata map[string]string // holds KeyWorkload
}

// KeyWorkload is the metadata key (Nova) and label (Zun) that holds the workload's id.
const KeyWorkload = "kiln_workload"

// Server is a VM as Nova tells it.
type Server struct {
	ID       string
	Name     string
	Status   string // ACTIVE, BUILD, ERROR, DELETED …
	Host     string
	Fault    string
	Metadata map[string]string
}

// Hypervisor is one compute host as Nova tells it.
type Hypervisor struct {
	ID       string // uuid: also the resource provider's
	Hostname string // hypervisor hostname: also the provider's name
	Host     string // service host
	Up       bool
	Disabled bool
}

// Nova is what Kiln needs of the compute service. projectID is whose server it is; "" is the service's own.
type Nova interface {
	Flavor(ctx context.Context, idOrName string) (Flavor, error)
	CreateServer(ctx context.Context, projectID string, s NewServer) (Server, error)
	Server(ctx context.Context, projectID, id string) (Server, error)
	// ServersByKey finds servers whose metadata KeyWorkload is the value, in any state; "" finds all that have the key.
	ServersByKey(ctx context.Context, projectID, value string) ([]Server, error)
	DeleteServer(ctx context.Context, projectID, id string) error // no error where it is gone
	Console(ctx context.Context, projectID, id string, lines int) (string, error)
	Hypervisors(ctx context.Context) ([]Hypervisor, error)
}

// NewContainer is what Kiln asks of Zun.
type NewContainer struct {
	Name        string
	Image       string // image name for docker, Glance id for glance
	ImageDriver string // "docker" or "glance"
	Host        string
	Command     []string
	CPU         float64
	MemoryMB    int64
	DiskGB      int64
	Labels      map[string]string
}

// ContainerInfo is a container as Zun tells it.
type ContainerInfo struct {
	ID     string
	Name   string
	Status string // Creating, Created, Running, Error, Deleted …
	Reason string
	Host   string
	Labels map[string]string
}

// Zun is what Kiln needs of the container service.
type Zun interface {
	CreateContainer(ctx context.Context, projectID string, c NewContainer) (ContainerInfo, error)
	Container(ctx context.Context, projectID, id string) (ContainerInfo, error)
	// ContainersByKey is ServersByKey for containers and their labels.
	ContainersByKey(ctx context.Context, projectID, value string) ([]ContainerInfo, error)
	DeleteContainer(ctx context.Context, projectID, id string) error // no error where it is gone
	Hosts(ctx context.Context) ([]string, error)                     // host names
}

// Provider is one resource provider with what it has and what is used of it.
type Provider struct {
	ID       string
	Name     string
	Capacity Resources // (total - reserved) × allocation ratio
	Used     Resources
}

// Providers is what Kiln needs of Placement.
type Providers interface {
	Providers(ctx context.Context) ([]Provider, error)
	// Consumers returns what each consumer holds of the provider.
	Consumers(ctx context.Context, providerID string) (map[string]Resources, error)
	// Allocation returns what the consumer holds, by provider id; empty where it holds nothing.
	Allocation(ctx context.Context, consumerID string) (map[string]Resources, error)
	// DeleteAllocation removes what an orphan holds; no error where there is none.
	DeleteAllocation(ctx context.Context, consumerID string) error
}
