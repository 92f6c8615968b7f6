//go:build !ceph

package ceph_test

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/ceph"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func TestWithoutCephOpenSaysSo(t *testing.T) {
	if _, err := ceph.Open(t.Context(), ceph.Config{Pool: "images"}); errs.CodeOf(err) != "kiln.ceph.not_built" {
		t.Errorf("open: %v", err)
	}
}
