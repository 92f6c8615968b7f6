package ceph_test

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/ceph"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func TestParseLocation(t *testing.T) {
	for text, want := range map[string]ceph.Location{
		"rbd://f5/images/0a-1/snap":      {FSID: "f5", Pool: "images", Image: "0a-1", Snapshot: "snap"},
		"rbd://f5/my%2Fpool/0a%201/snap": {FSID: "f5", Pool: "my/pool", Image: "0a 1", Snapshot: "snap"},
	} {
		if got, err := ceph.ParseLocation(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "rbd://", "rbd://0a-1", "rbd://f5/images/0a-1", "rbd://f5/images//snap", "rbd://f5/images/0a-1/snap/x", "rbd://f5/%zz/0a-1/snap",
		"rbd://f5/images/%00/snap", "file:///var/lib/glance/images/0a-1", "http://f5/images/0a-1/snap",
	} {
		if got, err := ceph.ParseLocation(text); errs.CodeOf(err) != ceph.CodeElsewhere {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}
