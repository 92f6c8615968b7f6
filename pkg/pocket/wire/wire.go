// Package wire holds what the services of the pocket cloud share: who calls (Caller), JSON in and out,
// request ids, the request log, faults on demand, oslo notifications, and the two services that the
// others reach in the process instead of over HTTP (Images for Glance, Placement for Placement).
//
// A service is an http.Handler made from a Kit. pocket.Start strips the service's prefix (/identity,
// /image, …), adds the request id, the log and the faults around it; the service itself puts
// Authenticate around the routes that need a token.
package wire

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"
)

// Kit is what one service is made from.
type Kit struct {
	Service     string           // identity, image, compute, placement, container; the prefix without its slash
	URL         string           // where clients find the service, e.g. http://127.0.0.1:4711/compute; no trailing slash
	IdentityURL string           // for WWW-Authenticate, e.g. http://127.0.0.1:4711/identity/v3
	Dir         string           // a folder on disk of the service's own; it exists
	Clock       func() time.Time // UTC
	NewID       func() string    // a fresh UUID with dashes
	Tokens      Tokens
	Refuse      http.HandlerFunc // the 401 of a service that has one of its own; nil for keystonemiddleware's
	Images      Images
	Placement   Placement
	Notify      Notify
	Nodes       []Node
	Log         logrus.FieldLogger
}

// Node is one compute host of the pocket cloud.
type Node struct {
	Name          string
	VCPUs         int64
	MemoryMB      int64
	DiskGB        int64
	InstancesPath string // as Nova's instances_path: _base/ below it is the image cache; it exists
	Driver        string // "fake" or "qemu" (boots the guest by TCG)
}

// Stamp formats a time as the services do in their JSON: 2026-11-21T22:31:33Z.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// MicroStamp is Stamp with microseconds, as Nova and Keystone write it: 2026-11-21T22:31:33.000000.
func MicroStamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000") }

// Errors of the in-process Images and Placement.
var (
	ErrImageNotFound  = errors.New("image not found")
	ErrImageNotActive = errors.New("image is not active")
	ErrNoProvider     = errors.New("no such resource provider")
	ErrNoCapacity     = errors.New("no capacity")
	ErrClaimExists    = errors.New("the consumer has allocations already")
)

// Image is what the other services need to know of an image in Glance.
type Image struct {
	ID, Name, Status, Owner, Visibility string
	DiskFormat, ContainerFormat         string
	Checksum                            string            // MD5, hex
	Size, VirtualSize                   int64             // bytes; 0 while unknown
	MinDisk, MinRAM                     int64             // GB, MB
	Properties                          map[string]string // kernel_id and ramdisk_id are here
	Tags                                []string
	CreatedAt, UpdatedAt                time.Time
}

// Images is Glance for the services in the process. The caller sees what Glance's policy lets it see.
// Errors: ErrImageNotFound, ErrImageNotActive.
type Images interface {
	// Get answers the metadata of an image, like GET /v2/images/{id}.
	Get(caller Caller, id string) (Image, error)
	// Open reads an image's bytes. It counts as a download: it stands in the request log as
	// GET /v2/images/{id}/file of the service image, and image.send is notified when the reader is closed.
	Open(caller Caller, id string) (Image, io.ReadCloser, error)
}

// Placement is Placement for the services in the process: the same state as over HTTP.
type Placement interface {
	// EnsureProvider makes the root provider with this uuid and name where it is missing, and sets its
	// inventory (class to Inventory) where the class is missing. Safe to repeat.
	EnsureProvider(uuid, name string, inventory map[string]Inventory) error
	// ProviderByName finds a provider's uuid. Errors: ErrNoProvider.
	ProviderByName(name string) (uuid string, err error)
	// Claim gives a consumer resources of one provider. Errors: ErrNoProvider, ErrNoCapacity,
	// ErrClaimExists where the consumer holds something already.
	Claim(claim Claim) error
	// Release takes away all that a consumer holds; a consumer that holds nothing is no error.
	Release(consumer string)
	// Holds answers a consumer's allocations: provider uuid to class to amount; empty where there are none.
	Holds(consumer string) map[string]map[string]int64
	// Free answers what is left of a provider: (total-reserved)*ratio-used by class. Errors: ErrNoProvider.
	Free(provider string) (map[string]int64, error)
	// SetTrait adds a trait to a provider or takes it away (COMPUTE_STATUS_DISABLED is Nova's sign for a
	// disabled host). Errors: ErrNoProvider.
	SetTrait(provider, trait string, on bool) error
}

// Inventory is one resource class of a provider.
type Inventory struct {
	Total           int64   `json:"total"`
	Reserved        int64   `json:"reserved"`
	MinUnit         int64   `json:"min_unit"`
	MaxUnit         int64   `json:"max_unit"`
	StepSize        int64   `json:"step_size"`
	AllocationRatio float64 `json:"allocation_ratio"`
}

// Claim asks resources of one provider for one consumer.
type Claim struct {
	Consumer  string           // uuid
	Provider  string           // uuid
	Resources map[string]int64 // class to amount
	ProjectID string
	UserID    string
	Type      string // consumer type, e.g. INSTANCE or CONTAINER; "" where the service sends none
}
