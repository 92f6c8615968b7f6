// Package packer builds images with Debian's packer: its QEMU builder boots a copy of the base, the recipe's steps and
// then the provisioners of a template of the repository run inside over SSH, and what made the build possible (a key,
// the proxy, cloud-init's own state) is taken out again.
//
// packer and QEMU run as root in a pen (pkg/build/pen); what the recipe brings runs in the virtual machine alone.
package packer

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/catalog"
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
	CodeTemplate  = "kiln.build.template"  // the packer template cannot be used, or one of its provisioners failed
	CodeBase      = "kiln.build.base"      // the base does not come up, or lacks what packer needs
	CodeTool      = "kiln.build.packer"    // packer failed, and nothing of the recipe is to blame
	CodeCancelled = "kiln.build.cancelled" // the context ended
	CodeHost      = "kiln.build.host"      // this host lacks something
)

// Name is the builder's name in recipes and labels.
const Name = "packer"

// Tools are the programs that must be there.
var Tools = []string{"packer", "qemu-system-x86_64", "qemu-img", "genisoimage", "ssh-keygen", "unshare", "prlimit"}

// formatVersion is part of InputState: raise it when the same recipe would give another image.
const formatVersion = "packer 1"

// Accelerators.
const (
	TCG  = "tcg"  // QEMU's own translation: everywhere, and ten times slower
	KVM  = "kvm"  // the host's virtualisation
	Auto = "auto" // KVM where /dev/kvm can be opened
)

// Config is what a Builder needs. Zero fields take the default.
type Config struct {
	Mirrors     deb.Mirrors        // where packages come from; default deb.MachineMirrors
	Proxy       *mirror.Proxy      // must serve both Mirrors; it is the guest's only network
	Accelerator string             // default TCG
	CPUs        int                // of the guest; default 2
	MemoryMiB   int                // of the guest; default 1024
	BootTime    time.Duration      // until SSH answers; default 15 minutes
	Client      *http.Client       // asks for the signed indexes; default with a 30 s deadline
	Log         logrus.FieldLogger // default: none
	Limits      pen.Limits
}

// Builder implements build.Builder. It is safe for several builds at the same time.
type Builder struct{ cfg Config }

var _ build.Builder = (*Builder)(nil)

