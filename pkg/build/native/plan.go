package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// stage is one part of a build whose result is a layer.
type stage struct {
	name   string
	recipe string // that asks for it
	key    string
	first  bool // it makes the disk; the others find it mounted
	do     func(*making, context.Context) error

	packages []string // for the log
}

// InputState is what the image would be made of now, beside the recipe: the digest of the release's signed index or
// of the lock, that of the image below, and the version of this builder.
func (b *Builder) InputState(ctx context.Context, req build.Request) (string, error) {
	repo, err := b.packages(ctx, req, nil)
	if err != nil {
		return "", err
	}
	state := formatVersion
	if req.Base != nil {
		state += " base " + req.Base.Digest
	}
	if repo != nil {
		state += " " + repo.release + " " + repo.state
	}
	return state, nil
}

// packages is the state of the packages that the build takes; nil where it takes none.
func (b *Builder) packages(ctx context.Context, req build.Request, handler http.Handler) (*repository, error) {
	release := req.Recipe.From.Release
	if req.Base != nil {
		if !takesPackages(req.Recipe) {
			return nil, nil //nolint:nilnil // an image with files and scripts on another one
		}
		if release = codename(req.Base); release == "" {
			return nil, errs.New(errs.Invalid, CodeBase, "It is not known which Debian release the base image %s is of, so no packages can be added.", req.Base.Family).
				At(errs.Where{File: req.Recipe.Path, Field: "from.family"})
		}
	}
	if release == "" {
		return nil, errs.New(errs.Invalid, CodeBootstrap, "The recipe stands on another one that was not resolved.").At(errs.Where{File: req.Recipe.Path, Field: "from"})
	}
	return b.repository(ctx, req, release, handler)
}

func codename(base *build.Base) string {
	if base.Facts == nil {
		return ""
	}
	return base.Facts.OS.Codename
}

// takesPackages reports whether a recipe on a base image may need the mirror.
func takesPackages(r *recipe.Recipe) bool {
	for _, s := range r.Plan {
		if s.Kind == recipe.StepPackages || s.Kind == recipe.StepCloudInit {
			return true
		}
	}
	return r.Kernel.Package != "" && r.Kernel.Package != recipe.DefaultKernel
}

// Plan implements build.Builder.
func (b *Builder) Plan(ctx context.Context, req build.Request) ([]build.PlannedStep, error) {
	repo, err := b.packages(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	stages, err := b.stages(req, repo)
	if err != nil {
		return nil, err
	}
	out := make([]build.PlannedStep, 0, len(stages))
	for _, s := range stages {
		out = append(out, build.PlannedStep{Name: s.name, Recipe: s.recipe, Key: s.key, Cached: !req.Fresh && b.layers.Has(s.key)})
	}
	return out, nil
}

// stages are the whole build up to the conversion, each with its key.
func (b *Builder) stages(req build.Request, repo *repository) ([]stage, error) {
	req = pinned(req)
	r := withDefaults(req.Recipe)
	in := inputOf(req)
	state := ""
	if repo != nil {
		state = repo.state
	}
	first := stage{name: "base", first: true, do: (*making).fresh}
	key := keyOf("", "base", formatVersion, r.From.Release, state, b.cfg.Mirrors.Main, r.Disk, r.Kernel, base, bootPackagesOf(r), req.Epoch)
	if req.Base != nil {
		first.do = (*making).adopt
		key = keyOf("", "base image", formatVersion, req.Base.Digest, r.Disk.Size, r.Kernel, req.Epoch)
		if r.Kernel.Package != recipe.DefaultKernel {
			key = keyOf(key, state)
		}
	}
	first.key = key
	out := []stage{first}
	for _, s := range r.Plan {
		text, err := in.text(s)
		if err != nil {
			return nil, err
		}
		key = keyOf(key, text...)
		if s.Kind == recipe.StepPackages || s.Kind == recipe.StepCloudInit {
			key = keyOf(key, state)
		}
		out = append(out, stage{name: s.Name, recipe: s.Recipe, key: key, packages: s.Packages, do: func(m *making, ctx context.Context) error { return m.do(ctx, s) }})
	}
	key = keyOf(key, "finish", b.cfg.Mirrors)
	return append(out, stage{name: "finish", key: key, do: (*making).finish}), nil
}

// text is everything of a step that decides what it does, with the digests of the files that it names. Its name and
// its place in the recipe do not.
func (in input) text(s recipe.Step) ([]any, error) {
	out := []any{string(s.Kind), s.Packages, s.Users, s.Services, s.Datasources}
	if s.Kind == recipe.StepScript {
		script, err := in.script(s)
		if err != nil {
			return nil, errs.Wrap(err, errs.KindOf(err), CodeScript, "The script %q cannot be read.", s.Name).At(s.Where)
		}
		out = append(out, script)
	}
	for i, f := range s.Files {
		digest, err := in.digest(s, f)
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, CodeFile, "The file %s cannot be laid into the image.", f.Path).At(item(s, "files", i))
		}
		out = append(out, f.Path, f.FileMode(), f.Owner, digest)
	}
	return out, nil
}

// keyOf digests its parts. Parts of one text are never mixed up with those of another: they are lists in JSON.
func keyOf(parent string, parts ...any) string {
	raw, err := json.Marshal(append([]any{parent}, parts...))
	if err != nil { // only texts, numbers, lists and plain structures come here, which always marshal
		raw = fmt.Appendf(nil, "%q %#v", parent, parts)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
