package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/demo"
)

func demoCommand(out io.Writer) *cobra.Command {
	e := demo.Embedded{Out: out}
	var leave bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the main job on embedded parts, in one process", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("the demo builds and upgrades disks: run it as root")
			}
			if e.Recipes == "" {
				e.Recipes = findRecipes()
			}
			e.Stay = !leave
			return e.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.State, "state", "/var/lib/kiln-demo", "folder for images, database and log; kept from run to run")
	f.StringVar(&e.Recipes, "recipes", "", "folder of recipes; those that ship with Kiln where left out")
	f.StringVar(&e.Recipe, "recipe", "debian-12-web", "recipe that is built")
	f.StringVar(&e.Listen, "listen", "127.0.0.1:9790", "address of the API")
	f.StringVar(&e.Cloud, "cloud", "127.0.0.1:9791", "address of the pocket cloud")
	f.BoolVar(&leave, "exit", false, "end after the story instead of running on")
	return cmd
}

// findRecipes looks where packages put them, and in the work tree that the program was built in.
func findRecipes() string {
	self, err := os.Executable()
	if err == nil {
		for _, dir := range []string{"../etc/kiln/recipes", "../share/kiln/recipes"} {
			if path := filepath.Join(filepath.Dir(self), dir); isDir(path) {
				return path
			}
		}
	}
	return "/etc/kiln/recipes"
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
