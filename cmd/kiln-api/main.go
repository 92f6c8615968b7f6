// kiln-api serves Kiln's REST API.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/daemon"
)

func main() { os.Exit(daemon.Main("kiln-api", "kiln-api serves Kiln's REST API", daemon.API)) }
