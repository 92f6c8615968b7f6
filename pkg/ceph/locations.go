package ceph

import (
	"context"
	"io"
	"net/url"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeElsewhere is the code of errors of a location that is not in this Ceph. It never changes.
const CodeElsewhere = "kiln.ceph.elsewhere"

// Locations opens what Glance keeps in one Ceph. It is safe for many goroutines; disks must be closed before it.
type Locations interface {
	// Open opens the snapshot that a location names, only to read it. errs.NotFound: with CodeElsewhere where the
	// location is no snapshot in this Ceph, or in a pool that Kiln's user may not read; kiln.ceph.not_found where it
	// is not there (any more).
	Open(ctx context.Context, location string) (Disk, error)
	io.Closer
}

// Disk is an open snapshot.
type Disk interface {
	remote.Source
	io.Closer
	Size() int64 // bytes
}

// Location is where Glance's rbd store has an image.
type Location struct{ FSID, Pool, Image, Snapshot string }

// ParseLocation reads "rbd://FSID/POOL/IMAGE/SNAPSHOT", each part quoted as in a URL
// (https://opendev.org/openstack/glance_store/src/branch/stable/zed/glance_store/_drivers/rbd.py, StoreLocation.parse_uri).
// The short form without FSID is refused: it does not say in which Ceph the image is.
func ParseLocation(text string) (Location, error) {
	elsewhere := errs.New(errs.NotFound, CodeElsewhere, "the location is not rbd://fsid/pool/image/snapshot")
	rest, ours := strings.CutPrefix(text, "rbd://")
	parts := strings.Split(rest, "/")
	if !ours || len(parts) != 4 {
		return Location{}, elsewhere
	}
	for i, p := range parts {
		plain, err := url.PathUnescape(p)
		if err != nil || plain == "" || strings.ContainsRune(plain, 0) {
			return Location{}, elsewhere
		}
		parts[i] = plain
	}
	return Location{FSID: parts[0], Pool: parts[1], Image: parts[2], Snapshot: parts[3]}, nil
}
