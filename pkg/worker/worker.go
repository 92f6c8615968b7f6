// Package worker is the loop of kiln-worker: it runs the jobs that read and make disks. The rules are in the
// domain; here each job's steps are put in order and its result is written.
package worker

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Store is what the worker keeps things in.
type Store interface {
	job.Store
	job.Transactor
	event.Recorder
	build.Store
	catalog.Store
	upgrade.Store
	upgrade.PlanStore
	advisory.Store
	proof.Store
}

// Checkout is a repository at one commit.
type Checkout struct {
	Commit string
	Files  recipe.Files
	Close  func() error
}

// Suites says which package repositories fixes come from, for an image of a release ("bookworm").
type Suites interface {
	For(codename string) []upgrade.Suite
}

// Indexes reads the signed index of one suite.
type Indexes interface {
	Fetch(ctx context.Context, s deb.Suite) (*deb.Index, error)
}

// Deps is all that a worker needs.
type Deps struct {
	Store    Store
	Glance   catalog.Glance
	Fetch    func(ctx context.Context, url, ref, dir string) (Checkout, error)
	Builders map[string]build.Builder // by name
	Booter   build.Booter             // nil: images are published without a test boot
	Outputs  build.Outputs
	Upgrader upgrade.Upgrader
	Planner  upgrade.Planner // nil: this worker plans no upgrades
	// PackageState reads what Planner is asked about; needed with it.
	PackageState PackageState
	Inspect      func(ctx context.Context, path, format string) (*catalog.Facts, error)
	// InspectAt reads an image of size bytes that is elsewhere, by the first of Remotes that has it; nil: images are
	// always fetched. Where all is false, it leaves out what would fetch much of the image, and says so in the facts.
	InspectAt func(ctx context.Context, r io.ReaderAt, size int64, format string, all bool) (*catalog.Facts, error)
	Remotes   []Remote
	Manifest  func(ctx context.Context, path, format string) ([]catalog.File, error) // every file of the root file system; nil: no list of them
	Signer    *proof.Signer                                                          // nil: images get no signed statement
	Indexes   Indexes
	Suites    Suites
	// Repositories says which rpm repositories fixes come from, for an image's facts; nil: there are none.
	Repositories func(*catalog.Facts) []upgrade.Repository
	// Changelogs tells what fixes are about; nil: only the files do.
	Changelogs Changelogs
	Files      advisory.Files // of the operator
	Name       string         // of this worker, for people
	WorkDir    string         // half-made disks
	CacheDir   string         // what may be fetched again
	Now        func() time.Time
	Log        logrus.FieldLogger

	cache *fixCache // what was read of Files
}

// New makes the folders, removes what a killed worker left, and returns the handlers of the worker queue.
func New(d Deps) ([]job.Handler, error) {
	if d.Now == nil {
		d.Now = time.Now
	}
	d.cache = &fixCache{}
	for _, dir := range []string{d.WorkDir, filepath.Join(d.CacheDir, "images")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		swept, err := disk.Sweep(dir)
		if err != nil {
			return nil, err
		}
		if swept > 0 {
			d.Log.WithField("folders", swept).Info("removed what a killed worker left")
		}
	}
	images := &imageCache{glance: d.Glance, dir: filepath.Join(d.CacheDir, "images"), keep: 8}
	publisher := &publisher{Deps: d, images: images}
	return []job.Handler{
		&syncHandler{d}, &buildHandler{Deps: d, publisher: publisher},
		&inspectHandler{Deps: d, images: images}, &advisoryHandler{d}, &lockHandler{d},
		&planHandler{&buildHandler{Deps: d, publisher: publisher}},
		&upgradeHandler{Deps: d, publisher: publisher, images: images}, &upgradePlanHandler{Deps: d, images: images},
	}, nil
}

// builds is the service of builds, for what ends one and starts the next.
func (d Deps) builds() *build.Service {
	return &build.Service{Store: d.Store, Desk: job.Desk{Jobs: d.Store, Tx: d.Store, Events: d.Store, Now: d.Now, NewID: uuid.NewString}}
}

// work runs f with a private folder that is gone afterwards, also after a kill -9 (the next start sweeps it).
func (d Deps) work(f func(dir string) error) (err error) {
	w, err := disk.NewWork(d.WorkDir)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	return f(w.Path)
}
