// kiln-worker builds, inspects and upgrades images.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/daemon"
)

func main() {
	os.Exit(daemon.Main("kiln-worker", "kiln-worker builds, inspects and upgrades images", daemon.Worker))
}
