// Package native builds bootable Debian images on this machine, without a virtual machine.
//
// apt's own tools fetch and unpack the base (mmdebstrap in its extract variant, which runs nothing of the image);
// every maintainer script, and every script of the recipe, then runs in pkg/sandbox, whose only network is the
// package mirror. The tree lives in the final file system from the start, so that nothing is copied.
package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors of a native build.
const (
	CodeBootstrap = "kiln.build.bootstrap" // the base could not be fetched or unpacked
	CodePackages  = "kiln.build.packages"  // a package does not exist or does not install
	CodeFile      = "kiln.build.file"      // a file of the recipe cannot be laid
	CodeUser      = "kiln.build.user"      // a user cannot be made
	CodeScript    = "kiln.build.script"    // a script of the recipe failed
	CodeService   = "kiln.build.service"   // a unit cannot be switched
	CodeBoot      = "kiln.build.boot"      // the image cannot be made bootable
	CodeDiskSize  = "kiln.build.disk_size" // disk.size is too small for what the recipe installs
	CodeCancelled = "kiln.build.cancelled" // the context ended
	CodeHost      = "kiln.build.host"      // this host lacks something
	CodeMirror    = "kiln.build.mirror"    // the package mirror does not answer
)

// formatVersion is part of InputState: raise it when the same recipe would give another image.
const formatVersion = "native 1"

// Config is what a Builder needs. Zero fields take the default.
type Config struct {
	Mirrors deb.Mirrors        // where packages come from, and what the image's apt sources name; default deb.MachineMirrors
	Proxy   *mirror.Proxy      // must serve Mirrors.Main
	Keyring string             // default /usr/share/keyrings/debian-archive-keyring.gpg
	Client  *http.Client       // asks for the signed index; default with a 30 s deadline
	Log     logrus.FieldLogger // default: none
	NewUUID func() string      // of disk and partitions; default random
}

// Builder implements build.Builder. It is safe for several builds at the same time.
type Builder struct{ cfg Config }

var _ build.Builder = (*Builder)(nil)

// New makes a Builder. errs.NotFound where the machine's apt knows no Debian mirror and Mirrors is empty.
func New(cfg Config) (*Builder, error) {
	if cfg.Proxy == nil {
		return nil, errs.New(errs.Invalid, CodeHost, "The native builder needs a mirror proxy.")
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
	if cfg.Keyring == "" {
		cfg.Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second}
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	if cfg.NewUUID == nil {
		cfg.NewUUID = uuid.NewString
	}
	return &Builder{cfg: cfg}, nil
}

// Name is "native".
func (b *Builder) Name() string { return "native" }

// InputState is the digest of the release's signed index, with the version of this builder. The image is built from
// the release's main suite alone: what -updates and -security hold comes by upgrades.
func (b *Builder) InputState(ctx context.Context, in build.Request) (string, error) {
	r := in.Recipe
	url := b.cfg.Mirrors.Main + "/dists/" + r.From.Release + "/InRelease"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeMirror, "The mirror's address cannot be used.")
	}
	res, err := b.cfg.Client.Do(req)
	if err != nil {
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror does not answer.")
	}
	defer res.Body.Close() //nolint:errcheck // read only
	switch {
	case res.StatusCode == http.StatusNotFound:
		return "", errs.New(errs.Invalid, CodeMirror, "The package mirror has no release %q.", r.From.Release).At(errs.Where{File: r.Path, Field: "from.release"})
	case res.StatusCode != http.StatusOK:
		return "", errs.New(errs.Unavailable, CodeMirror, "The package mirror answers %s.", res.Status)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(res.Body, 16<<20)); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror's answer broke off.")
	}
	return formatVersion + " " + r.From.Release + " sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// Plan implements build.Builder.
func (b *Builder) Plan(_ context.Context, req build.Request) ([]build.PlannedStep, error) {
	var out []build.PlannedStep
	for _, s := range req.Recipe.Plan {
		out = append(out, build.PlannedStep{Name: s.Name, Recipe: s.Recipe})
	}
	return out, nil
}

