// kiln is the command line, and `kiln demo` the whole of Kiln in one process.
package main

import (
	"os"

	"github.com/kiln-cloud/kiln/pkg/cli"
	"github.com/kiln-cloud/kiln/pkg/daemon"
)

func main() { os.Exit(daemon.Execute(cli.New(os.Stdout))) }
