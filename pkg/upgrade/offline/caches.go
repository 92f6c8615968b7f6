package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/lists"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/pool"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/reuse"
	"github.com/kiln-cloud/kiln/pkg/upgrade/record"
)

// Caches are what one upgrade leaves for the next ones, of any image. Each may be nil: then that part is done anew every
// time. They change how long an upgrade takes, not what it makes.
type Caches struct {
	Lists    *lists.Shelf  // package lists, verified once
	Packages *pool.Store   // packages, verified and unpacked once
	Results  *reuse.Cache  // initial RAM disks, for images where every input of them is the same
	Records  *record.Store // what batches share, for images where every input of it is the same
}

// OpenCaches opens all of them below a folder that several processes may share.
func OpenCaches(dir, keyring string, proxy *mirror.Proxy, log logrus.FieldLogger) (c Caches, err error) {
	signed := filepath.Join(dir, "lists")
	client, err := deb.NewClient(deb.ClientConfig{Dir: signed, Keyring: keyring, HTTP: proxy.Client(), Log: log})
	if err != nil {
		return Caches{}, err
	}
	c.Lists = lists.New(signed, client)
	if c.Packages, err = pool.Open(pool.Config{Dir: filepath.Join(dir, "unpacked"), Log: log}); err != nil {
		return Caches{}, err
	}
	if c.Results, err = reuse.Open(reuse.Config{Dir: filepath.Join(dir, "results"), Log: log}); err != nil {
		return Caches{}, err
	}
	c.Records = &record.Store{Dir: filepath.Join(dir, "records")}
	return c, nil
}

// layLists brings the lists without apt. It is false where apt has to fetch them: it names best what is wrong with them.
func (r *run) layLists(ctx context.Context, root *os.Root) (bool, error) {
	if r.cfg.Caches.Lists == nil {
		return false, nil
	}
	archs, err := r.architectures(root)
	if err != nil {
		return false, err
	}
	installed := make([]string, len(r.before))
	for i, p := range r.before {
		installed[i] = p.Name
	}
	err = r.cfg.Caches.Lists.Lay(ctx, r.req.Suites, archs, installed, filepath.Join(r.control(), "lists"))
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.WithError(err).Info("apt fetches the package lists itself")
		return false, r.emptyLists()
	}
	return err == nil, err
}

func (r *run) emptyLists() error {
	dir := filepath.Join(r.control(), "lists")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "partial"), 0o755)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	return nil
}

// architectures are those of the image: its own, and those that dpkg was told to accept too.
func (r *run) architectures(root *os.Root) ([]string, error) {
	var archs []string
	for _, p := range r.before {
		if p.Name == "dpkg" {
			archs = append(archs, p.Architecture)
		}
	}
	foreign, err := readFile(root, "var/lib/dpkg/arch", 1<<16)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cannotRead(err, "var/lib/dpkg/arch")
	}
	for arch := range strings.FieldsSeq(string(foreign)) {
		if plainWord.MatchString(arch) && !slices.Contains(archs, arch) {
			archs = append(archs, arch)
		}
	}
	if len(archs) == 0 {
		return nil, errs.New(errs.Invalid, CodeLayout, "the image has no dpkg")
	}
	return archs, nil
}

// Where the packages of the plan are seen in the image.
const (
	stockInside = "/run/kiln-packages"
	stockFile   = "_run_kiln-packages_._"
	stockLists  = "stock/lists"
	stockSource = "stock/sources.list"
)

// stock brings the packages of the plan into the store and lays a repository of just them, which apt reads in place: nothing
// is fetched, compared or uncompressed again. Without it apt fetches them through the proxy.
func (r *run) stock(ctx context.Context) error {
	if r.cfg.Caches.Packages == nil || len(r.plan.uris) == 0 {
		return nil
	}
	var packages []pool.Source
	for name, uri := range r.plan.uris {
		if r.isMade(name) {
			continue
		}
		p, ok := r.source(name, uri, r.plan.sums[name])
		if !ok {
			return nil // apt knows a checksum of another kind, and checks it
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		return nil
	}
	slices.SortFunc(packages, func(a, b pool.Source) int { return strings.Compare(a.Name, b.Name) })
	err := r.fill(ctx, packages)
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.WithError(err).Info("the packages come without the store")
		return nil
	}
	return err
}

// source is a package file as the store takes it; false where the index names no SHA-256 of it.
func (r *run) source(name, uri, sum string) (pool.Source, bool) {
	sum, ok := strings.CutPrefix(sum, "SHA256:")
	return pool.Source{Name: name, SHA256: sum, Open: func(ctx context.Context) (io.ReadCloser, error) { return r.proxy.Fetch(ctx, uri) }}, ok
}

// bring lays a repository of just these packages, which the store has or gets, and the files by which apt knows it, by their
// names in the control folder.
func bring(ctx context.Context, store *pool.Store, packages []pool.Source) (*pool.Plan, map[string][]byte, error) {
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, p := range packages {
		group.Go(func() error { return store.Bring(limited, p) })
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	repository, index, err := store.Lay(packages)
	return repository, map[string][]byte{
		stockSource: []byte("deb [trusted=yes] file:" + stockInside + " ./\n"),
		// Under the names that apt gives them after an update.
		stockLists + "/" + stockFile + "Packages": index,
		stockLists + "/" + stockFile + "Release":  []byte("Origin: Kiln\nSuite: plan\nCodename: plan\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"),
	}, err
}

func (r *run) fill(ctx context.Context, packages []pool.Source) error {
	repository, files, err := bring(ctx, r.cfg.Caches.Packages, packages)
	if err != nil {
		return err
	}
	r.stocked = repository // closed with the run, however this goes on
	if err := os.MkdirAll(filepath.Join(r.control(), stockLists, "partial"), 0o755); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.control(), name), text, 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	// apt takes what is in its cache by name and size, and does not compute four checksums of every byte.
	for _, p := range packages {
		if err := os.Symlink(stockInside+"/"+p.Name, filepath.Join(r.control(), "cache/archives", p.Name)); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	r.ready = true
	return nil
}

// stockOptions are apt's for the packages of the plan. What may come was decided when it was made: there is nothing else
// here, so no preference counts.
func stockOptions() []string {
	return []string{
		"Dir::Etc::SourceList=" + controlInside + "/" + stockSource,
		"Dir::State::Lists=" + controlInside + "/" + stockLists,
		"Dir::Etc::Preferences=/dev/null",
		"Dir::Etc::PreferencesParts=/dev/null",
	}
}

// stockBinds show the packages in the image, which cannot change them.
func (r *run) stockBinds() []sandbox.Bind {
	if !r.ready {
		return nil
	}
	return []sandbox.Bind{{Source: r.stocked.Dir, Target: stockInside, ReadOnly: true}}
}

func (r *run) tell(format string, args ...any) {
	fmt.Fprintf(r.log, format+"\n", args...) //nolint:errcheck // a log
}

func (r *run) closeStock() error {
	if r.stocked == nil {
		return nil
	}
	return r.stocked.Close()
}
