package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// planRecipe shows what a build of a recipe would do now.
func (a *app) planRecipe() *cobra.Command {
	cmd := &cobra.Command{Use: "plan SOURCE RECIPE", Short: "Show the steps of a build and which of them are cached; nothing is built", Args: cobra.ExactArgs(2)}
	cmd.Flags().StringVarP(&a.format, "output", "o", a.format, "the same as --format")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := a.connect(ctx)
		if err != nil {
			return err
		}
		id, err := recipeID(ctx, c, args[0], args[1])
		if err != nil {
			return err
		}
		var j job.Job
		if err := c.Post(ctx, "/v1/recipes/"+id+"/plan", nil, &j); err != nil {
			return err
		}
		screen := demo.NewScreen(os.Stderr)
		screen.Begin("plan " + args[1])
		if j, err = c.WaitJob(ctx, j.ID, 300*time.Millisecond, screen.Job); err != nil {
			screen.End("failed")
			return err
		}
		screen.End("done")
		var p build.Plan
		if err := json.Unmarshal(j.Result, &p); err != nil {
			return fmt.Errorf("the job's result is no plan: %s", j.Result)
		}
		return a.writePlan(p)
	}
	return cmd
}

func (a *app) writePlan(p build.Plan) error {
	if a.format == "json" {
		return a.json(p)
	}
	rows := make([]row, len(p.Steps))
	for i, s := range p.Steps {
		cached := ""
		if s.Cached {
			cached = "cached"
		}
		rows[i] = row{"#": i + 1, "step": s.Name, "recipe": s.Recipe, "cached": cached, "key": s.Key[:min(len(s.Key), 19)]}
	}
	if err := a.print(rows, []string{"#", "step", "recipe", "cached", "key"}); err != nil {
		return err
	}
	text := fmt.Sprintf("commit %s, builder %s, as worker %s sees it", p.Commit, p.Builder, p.Worker)
	if p.Unchanged != "" {
		text += "\nunchanged since version " + p.Unchanged + ": a build would make nothing"
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

// recipeID finds a recipe by the names of its source and itself.
func recipeID(ctx context.Context, c *client.Client, source, name string) (string, error) {
	sources, err := client.List[build.Source](ctx, c, "sources", url.Values{"name": {source}})
	if err != nil {
		return "", err
	}
	if len(sources) == 0 {
		return "", fmt.Errorf("there is no source %q in your project", source)
	}
	recipes, err := client.List[build.Recipe](ctx, c, "recipes", url.Values{"source_id": {sources[0].ID}, "name": {name}})
	if err != nil {
		return "", err
	}
	if len(recipes) == 0 {
		return "", fmt.Errorf("there is no recipe %q in source %q; sync the source if it is new", name, source)
	}
	return recipes[0].ID, nil
}

// recipeSchema prints the JSON Schema; it needs no login.
func (a *app) recipeSchema() *cobra.Command {
	return &cobra.Command{Use: "schema", Short: "Print the JSON Schema of recipes, for editors", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		schema, err := recipe.Schema()
		if err != nil {
			return err
		}
		_, err = a.out.Write(schema)
		return err
	}}
}

// validateRecipe checks recipes on this machine; it needs no login.
func (a *app) validateRecipe() *cobra.Command {
	return &cobra.Command{
		Use: "validate PATH", Aliases: []string{"check"}, Args: cobra.ExactArgs(1),
		Short: "Check a recipe file, or all recipes of a repository's folder with what they stand on and the files that they name",
		RunE: func(_ *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return a.validateFile(args[0])
			}
			root, err := os.OpenRoot(args[0])
			if err != nil {
				return err
			}
			defer root.Close() //nolint:errcheck // only read
			return a.validateSet(root.FS())
		},
	}
}

func (a *app) validateFile(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if _, err = recipe.Parse(filepath.Base(name), data); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, "no faults")
	return err
}

func (a *app) validateSet(files fs.FS) error {
	set, err := recipe.Load(files)
	if err != nil {
		return err
	}
	faults := 0
	for _, file := range slices.Sorted(maps.Keys(set.Faults)) {
		faults += len(set.Faults[file])
		fmt.Fprintln(a.out, set.Faults[file].Error()) //nolint:errcheck // standard output
	}
	for _, name := range slices.Sorted(maps.Keys(set.Recipes)) {
		if _, err := set.Lock(name); err != nil {
			faults++
			fmt.Fprintln(a.out, err) //nolint:errcheck // standard output
		}
	}
	if faults > 0 {
		return fmt.Errorf("%d faults; %d of %d recipes are faulty", faults, len(set.Faults), len(set.Faults)+len(set.Recipes))
	}
	_, err = fmt.Fprintf(a.out, "%d recipes, no faults\n", len(set.Recipes))
	return err
}
