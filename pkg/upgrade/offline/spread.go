package offline

import (
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// spread says where a system lies that a mount of the root partition would not show whole; "" for all others.
func spread(f *catalog.Facts) string {
	switch {
	case f.Volume != "":
		return "the root is on the logical volume " + f.Volume
	case f.Subvolume != "":
		return "the root is in the subvolume " + f.Subvolume + ", which is not the default one"
	case len(f.Mounts) > 0:
		return "parts of the system are file systems of their own: " + strings.Join(f.Mounts, ", ")
	}
	return ""
}
