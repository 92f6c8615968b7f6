// kiln-manage is the operator's tool: database, registration in Keystone, samples, checks before an upgrade.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/daemon/manage"
)

func main() { os.Exit(daemon.Execute(manage.New(os.Stdout))) }
