package daemon

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/build/output"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/gitsource"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
	"github.com/kiln-cloud/kiln/pkg/upgrade/repofiles"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// Worker runs the jobs that read and make disks.
func Worker(ctx context.Context, p *Parts) error {
	loop, err := p.Worker()
	if err != nil {
		return err
	}
	return Serve(ctx, loop, p.Relay(), p.Monitor())
}

// Worker is the loop of one worker.
func (p *Parts) Worker() (Loop, error) {
	deps, err := p.workerDeps()
	if err != nil {
		return nil, err
	}
	handlers, err := worker.New(deps)
	if err != nil {
		return nil, err
	}
	if err := checkLabels(p.Config.Worker.Labels); err != nil {
		return nil, err
	}
	builders := slices.Sorted(maps.Keys(deps.Builders))
	r := p.runner([]job.Queue{job.WorkerQueue}, handlers, p.Config.Worker.Parallel)
	own := p.ownLabels(deps.Booter)
	r.Labels = p.labels(builders, own)
	return func(ctx context.Context) error {
		if err := p.WaitSchema(ctx); err != nil {
			return err
		}
		return Serve(ctx, r.Serve, func(ctx context.Context) error { return p.register(ctx, builders, own) }, p.quarantine(deps.Booter))
	}, nil
}

func (p *Parts) workerDeps() (worker.Deps, error) {
	c := p.Config.Worker
	mirrors, err := mirrorsOf(c)
	if err != nil {
		return worker.Deps{}, err
	}
	repositories, err := repofiles.Read(p.Config.Upgrade.RPM)
	if err != nil {
		return worker.Deps{}, err
	}
	proxy, err := mirror.New(mirror.Config{Upstreams: append(repositories.Upstreams(), mirrors.Main, mirrors.Security), Dir: filepath.Join(c.CacheDir, "packages"), Log: p.Log})
	if err != nil {
		return worker.Deps{}, err
	}
	builder, err := native.New(native.Config{
		Mirrors: mirrors, Proxy: proxy, Keyring: c.Keyring, StepTime: c.StepTime, Log: p.Log,
		Layers:     layer.Config{Dir: filepath.Join(c.CacheDir, "layers"), MaxBytes: int64(c.LayersGiB) << 30, MaxAge: time.Duration(c.LayersDays) * 24 * time.Hour},
		ArchiveDir: c.ArchiveDir,
	})
	if err != nil {
		return worker.Deps{}, err
	}
	builders, err := p.builders(builder, mirrors, proxy)
	if err != nil {
		return worker.Deps{}, err
	}
	indexes, err := deb.NewClient(deb.ClientConfig{Dir: filepath.Join(c.CacheDir, "indexes"), Keyring: c.Keyring, Log: p.Log})
	if err != nil {
		return worker.Deps{}, err
	}
	signer, err := p.signer()
	if err != nil {
		return worker.Deps{}, err
	}
	booter, err := p.booter()
	if err != nil {
		return worker.Deps{}, err
	}
	guests, err := p.guests()
	if err != nil {
		return worker.Deps{}, err
	}
	library := &scripts.Library{Mirror: proxy}
	planner, err := solve.New(solve.Config{
		Dir: filepath.Join(c.CacheDir, "plans"), Proxy: proxy, Keyring: c.Keyring, Scripts: library, Fixes: solve.Advisories{Store: p.DB}, Log: p.Log,
	})
	if err != nil {
		return worker.Deps{}, err
	}
	caches, err := offline.OpenCaches(filepath.Join(c.CacheDir, "upgrades"), c.Keyring, proxy, p.Log)
	if err != nil {
		return worker.Deps{}, err
	}
	git, hosted := gitsource.Fetcher{AllowLocal: c.LocalSources, SSHKey: c.SourceKey, KnownHosts: c.SourceHosts}, gitsource.Hosted{Store: p.DB, Limits: p.hostedLimits()}
	return worker.Deps{
		Store: p.DB, Glance: p.Glance, Builders: builders, Booter: booter, Outputs: output.Maker{}, Indexes: indexes, Inspect: inspectFile, InspectAt: inspectAt, Remotes: p.remotes(), Manifest: manifestFile, Signer: signer,
		Upgrader: offline.New(offline.Config{
			Proxy: proxy, Keyring: c.Keyring, Classify: library.ClassifyURI, Caches: caches, Guests: guests, GuestTime: p.Config.Worker.QuarantineTime, Log: p.Log,
		}),
		Planner: planner, PackageState: inspect.PackageState,
		Suites: suites{mirrors, p.Config.Upgrade.Suites}, Repositories: repositories.For, Changelogs: proxy, Files: advisory.Files{Tracker: p.Config.Advisory.Tracker, OSV: p.Config.Advisory.OSV},
		Fetch: func(ctx context.Context, url, ref, dir string) (worker.Checkout, error) {
			fetch := git.Fetch
			if _, ours := build.HostedID(url); ours {
				fetch = hosted.Fetch
			}
			co, err := fetch(ctx, url, ref, dir)
			return worker.Checkout{Commit: co.Commit, Files: co.Files, Close: co.Close}, err
		},
		Name: p.Config.Default.Host, WorkDir: c.WorkDir, CacheDir: c.CacheDir, Log: p.Log,
	}, nil
}

// mirrorsOf takes what is configured, and the machine's own apt sources for the rest.
func mirrorsOf(c config.Worker) (deb.Mirrors, error) {
	m := deb.Mirrors{Main: c.Mirror, Security: c.SecurityMirror}
	if m.Main != "" && m.Security != "" {
		return m, nil
	}
	machine, err := deb.MachineMirrors()
	if err != nil {
		return m, err
	}
	if m.Main == "" {
		m.Main = machine.Main
	}
	if m.Security == "" {
		m.Security = machine.Security
	}
	return m, nil
}

// suites are those of [upgrade] suites for a release.
type suites struct {
	mirrors   deb.Mirrors
	templates []string
}

// For implements worker.Suites.
func (s suites) For(codename string) []upgrade.Suite {
	var out []upgrade.Suite
	for _, t := range s.templates {
		suite := upgrade.Suite{Mirror: s.mirrors.Main, Suite: strings.ReplaceAll(t, "{codename}", codename), Components: []string{"main"}}
		if strings.HasSuffix(suite.Suite, "-security") {
			suite.Mirror = s.mirrors.Security
		}
		out = append(out, suite)
	}
	return out
}

// inspectAt finds what can be found without fetching much of the image, or everything.
func inspectAt(ctx context.Context, r io.ReaderAt, size int64, format string, all bool) (*catalog.Facts, error) {
	if all {
		return inspect.Read(ctx, r, size, format)
	}
	return inspect.Collect(ctx, r, size, format)
}

func inspectFile(ctx context.Context, path, format string) (*catalog.Facts, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect.Read(ctx, f, info.Size(), format)
}
