// kiln-agent keeps copies on a compute node.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/daemon"
)

func main() {
	os.Exit(daemon.Main("kiln-agent", "kiln-agent keeps copies on a compute node", daemon.Agent))
}
