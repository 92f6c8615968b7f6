package sandbox_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// TestDeviceNodesOfTheImageAreNothing: a node in a hostile image would be the host's device of that number.
func TestDeviceNodesOfTheImageAreNothing(t *testing.T) {
	dir := tree(t)
	if err := unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, sandbox.Spec{Rootfs: dir}, "head -c 1 /dev/zero >/dev/null || exit 2; if head -c 1 /zero >/dev/null; then exit 3; fi")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
