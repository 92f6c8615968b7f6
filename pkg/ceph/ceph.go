// Package ceph keeps copies of images in a Ceph pool, one RBD image a copy, laid out as Glance does it: order 22 or
// 23, with a protected snapshot "snap", so that Nova can clone from it. It needs librbd: built with the tags
// `ceph,pacific`; without them Open says that it was not.
package ceph

import (
	"io"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
)

// Backend is a pool of copies.
type Backend interface {
	cache.Backend
	io.Closer
}

// Config says which pool.
type Config struct {
	Conf string // path of ceph.conf; "" is /etc/ceph/ceph.conf
	User string // without "client.": cluster-a
	Pool string // of its own: Kiln removes trash from it
	// Namespace is an RBD namespace of the pool, made with `rbd namespace create`; "" is the pool itself. Nova cannot
	// clone from another one than its own.
	Namespace string
	Writers   int           // parallel writers and readers of a copy, 4 MiB each; 8 where it is 0
	Timeout   time.Duration // of one question to a monitor or an OSD; 30 s where it is 0 (Ceph's own default waits for ever)
	// MinAge is how old a half copy without a writer must be before Sweep takes it; 1 min where it is 0.
	MinAge time.Duration
}

// Snapshot is the name of the snapshot that a whole copy has, as Glance names it
// (https://opendev.org/openstack/glance_store/src/branch/stable/zed/glance_store/_drivers/rbd.py, DEFAULT_SNAPNAME).
const Snapshot = "snap"
