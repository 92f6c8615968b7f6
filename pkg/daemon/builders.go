package daemon

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/dib"
	"github.com/kiln-cloud/kiln/pkg/build/packer"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/version"
)

// Available names the builders whose tools are all on this machine, and whose recipes cannot become root on it; native's
// tools are Kiln's own dependencies.
func Available() []string {
	out := []string{recipe.DefaultBuilder}
	for _, b := range foreign() {
		if !b.rootOnWorker && pen.Missing(b.tools) == "" {
			out = append(out, b.name)
		}
	}
	return out
}

// foreignBuilder is a builder that is a tool of somebody else's.
type foreignBuilder struct {
	name  string
	tools []string
	// rootOnWorker: what a recipe brings runs as root on this machine, so the operator has to ask for it by name.
	rootOnWorker bool
	open         func(p *Parts, mirrors deb.Mirrors, proxy *mirror.Proxy) (build.Builder, error)
}

func foreign() []foreignBuilder {
	return []foreignBuilder{
		{name: packer.Name, tools: packer.Tools, open: func(p *Parts, mirrors deb.Mirrors, proxy *mirror.Proxy) (build.Builder, error) {
			return packer.New(packer.Config{Mirrors: mirrors, Proxy: proxy, Accelerator: p.Config.Worker.Accelerator, Log: p.Log})
		}},
		{name: dib.Name, tools: dib.Tools, rootOnWorker: true, open: func(p *Parts, mirrors deb.Mirrors, proxy *mirror.Proxy) (build.Builder, error) {
			return dib.New(dib.Config{Mirrors: mirrors, Proxy: proxy, CacheDir: filepath.Join(p.Config.Worker.CacheDir, "bases"), Log: p.Log})
		}},
	}
}

// builders are those that [worker] builders names, or all that are available. The native one is made by the caller.
func (p *Parts) builders(native build.Builder, mirrors deb.Mirrors, proxy *mirror.Proxy) (map[string]build.Builder, error) {
	wanted := p.Config.Worker.Builders
	if len(wanted) == 0 {
		wanted = Available()
	}
	out := map[string]build.Builder{}
	for _, name := range wanted {
		if name == native.Name() {
			out[name] = native
			continue
		}
		i := slices.IndexFunc(foreign(), func(b foreignBuilder) bool { return b.name == name })
		if i < 0 {
			return nil, errs.New(errs.Invalid, "kiln.config.builder", "[worker] builders: there is no builder %q", name)
		}
		f := foreign()[i]
		if tool := pen.Missing(f.tools); tool != "" {
			return nil, errs.New(errs.Invalid, "kiln.config.builder", "[worker] builders: %s needs the program %s, which is not on this machine", name, tool)
		}
		b, err := f.open(p, mirrors, proxy)
		if err != nil {
			return nil, err
		}
		out[name] = b
	}
	if out[dib.Name] != nil {
		p.Log.Warning("recipes for the builder diskimage-builder run as root on this machine: leave it out of [worker] builders where their authors are not trusted so far")
	}
	return out, nil
}

// row is what this worker tells about itself now.
func (p *Parts) row(builders, own []string, started time.Time) build.Worker {
	c := p.Config.Worker
	free := freeBytes(c.WorkDir)
	return build.Worker{
		Name: p.Config.Default.Host, Host: p.Config.Default.Host, Arch: runtime.GOARCH, Builders: builders,
		Labels: build.Labels(runtime.GOARCH, builders, free, own), FreeDisk: free, Parallel: c.Parallel,
		Version: version.String(), StartedAt: started, SeenAt: time.Now(),
	}
}

// freeBytes is the room on the disk of a folder, 0 where it cannot be asked.
func freeBytes(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0
	}
	return int64(fs.Bavail) * fs.Bsize
}

// register keeps this worker's row in the register fresh until ctx ends. A database that is away costs a line in
// the log: leases, not this row, decide who works.
func (p *Parts) register(ctx context.Context, builders, own []string) error {
	started := time.Now()
	tick := time.NewTicker(build.WorkerBeat)
	defer tick.Stop()
	for first := true; ; first = false {
		call, stop := context.WithTimeout(ctx, build.WorkerBeat)
		err := p.DB.PutWorker(call, p.row(builders, own, started))
		if err == nil && first {
			err = p.DB.ForgetWorkers(call, started.Add(-build.WorkerForget))
		}
		stop()
		if err != nil && ctx.Err() == nil {
			p.Log.WithError(err).Warning("this worker's row in the register was not written; trying again")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// labels are the worker's, asked before each lease: free space changes.
func (p *Parts) labels(builders, own []string) func() []string {
	return func() []string {
		return build.Labels(runtime.GOARCH, builders, freeBytes(p.Config.Worker.WorkDir), own)
	}
}

// ownLabels are those of the configuration, with one more where this worker can boot what it made.
func (p *Parts) ownLabels(b build.Booter) []string {
	own := slices.Clone(p.Config.Worker.Labels)
	if b != nil {
		own = append(own, upgrade.NeedTestBoot)
	}
	return own
}

// checkLabels refuses labels that say what only Kiln says, or that no need could name.
func checkLabels(labels []string) error {
	for _, l := range labels {
		name, _, _ := strings.Cut(l, "=")
		if l == "" || strings.ContainsAny(l, " \t>") || slices.Contains([]string{"arch", "builder", "disk_gib", upgrade.NeedTestBoot}, name) {
			return errs.New(errs.Invalid, "kiln.config.label", "[worker] labels: %q is no label, or one that the worker gives itself (arch, builder, disk_gib, test_boot)", l)
		}
	}
	return nil
}