// New makes a Builder.
func New(cfg Config) (*Builder, error) {
	if cfg.Proxy == nil {
		return nil, errs.New(errs.Invalid, CodeHost, "The packer builder needs a mirror proxy.")
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
	switch cfg.Accelerator {
	case "":
		cfg.Accelerator = TCG
	case TCG, KVM, Auto:
	default:
		return nil, errs.New(errs.Invalid, CodeHost, "%q is no accelerator: give tcg, kvm or auto.", cfg.Accelerator)
	}
	if cfg.CPUs <= 0 {
		cfg.CPUs = 2
	}
	if cfg.MemoryMiB <= 0 {
		cfg.MemoryMiB = 1024
	}
	if cfg.BootTime <= 0 {
		cfg.BootTime = 15 * time.Minute
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second}
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	return &Builder{cfg: cfg}, nil
}

// accelerator is what this build uses.
func (b *Builder) accelerator() string {
	if b.cfg.Accelerator != Auto {
		return b.cfg.Accelerator
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG
	}
	f.Close() //nolint:errcheck // nothing was written
	return KVM
}

// Name implements build.Builder.
func (b *Builder) Name() string { return Name }

// InputState is the base's digest and the state of its release's three signed indexes, with the versions of packer and
// of this package.
func (b *Builder) InputState(ctx context.Context, req build.Request) (string, error) {
	state, _, err := b.inputs(ctx, req)
	return state, err
}

func (b *Builder) inputs(ctx context.Context, req build.Request) (state string, materials []build.Material, err error) {
	if err := check(req); err != nil {
		return "", nil, err
	}
	tool, err := steps.ToolVersion(ctx, "packer")
	if err != nil {
		return "", nil, err
	}
	materials, err = steps.Indexes(ctx, b.cfg.Client, b.cfg.Mirrors, req.Base.Facts.OS.Codename)
	if err != nil {
		return "", nil, err
	}
	return steps.State(materials, formatVersion, tool, req.Base.Digest), append(materials, build.Material{URI: "kiln:" + string(req.Base.Family) + "/" + req.Base.Version, Digest: req.Base.Digest}), nil
}

// Names of the builder's own steps.
const (
	stepPrepare = "prepare"
	stepBoot    = "boot"
	stepOthers  = "provisioners"
	stepClean   = "clean"
	stepConvert = "convert"
)

// Plan implements build.Builder. Nothing is kept from build to build.
func (b *Builder) Plan(_ context.Context, req build.Request) ([]build.PlannedStep, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	return steps.Plan(req.Recipe, []string{stepPrepare, stepBoot}, after(req.Recipe)), nil
}

// after is the builder's own steps after those of the recipe.
func after(r *recipe.Recipe) []string {
	if r.Builder.Template == "" {
		return []string{stepClean, stepConvert}
	}
	return []string{stepOthers, stepClean, stepConvert}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check refuses what this builder cannot do before anything is built.
func check(req build.Request) error {
	r := req.Recipe
	refuse := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, CodeRecipe, format, args...).At(errs.Where{File: r.Path, Field: field})
	}
	switch {
	case req.Base == nil:
		return refuse("from.family", "The builder packer boots an image and changes it: name the family to stand on in from.family. It makes none from a release.")
	case len(r.Disk.Partitions) > 0:
		return refuse("disk.partitions", "The builder packer keeps the partitions of its base; use native.")
	case len(r.Builder.Settings) > 0 && r.Builder.Template == "":
		return refuse("builder.settings", "The settings are variables of a packer template: name one in builder.template.")
	}
	for name := range r.Builder.Settings {
		if !variableName.MatchString(name) {
			return refuse("builder.settings", "%q is not the name of a variable", name)
		}
	}
	if req.Lock != nil {
		return refuse("builder.name", "The builder packer cannot keep to a lock; use native.")
	}
	if req.Base.Facts == nil || req.Base.Facts.OS.Codename == "" {
		return errs.New(errs.Invalid, CodeBase, "It is not known which release the base is.").At(errs.Where{File: r.Path, Field: "from.family"})
	}
	for _, need := range []string{"cloud-init", "openssh-server"} {
		if !slices.ContainsFunc(req.Base.Facts.Packages, func(p catalog.Package) bool { return p.Name == need }) {
			return errs.New(errs.Invalid, CodeBase, "The base lacks the package %s, by which packer comes in.", need).At(errs.Where{File: r.Path, Field: "from.family"})
		}
	}
	return nil
}

// Build makes the image. It needs root.
func (b *Builder) Build(ctx context.Context, req build.Request) (res build.Result, err error) {
	if err := check(req); err != nil {
		return res, err
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
	m := &making{builder: b, req: req, recipe: *req.Recipe, work: work.Path, proxy: b.cfg.Proxy.View(), token: "kiln-" + rand.Text(), id: rand.Text()}
	if m.recipe.Output.Format == "" {
		m.recipe.Output.Format = recipe.DefaultFormat
	}
	if err := m.run(ctx); err != nil {
		if ctx.Err() != nil {
			return res, errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeCancelled, "The build was stopped.")
		}
		return res, m.explain(err)
	}
	return build.Result{Path: req.Output, Format: m.recipe.Output.Format, VirtualSize: m.virtualSize, Steps: m.took,
		Downloaded: m.proxy.Stats().BytesUpstream, Materials: m.materials}, nil
}

// explain says what the user can put right.
func (m *making) explain(err error) error {
	err = disk.OrFull(m.work, err)
	if errs.CodeOf(err) != pen.CodeExit {
		return err
	}
	switch m.phase {
	case stepBoot:
		return errs.New(errs.Invalid, CodeBase, "The base did not come up with SSH. %s%s", lastOf(err), m.console()).At(errs.Where{File: m.recipe.Path, Field: "from.family"})
	case stepOthers:
		return errs.New(errs.Invalid, CodeTemplate, "A provisioner of the template failed. %s", lastOf(err)).At(errs.Where{File: m.recipe.Path, Field: "builder.template"})
	}
	return errs.Wrap(err, errs.Internal, CodeTool, "packer could not make the image.")
}

func lastOf(err error) string {
	_, text, _ := strings.Cut(err.Error(), "Its last lines were: ")
	return text
}

// console is the end of what the guest said, for an error.
func (m *making) console() string {
	raw, err := os.ReadFile(m.at("console.log"))
	if err != nil || len(raw) == 0 {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r < 0x7f {
			return r
		}
		return -1
	}, string(raw[max(0, len(raw)-800):]))
	return "\nThe console ended with: " + strings.TrimSpace(text)
}

func (m *making) at(name string) string { return filepath.Join(m.work, name) }
