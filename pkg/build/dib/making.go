package dib

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// making is one build.
type making struct {
	builder     *Builder
	req         build.Request
	recipe      recipe.Recipe
	work        string
	proxy       *mirror.View
	token       string
	state       string
	materials   []build.Material
	set         *steps.Set
	took        []build.Step
	done        int
	based       bool // the release is unpacked and the recipe's own steps run, or have run
	virtualSize int64
}

func (m *making) run(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{{stepPrepare, m.prepare}, {stepBase, m.create}, {stepConvert, m.convert}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.begin(s.name)
		start := time.Now()
		if err := s.do(ctx); err != nil {
			return err
		}
		if s.name != stepBase { // whose time is in parts
			m.end(s.name, time.Since(start))
		}
	}
	return nil
}

// begin tells that a step begins.
func (m *making) begin(name string) {
	if m.req.Progress != nil {
		m.req.Progress(name, int64(m.done), int64(len(m.recipe.Plan)+4), "steps")
	}
	m.say("== %s\n", name)
}

func (m *making) end(name string, took time.Duration) {
	m.took = append(m.took, build.Step{Name: name, Seconds: took.Seconds()})
	m.done++
}

func (m *making) say(format string, args ...any) {
	if m.req.Log == nil {
		return
	}
	if _, err := fmt.Fprintf(m.req.Log, format, args...); err != nil {
		m.builder.cfg.Log.WithError(err).Warn("the build's log cannot be written")
	}
}

// prepare lays everything that disk-image-create reads.
func (m *making) prepare(ctx context.Context) (err error) {
	if m.state, m.materials, err = m.builder.inputs(ctx, &m.recipe); err != nil {
		return err
	}
	if m.set, err = steps.Lay(m.at("elements/"+ownElement+"/steps"), m.token, &m.recipe, m.req.Files); err != nil {
		return err
	}
	if err := m.layElements(); err != nil {
		return err
	}
	if err := layTools(m.at("bin")); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The build's own programs cannot be written.")
	}
	return m.fromCache()
}

// create runs disk-image-create.
func (m *making) create(ctx context.Context) error {
	start := time.Now()
	watch := m.set.Watch()
	watch.Begun = func(i int, s recipe.Step) {
		if !m.based {
			m.end(stepBase, time.Since(start))
			m.based = true
			m.toCache()
		}
		m.begin(s.Name)
		m.done++
	}
	var last time.Time
	limits := m.builder.cfg.Limits
	if limits.FileBytes == 0 {
		limits.FileBytes = int64(m.recipe.Disk.Size) + 16<<30
	}
	err := pen.Run(ctx, pen.Spec{
		Dir: m.work, Args: m.command(), Env: m.environment(), Nodes: pen.LoopNodes(), Proxy: m.proxy, Log: m.req.Log, Limits: limits,
		Line: func(text string) {
			watch.Line(text)
			if n := len(m.recipe.Plan); last.IsZero() && len(watch.Took) == n && (n > 0 || text == noStepsLine(m.token)) {
				last = time.Now()
				m.based = true
				m.begin(stepDisk)
			}
		},
	})
	m.took = append(m.took, watch.Took...)
	if err != nil {
		return watch.Explain(err)
	}
	m.end(stepDisk, time.Since(last))
	return nil
}

func (m *making) command() []string {
	device := "vm" // brings block-device-mbr
	args := []string{"disk-image-create", "-n", "-a", "amd64", "-t", disk.Raw, "-o", pen.Work + "/image", m.system()}
	if f := m.recipe.Disk.Firmware; f == "uefi" || f == "both" {
		args = append(args, "block-device-efi")
	}
	args = append(args, device)
	args = append(args, m.recipe.Builder.Elements...)
	return append(args, ownElement)
}

// environment is what disk-image-create is told, the recipe's own settings last.
func (m *making) environment() []string {
	mirrors := m.builder.cfg.Mirrors
	const proxy = "http://" + pen.Proxy
	vars := map[string]string{
		"DIB_GRUB_TIMEOUT":                  "0",
		"DIB_APT_MINIMAL_CREATE_INTERFACES": "0",
		"DIB_BOOTLOADER_DEFAULT_CMDLINE":    m.recipe.Kernel.Arguments,
		"DIB_NO_TMPFS":                      "1",
		"DIB_APT_LOCAL_CACHE":               "0",
		"DIB_DEBIAN_SECURITY_MIRROR":        mirrors.Security,
		"DIB_DEBOOTSTRAP_CACHE":             "1",
		"DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE":  "1",
	}
	maps.Copy(vars, m.recipe.Builder.Settings)
	maps.Copy(vars, map[string]string{
		"DIB_RELEASE":             m.recipe.From.Release,
		"DIB_DISTRIBUTION_MIRROR": mirrors.Main,
		"DIB_APT_SOURCES_CONF": fmt.Sprintf("default:deb %[1]s %[3]s main\nupdates:deb %[1]s %[3]s-updates main\nsecurity:deb %[2]s %[3]s-security main",
			mirrors.Main, mirrors.Security, m.recipe.From.Release),
		"DIB_IMAGE_SIZE":   fmt.Sprintf("%.9f", float64(m.recipe.Disk.Size)/(1<<30)),
		"DIB_IMAGE_CACHE":  pen.Work + "/cache",
		"DIB_LOCKFILES":    pen.Work + "/locks",
		"DIB_NO_TIMESTAMP": "1",
		"ELEMENTS_PATH":    pen.Work + "/elements:" + pen.Work + "/repository",
		"TMP_DIR":          "/tmp",
		"http_proxy":       proxy,
		"https_proxy":      proxy,
		"no_proxy":         "",
	})
	out := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, name+"="+vars[name])
	}
	return out
}

// convert turns the raw disk into the asked format.
func (m *making) convert(ctx context.Context) error {
	raw := disk.Image{Path: m.at("image.raw"), Format: disk.Raw}
	info, err := os.Stat(raw.Path)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeTool, "disk-image-create left no image.")
	}
	m.virtualSize = info.Size()
	if m.recipe.Output.Format == disk.Raw {
		if err := os.Rename(raw.Path, m.req.Output); err == nil {
			return disk.SyncFile(m.req.Output)
		}
	}
	return disk.Convert(ctx, raw, disk.Image{Path: m.req.Output, Format: m.recipe.Output.Format}, func(done, total int64) {
		if m.req.Progress != nil {
			m.req.Progress(stepConvert, done, total, "bytes")
		}
	})
}

// copyFile copies what may be large; it is a link where both are on one disk.
func copyFile(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	part := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".part")
	out, err := os.Create(part)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		os.Remove(part) //nolint:errcheck // the error that came first counts
	}
	return err
}
