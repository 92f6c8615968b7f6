package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// lockRecipe pins the packages of a recipe and writes the lock where the repository wants it.
func (a *app) lockRecipe() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "lock SOURCE RECIPE", Short: "Pin the packages of a recipe: write the file that belongs beside it in the repository", Args: cobra.ExactArgs(2)}
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write, - for standard output; the recipe's file name with .lock in this folder where left out")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := a.connect(ctx)
		if err != nil {
			return err
		}
		sources, err := client.List[build.Source](ctx, c, "sources", url.Values{"name": {args[0]}})
		if err != nil {
			return err
		}
		if len(sources) == 0 {
			return fmt.Errorf("there is no source %q in your project", args[0])
		}
		recipes, err := client.List[build.Recipe](ctx, c, "recipes", url.Values{"source_id": {sources[0].ID}, "name": {args[1]}})
		if err != nil {
			return err
		}
		if len(recipes) == 0 {
			return fmt.Errorf("there is no recipe %q in source %q; sync the source if it is new", args[1], args[0])
		}
		var j job.Job
		if err := c.Post(ctx, "/v1/recipes/"+recipes[0].ID+"/lock", nil, &j); err != nil {
			return err
		}
		screen := demo.NewScreen(os.Stderr)
		screen.Begin("lock " + args[1])
		if j, err = c.WaitJob(ctx, j.ID, 500*time.Millisecond, screen.Job); err != nil {
			screen.End("failed")
			return err
		}
		screen.End("done")
		return a.writeLock(j, file)
	}
	return cmd
}

func (a *app) writeLock(j job.Job, file string) error {
	var made struct {
		Path, Lock string
		Packages   int
	}
	if err := json.Unmarshal(j.Result, &made); err != nil || made.Lock == "" {
		return fmt.Errorf("the job's result holds no lock: %s", j.Result)
	}
	if file == "-" {
		_, err := fmt.Fprint(a.out, made.Lock)
		return err
	}
	if file == "" {
		file = path.Base(made.Path)
	}
	if err := os.WriteFile(file, []byte(made.Lock), 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "%s: %d packages; commit it as %s\n", file, made.Packages, made.Path)
	return err
}