// Build makes the image. It needs root. req.Recipe must be resolved (From.Release set).
func (b *Builder) Build(ctx context.Context, req build.Request) (res build.Result, err error) {
	r := withDefaults(req.Recipe)
	if r.From.Release == "" {
		return res, errs.New(errs.Invalid, CodeBootstrap, "The recipe stands on another one that was not resolved.").At(errs.Where{File: r.Path, Field: "from"})
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
	m := &making{builder: b, req: req, recipe: r, proxy: b.cfg.Proxy.View(), work: work.Path, log: req.Log, rootUUID: b.cfg.NewUUID()}
	if m.log == nil {
		m.log = io.Discard
	}
	err = m.run(ctx)
	if m.session != nil {
		if closeErr := m.session.Close(); err == nil {
			err = closeErr
		}
	}
	if err == nil {
		err = m.step(ctx, "convert", m.convert)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeCancelled, "The build was stopped.")
		}
		return build.Result{}, err
	}
	return build.Result{Path: req.Output, Format: r.Output.Format, VirtualSize: int64(r.Disk.Size), Steps: m.steps,
		Downloaded: m.proxy.Stats().BytesUpstream}, nil
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

// making is one build.
type making struct {
	builder  *Builder
	req      build.Request
	recipe   recipe.Recipe
	proxy    *mirror.View // the builder's, with this build's own counters
	work     string
	log      io.Writer
	rootUUID string
	session  *disk.Session
	root     *disk.Mount
	steps    []build.Step
	done     int
}

// stepCount is how many steps run and convert make together.
const stepCount = 9

func (m *making) run(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"disk", m.makeDisk}, {"bootstrap", m.bootstrap}, {"configure", m.configure}, {"packages", m.install},
		{"customise", m.customise}, {"initramfs", m.initramfs}, {"bootloader", m.bootloader}, {"clean", m.clean},
	} {
		if err := m.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// step runs one step, times it and tells the caller about it.
func (m *making) step(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.req.Progress != nil {
		m.req.Progress(name, int64(m.done), stepCount, "steps")
	}
	if _, err := fmt.Fprintf(m.log, "== %s\n", name); err != nil {
		m.builder.cfg.Log.WithError(err).Warn("the build's log cannot be written")
	}
	start := time.Now()
	err := do(ctx)
	m.steps = append(m.steps, build.Step{Name: name, Seconds: time.Since(start).Seconds()})
	m.done++
	return m.explain(err)
}

// explain finds faults that the user can put right behind any step's error.
func (m *making) explain(err error) error {
	if err == nil {
		return nil
	}
	err = disk.OrFull(m.work, err)
	for _, text := range []string{"No space left on device", "You don't have enough free space"} {
		if strings.Contains(err.Error(), text) && errs.CodeOf(err) != disk.CodeFull {
			return errs.Wrap(err, errs.Invalid, CodeDiskSize, "The disk of %s is too small for what the recipe installs; raise disk.size.", m.recipe.Disk.Size).
				At(errs.Where{File: m.recipe.Path, Field: "disk.size"})
		}
	}
	return err
}

func (m *making) rawPath() string { return filepath.Join(m.work, "disk.raw") }

func (m *making) convert(ctx context.Context) error {
	raw := disk.Image{Path: m.rawPath(), Format: disk.Raw}
	if m.recipe.Output.Format == disk.Raw {
		// Work folder and output are on one disk as a rule: then nothing is copied.
		if err := os.Rename(raw.Path, m.req.Output); err == nil {
			return disk.SyncFile(m.req.Output)
		}
	}
	return disk.Convert(ctx, raw, disk.Image{Path: m.req.Output, Format: m.recipe.Output.Format}, func(done, total int64) {
		if m.req.Progress != nil {
			m.req.Progress("convert", done, total, "bytes")
		}
	})
}
