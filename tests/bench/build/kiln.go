package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
)

// What all contenders build. Beside the packages that are named, each brings a kernel, systemd and GRUB.
const (
	release = "bookworm"
	added   = "jq"
	size    = "4GiB"
)

var packages = []string{"cloud-init", "openssh-server", "nginx", "python3", "curl"}

// bench is where a run happens.
type bench struct{ dir, cache string }

// text is the recipe. more is a further step's packages.
func text(name string, packages []string, more string) string {
	out := fmt.Sprintf("name: %s\nfrom: {release: %s}\ndisk: {size: %s}\npackages: [%s]\n", name, release, size, strings.Join(packages, ", "))
	if more != "" {
		out += "steps:\n  - name: added\n    packages: [" + more + "]\n"
	}
	return out
}

func (b *bench) mirrors() (deb.Mirrors, *mirror.Proxy, error) {
	return debian.Mirrors(filepath.Join(b.cache, "packages"))
}

func (b *bench) layers() string { return filepath.Join(b.dir, "layers") }

func (b *bench) native() (*native.Builder, error) {
	m, p, err := b.mirrors()
	if err != nil {
		return nil, err
	}
	return native.New(native.Config{Mirrors: m, Proxy: p, Layers: layer.Config{Dir: b.layers()}})
}

// image builds a recipe with a builder into a file of the run's folder.
func (b *bench) image(ctx context.Context, builder build.Builder, recipeText, file string, base *build.Base) (outcome, build.Result, error) {
	r, err := recipe.Parse("bench.yaml", []byte(recipeText))
	if err != nil {
		return outcome{}, build.Result{}, err
	}
	work := filepath.Join(b.dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return outcome{}, build.Result{}, err
	}
	out := filepath.Join(b.dir, file)
	res, err := builder.Build(ctx, build.Request{Recipe: r, Base: base, WorkDir: work, Output: out, Log: os.Stderr})
	return outcome{Image: out}, res, err
}

func (b *bench) kiln(ctx context.Context, recipeText, file string) (outcome, error) {
	builder, err := b.native()
	if err != nil {
		return outcome{}, err
	}
	out, res, err := b.image(ctx, builder, recipeText, file, nil)
	out.Kept = b.layers()
	var steps []string
	for _, s := range res.Steps {
		if !s.Cached {
			steps = append(steps, fmt.Sprintf("%s %.1f s", s.Name, s.Seconds))
		}
	}
	out.Disk = strings.Join(steps, ", ")
	return out, err
}

func kilnCold(ctx context.Context, b *bench) (outcome, error) {
	if err := os.RemoveAll(b.layers()); err != nil {
		return outcome{}, err
	}
	return b.kiln(ctx, text("bench", packages, ""), "kiln.qcow2")
}

func kilnAgain(ctx context.Context, b *bench) (outcome, error) {
	return b.kiln(ctx, text("bench", packages, ""), "again.qcow2")
}

func kilnAdd(ctx context.Context, b *bench) (outcome, error) {
	return b.kiln(ctx, text("bench", packages, added), "added.qcow2")
}

// kilnSame asks what a worker asks before it builds: the state of the inputs, and which steps would run.
func kilnSame(ctx context.Context, b *bench) (outcome, error) {
	builder, err := b.native()
	if err != nil {
		return outcome{}, err
	}
	r, err := recipe.Parse("bench.yaml", []byte(text("bench", packages, "")))
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	req := build.Request{Recipe: r}
	if _, err := builder.InputState(ctx, req); err != nil {
		return outcome{}, err
	}
	steps, err := builder.Plan(ctx, req)
	if err != nil {
		return outcome{}, err
	}
	for _, s := range steps {
		if !s.Cached {
			return outcome{}, fmt.Errorf("the step %q would run again", s.Name)
		}
	}
	return outcome{Own: time.Since(begin).Seconds(), Kept: b.layers()}, nil
}

func kilnBase(ctx context.Context, b *bench) (outcome, error) {
	return b.kiln(ctx, text("base", []string{"cloud-init", "openssh-server"}, ""), "base.qcow2")
}
