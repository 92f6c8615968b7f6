//go:build !ceph

package ceph

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Open says that this Kiln has no Ceph.
func Open(context.Context, Config) (Backend, error) { return nil, notBuilt() }

// OpenLocations says that this Kiln has no Ceph.
func OpenLocations(context.Context, Config) (Locations, error) { return nil, notBuilt() }

func notBuilt() error {
	return errs.New(errs.Invalid, "kiln.ceph.not_built",
		"this program was built without Ceph: use one built with -tags ceph,pacific, or a store of the type directory").
		At(errs.Where{Field: "type"})
}
