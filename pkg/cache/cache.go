// Package cache keeps copies of images near the nodes that start them: in a cluster's stores (a Ceph pool
// or a directory) and in Nova's own image cache on a node.
package cache

import (
	"context"
	"crypto/sha1" //nolint:gosec // Nova names its cache files by SHA-1 (nova/virt/imagecache.py get_cache_fname)
	"encoding/hex"
	"io"
	"path/filepath"
	"time"

	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Cluster is a set of compute nodes that are near each other on the network, with the stores where copies live.
type Cluster struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Nodes     []string    `json:"nodes"` // node names; a node is in one cluster at most
	Stores    []StoreSpec `json:"stores"`
	CreatedAt time.Time   `json:"created_at"`
	UpdatedAt time.Time   `json:"updated_at"`
}

// StoreSpec is one store of a cluster.
type StoreSpec struct {
	Name string `json:"name"`
	Type string `json:"type"` // "ceph" or "directory"
	Pool string `json:"pool,omitempty"`
}

// NovaCache is the store name of copies that are planted in a node's image cache.
const NovaCache = "nova-cache"

// CopyState is where a copy is in its life.
type CopyState string

// The states of a copy.
const (
	CopyQueued   CopyState = "queued"
	CopyCopying  CopyState = "copying"
	CopyVerified CopyState = "verified" // its bytes were read back and their digest is Glance's
	CopyFailed   CopyState = "failed"
	CopyEvicting CopyState = "evicting"
)

// Copy is one image in one store. Node is set for NovaCache and "" for a cluster's store.
type Copy struct {
	ID         string     `json:"id"`
	Cluster    string     `json:"cluster"`
	Store      string     `json:"store"`
	Node       string     `json:"node"`
	ImageID    string     `json:"image_id"`
	State      CopyState  `json:"state"`
	Bytes      int64      `json:"bytes"`
	Digest     string     `json:"digest"` // "sha512:<hex>" of the image's bytes as Glance has them
	Path       string     `json:"path"`   // where it is: file, or pool/image
	JobID      string     `json:"job_id"`
	Error      string     `json:"error"`
	VerifiedAt *time.Time `json:"verified_at"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
}

// Store keeps clusters and copies.
type Store interface {
	CreateCluster(ctx context.Context, c Cluster) error // errs.Conflict: name taken, or a node is in another cluster
	UpdateCluster(ctx context.Context, c Cluster) error
	FindCluster(ctx context.Context, name string) (Cluster, error)
	ClusterOfNode(ctx context.Context, node string) (Cluster, error) // errs.NotFound
	ListClusters(ctx context.Context, q listing.Query) ([]Cluster, error)
	DeleteCluster(ctx context.Context, name string) error // errs.Conflict while copies are in it

	// EnsureCopy returns the copy of the image in that place, made as given where it is missing.
	EnsureCopy(ctx context.Context, c Copy) (Copy, error)
	UpdateCopy(ctx context.Context, c Copy) error
	FindCopy(ctx context.Context, id string) (Copy, error)
	ListCopies(ctx context.Context, q listing.Query) ([]Copy, error)
	DeleteCopy(ctx context.Context, id string) error
}

// Stat is what a backend says of one object.
type Stat struct {
	Size   int64
	Digest string // as given to Put
	Path   string
}

// Backend holds bytes of copies. Put is whole or not at all: a half-written object is never seen by
// Stat or Open, also after a kill -9. All methods are safe to repeat.
type Backend interface {
	// Put stores r under the name; it fails with errs.Invalid where the bytes do not have the digest
	// ("sha512:<hex>"; "" accepts any) and leaves nothing then.
	Put(ctx context.Context, name string, r io.Reader, size int64, digest string) (Stat, error)
	Stat(ctx context.Context, name string) (Stat, error) // errs.NotFound
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	Delete(ctx context.Context, name string) error // no error where it is missing
	List(ctx context.Context) ([]string, error)
	// Sweep removes what killed writers left.
	Sweep(ctx context.Context) error
}

// ChildCounter is a Backend whose objects disks may be cloned from.
type ChildCounter interface {
	// Children counts the clones that hang on an object, those in other pools and in the trash included; 0 where it is
	// missing.
	Children(ctx context.Context, name string) (int, error)
}

// NovaCachePath is where Nova's libvirt driver looks for the raw base file of an image: it uses a file that
// stands there without asking Glance (nova/virt/libvirt/imagebackend.py, nova/virt/imagecache.py).
func NovaCachePath(instancesPath, imageID string) string {
	sum := sha1.Sum([]byte(imageID)) //nolint:gosec // see the import
	return filepath.Join(instancesPath, "_base", hex.EncodeToString(sum[:]))
}
