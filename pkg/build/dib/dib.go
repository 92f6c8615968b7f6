// Package dib builds images with diskimage-builder: the elements debian-minimal and vm, those that the recipe asks
// for, and one of our own with the recipe's steps.
//
// disk-image-create runs as root in a pen (pkg/build/pen), and so do the repository's own elements: whoever may write
// recipes for a worker with this builder is root on it. docs/builders.md says so to operators.
package dib

import (
	"context"
	"crypto/rand"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors beside those of steps and of the pen.
const (
	CodeRecipe    = "kiln.build.recipe"    // the recipe asks for what this builder cannot do
	CodeElements  = "kiln.build.elements"  // an element is missing or cannot be read
	CodeTool      = "kiln.build.dib"       // disk-image-create failed, and no step of the recipe is to blame
	CodeCancelled = "kiln.build.cancelled" // the context ended
	CodeDiskSize  = "kiln.build.disk_size" // disk.size is too small for what the recipe installs
	CodeHost      = "kiln.build.host"      // this host lacks something
)

// Name is the builder's name in recipes and labels.
const Name = "diskimage-builder"

// Tools are the programs that must be there.
var Tools = []string{"disk-image-create", "debootstrap", "losetup", "sfdisk", "qemu-img", "unshare", "prlimit"}

// formatVersion is part of InputState: raise it when the same recipe would give another image.
const formatVersion = "diskimage-builder 2"

// Config is what a Builder needs. Zero fields take the default.
type Config struct {
	Mirrors  deb.Mirrors        // where packages come from; default deb.MachineMirrors
	Proxy    *mirror.Proxy      // must serve both Mirrors; it is the tool's only network
	CacheDir string             // keeps unpacked bases; "" for none
	Client   *http.Client       // asks for the signed indexes; default with a 30 s deadline
	Log      logrus.FieldLogger // default: none
	Limits   pen.Limits
}

// Builder implements build.Builder. It is safe for several builds at the same time.
type Builder struct{ cfg Config }

var _ build.Builder = (*Builder)(nil)

// New makes a Builder.
func New(cfg Config) (*Builder, error) {
	if cfg.Proxy == nil {
		return nil, errs.New(errs.Invalid, CodeHost, "The diskimage-builder builder needs a mirror proxy.")
	}
	if cfg.Mirrors.Main == "" {
		m, err := deb.MachineMirrors()
		if err != nil {
			return nil, err
		}
		cfg.Mirrors = m
	}
	if cfg.Mirrors.Security == "" {
		cfg.Mirrors.Security = cfg.Mirrors.Main
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second}
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	return &Builder{cfg: cfg}, nil
}

// Name implements build.Builder.
func (b *Builder) Name() string { return Name }

// InputState is the state of the release's three signed indexes, with the versions of diskimage-builder and of this
// package.
func (b *Builder) InputState(ctx context.Context, req build.Request) (string, error) {
	state, _, err := b.inputs(ctx, req.Recipe)
	return state, err
}

func (b *Builder) inputs(ctx context.Context, r *recipe.Recipe) (state string, materials []build.Material, err error) {
	if err := check(r); err != nil {
		return "", nil, err
	}
	tool, err := steps.ToolVersion(ctx, "python3-diskimage-builder")
	if err != nil {
		return "", nil, err
	}
	materials, err = steps.Indexes(ctx, b.cfg.Client, b.cfg.Mirrors, r.From.Release)
	if errs.Is(err, errs.Invalid) {
		return "", nil, errs.Wrap(err, errs.Invalid, steps.CodeMirror, "There is no release %q.", r.From.Release).At(errs.Where{File: r.Path, Field: "from.release"})
	}
	if err != nil {
		return "", nil, err
	}
	return steps.State(materials, formatVersion, tool, r.From.Release), materials, nil
}

// Names of the builder's own steps.
const (
	stepPrepare = "prepare"
	stepBase    = "bootstrap"
	stepDisk    = "disk"
	stepConvert = "convert"
)

// Plan implements build.Builder. Nothing is kept from build to build but the unpacked base.
func (b *Builder) Plan(_ context.Context, req build.Request) ([]build.PlannedStep, error) {
	if err := check(req.Recipe); err != nil {
		return nil, err
	}
	return steps.Plan(req.Recipe, []string{stepPrepare, stepBase}, []string{stepDisk, stepConvert}), nil
}

var (
	elementName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	settingName = regexp.MustCompile(`^DIB_[A-Z0-9_]+$`)
)

// reserved are settings that the builder makes itself: a recipe with others would not be what it says.
var reserved = map[string]bool{
	"DIB_RELEASE": true, "DIB_IMAGE_SIZE": true, "DIB_IMAGE_CACHE": true, "DIB_LOCKFILES": true, "DIB_PYTHON_EXEC": true,
	"DIB_OFFLINE": true, "DIB_NO_TIMESTAMP": true, "DIB_QUIET": true, "DIB_DISTRIBUTION_MIRROR": true, "DIB_APT_SOURCES_CONF": true,
}

// check refuses what this builder cannot do before anything is built.
func check(r *recipe.Recipe) error {
	refuse := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, CodeRecipe, format, args...).At(errs.Where{File: r.Path, Field: field})
	}
	switch {
	case r.From.Family != "":
		return refuse("from.family", "The builder diskimage-builder makes images from a release; it cannot stand on another image. Use packer or native.")
	case r.From.Release == "":
		return refuse("from", "The recipe stands on another one that was not resolved.")
	case len(r.Disk.Partitions) > 0:
		return refuse("disk.partitions", "The builder diskimage-builder lays partitions by elements; give them as DIB_BLOCK_DEVICE_CONFIG in builder.settings.")
	}
	for _, name := range r.Builder.Elements {
		if !elementName.MatchString(name) || name == ownElement || name == ownSystem {
			return refuse("builder.elements", "%q is not the name of an element", name)
		}
	}
	for name := range r.Builder.Settings {
		if !settingName.MatchString(name) || reserved[name] {
			return refuse("builder.settings", "%q cannot be set: only DIB_… names are, without those that Kiln gives itself", name)
		}
	}
	return nil
}

