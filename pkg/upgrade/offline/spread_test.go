package offline

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// TestSpread: a mount of the root partition alone would not show these systems whole.
func TestSpread(t *testing.T) {
	for want, f := range map[string]catalog.Facts{
		"": {FileSystem: "btrfs", Mounts: []string{}},
		"the root is on the logical volume system/root":                 {Volume: "system/root", Mounts: []string{"/var"}},
		"the root is in the subvolume @, which is not the default one":  {Subvolume: "@"},
		"parts of the system are file systems of their own: /usr, /var": {Mounts: []string{"/usr", "/var"}},
	} {
		if got := spread(&f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
