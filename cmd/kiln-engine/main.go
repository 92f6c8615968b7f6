// kiln-engine places workloads and keeps Kiln's view of the cloud.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/daemon"
)

func main() {
	os.Exit(daemon.Main("kiln-engine", "kiln-engine places workloads and keeps Kiln's view of the cloud", daemon.Engine))
}
