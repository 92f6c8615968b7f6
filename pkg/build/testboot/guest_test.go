package testboot_test

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
)

func TestGuests(t *testing.T) {
	q, dir := qemu(t, testboot.Timeouts{})
	boottest.GuestContract(t, q)
	nothingLeft(t, dir)
}

// TestGuestCannotLeaveItsFileSystem: its disk ends where that ends.
func TestGuestCannotLeaveItsFileSystem(t *testing.T) {
	g := boottest.Guest(t, "dd if=/dev/zero of=/dev/vda bs=512 seek=65536 count=2048 2>/dev/null || echo refused | report beyond")
	q, _ := qemu(t, testboot.Timeouts{})
	if r, err := q.Run(t.Context(), g); err != nil || r.Reports["beyond"] != "refused\n" {
		t.Errorf("%v %v", err, r)
	}
}