// Build makes the image. It needs root. req.Recipe must be resolved (From.Release set).
func (b *Builder) Build(ctx context.Context, req build.Request) (res build.Result, err error) {
	if err := check(req.Recipe); err != nil {
		return res, err
	}
	if req.Lock != nil {
		return res, errs.New(errs.Invalid, CodeRecipe, "The builder diskimage-builder cannot keep to a lock; use native.").At(errs.Where{File: req.Recipe.Path, Field: "builder.name"})
	}
	work, err := disk.NewWork(req.WorkDir)
	if err != nil {
		return res, err
	}
	defer func() {
		if closeErr := work.Close(); err == nil {
			err = closeErr
		}
	}()
	m := &making{builder: b, req: req, recipe: withDefaults(req.Recipe), work: work.Path, proxy: b.cfg.Proxy.View(), token: "kiln-" + rand.Text()}
	if err := m.run(ctx); err != nil {
		if ctx.Err() != nil {
			return res, errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeCancelled, "The build was stopped.")
		}
		return res, m.explain(err)
	}
	return build.Result{Path: req.Output, Format: m.recipe.Output.Format, VirtualSize: m.virtualSize, Steps: m.took,
		Downloaded: m.proxy.Stats().BytesUpstream, Materials: m.materials}, nil
}

func withDefaults(in *recipe.Recipe) recipe.Recipe {
	r := *in
	if r.Disk.Size == 0 {
		r.Disk.Size = recipe.DefaultSize
	}
	if r.Kernel.Package == "" {
		r.Kernel.Package = recipe.DefaultKernel
	}
	if r.Output.Format == "" {
		r.Output.Format = recipe.DefaultFormat
	}
	return r
}

// explain finds what the user can put right behind the tool's own words.
func (m *making) explain(err error) error {
	err = disk.OrFull(m.work, err)
	if errs.CodeOf(err) == disk.CodeFull {
		return err
	}
	if text := err.Error(); strings.Contains(text, "No space left on device") || strings.Contains(text, "You don't have enough free space") {
		return errs.Wrap(err, errs.Invalid, CodeDiskSize, "The disk of %s is too small for what the recipe installs; raise disk.size.", m.recipe.Disk.Size).
			At(errs.Where{File: m.recipe.Path, Field: "disk.size"})
	}
	if errs.CodeOf(err) == pen.CodeExit {
		kind := errs.Invalid
		if !m.based { // the release's own packages could not be fetched or unpacked: no recipe is to blame
			kind = errs.Unavailable
		}
		return errs.Wrap(err, kind, CodeTool, "diskimage-builder could not make the image.").At(errs.Where{File: m.recipe.Path, Field: "builder"})
	}
	return err
}

func (m *making) at(name string) string { return filepath.Join(m.work, name) }
