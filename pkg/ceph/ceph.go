// Package ceph keeps copies of images in a Ceph pool, one RBD image a copy, laid out as Glance does it: order 22 or
// 23, with a protected snapshot "snap", so that Nova can clone from it. It needs librbd: built with the tags
// `ceph,pacific`; without them Open says that it was not.
package ceph

import (
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
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

// partMark is in the name of a copy that is being written. No copy can have such a name.
const partMark = ".part-"

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

func check(name string) error {
	if !goodName.MatchString(name) || strings.Contains(name, partMark) {
		return errs.New(errs.Invalid, "kiln.cache.name", "%q cannot be the name of a copy: use letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

func (c *Config) complete() {
	if c.Conf == "" {
		c.Conf = "/etc/ceph/ceph.conf"
	}
	if c.Writers == 0 {
		c.Writers = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.MinAge == 0 {
		c.MinAge = time.Minute
	}
}
