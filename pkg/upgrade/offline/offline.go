// Package offline upgrades the packages of an image without booting it: on a copy, in a sandbox whose
// only network is a package mirror, and it hands out the result only after checks that a broken
// image does not pass.
package offline

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/pool"
)

// Codes of the errors that Upgrade gives beside those of pkg/disk, pkg/sandbox and inspect.
const (
	CodeRequest  = "kiln.upgrade.request"   // the request cannot work
	CodeLayout   = "kiln.upgrade.layout"    // a disk layout that cannot be upgraded offline yet
	CodeDiskFull = "kiln.upgrade.disk_full" // the image's file system is too small for the new packages
	CodeMirror   = "kiln.upgrade.mirror"    // packages could not be fetched
	CodePackages = "kiln.upgrade.packages"  // apt or dpkg failed inside the image
	CodeGate     = "kiln.upgrade.gate"      // the upgraded image failed a check

	CodeConffiles = "kiln.upgrade.conffiles"     // owner and packages both changed configuration files, and the policy is to fail
	CodeRunning   = "kiln.upgrade.needs_running" // packages need a running system, and the policy is to give them one
	CodeSignature = "kiln.upgrade.signature"     // a repository that is not signed by a trusted key, or whose signature is too old
)

// Config says with what upgrades are made. Proxy is needed; it must serve the mirrors of the requests.
type Config struct {
	Proxy   *mirror.Proxy
	Keyring string        // trusted for all suites; default deb.DefaultKeyring
	Timeout time.Duration // of each command in the image; default 1 hour
	// Classify tells what the maintainer scripts of the package file at an address need, and what in them says so. nil:
	// all are taken to be safe.
	Classify func(ctx context.Context, uri string) (upgrade.Script, string, error)
	Caches   Caches // of what is the same for many images; its zero value has none
	Log      logrus.FieldLogger

	Guests    Guests        // boot copies for packages that need a running system; nil: the policy to do so is refused
	GuestTime time.Duration // of what is done in one such boot, until the machine is off; default 30 minutes
}

// Executor makes upgrades. It implements upgrade.Upgrader; its methods may run at the same time.
type Executor struct {
	cfg        Config
	changelogs changelogs
}

var _ upgrade.Upgrader = (*Executor)(nil)

// New fills in the defaults.
func New(cfg Config) *Executor {
	if cfg.Keyring == "" {
		cfg.Keyring = deb.DefaultKeyring
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Hour
	}
	if cfg.GuestTime <= 0 {
		cfg.GuestTime = defaultGuestTime
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	return &Executor{cfg: cfg}
}

// run is one upgrade on its way.
type run struct {
	cfg        Config
	changelogs *changelogs
	req        upgrade.Request
	log        io.Writer
	proxy      *mirror.View // with this upgrade's own counters
	begun      time.Time
	report     upgrade.Report
	facts      *catalog.Facts

	work    *disk.Work
	raw     string   // the copy that is worked on
	loop    *os.File // the device of its root; nil where each mount makes its own
	parts   []disk.Partition
	root    disk.Partition
	session *disk.Session
	mount   *disk.Mount
	before  []deb.Package
	shared  *sharing             // the one that is being made
	shares  int                  // of those of the request that are made
	made    []upgrade.PackageRef // changes of the plan that came from a record or went into one
	touched bool                 // by a record, or by the recording: a failure may come from that
	pinned  []deb.Package        // packages that must stay as they are; without a version: must not come
	plan    plan
	stocked *pool.Plan // the repository of the plan's packages; nil where apt fetches them itself
	ready   bool       // apt is to read it
	quick   []string   // programs that stand in for those of the image
	short   shortage
	old     before
	boot    *quarantine // nil where nothing needs it
}

// Upgrade makes a new image with all packages that the suites of the request offer, or reports that
// there are none. The original is only read. Whatever goes wrong, nothing stays mounted and there is
// no output file; after a kill -9 the work folder alone is left, for disk.Sweep.
func (e *Executor) Upgrade(ctx context.Context, req upgrade.Request) (upgrade.Report, error) {
	if err := checkRequest(req); err != nil {
		return upgrade.Report{}, err
	}
	r := e.newRun(req)
	err := r.all(ctx)
	if err != nil && r.touched && ctx.Err() == nil {
		// What was shared may be the reason. The package manager alone decides whether the image can be upgraded.
		e.cfg.Log.WithError(err).Warn("an upgrade with shared changes failed: it begins again without them")
		fetched := r.proxy
		alone := req
		alone.Shares = nil
		r = e.newRun(alone)
		r.proxy = fetched
		r.report.Record = "failed with the shared changes: " + err.Error()
		err = r.all(ctx)
	}
	r.report.Downloaded = r.proxy.Stats().BytesUpstream
	if err != nil {
		return upgrade.Report{Steps: r.report.Steps, Downloaded: r.report.Downloaded}, err
	}
	return r.report, nil
}

func (e *Executor) newRun(req upgrade.Request) *run {
	r := &run{cfg: e.cfg, changelogs: &e.changelogs, req: req, log: req.Log, proxy: e.cfg.Proxy.View(), begun: time.Now()}
	r.report.Packages, r.report.CVEs, r.report.Held = []upgrade.PackageChange{}, []string{}, []string{}
	r.report.Conffiles, r.report.Strays, r.report.Setuid, r.report.Scripts = []upgrade.Conffile{}, []upgrade.Stray{}, []string{}, []upgrade.Ran{}
	if r.log == nil {
		r.log = io.Discard
	}
	return r
}

func (r *run) all(ctx context.Context) (err error) {
	if err := r.step(ctx, "inspect", r.inspect); err != nil {
		return err
	}
	if r.work, err = disk.NewWork(r.req.WorkDir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.freeLoop(), r.closeStock(), r.closeQuarantine(), r.work.Close()) }()
	r.raw = filepath.Join(r.work.Path, "disk.raw")
	if err := r.step(ctx, "copy", r.copyOriginal); err != nil {
		return err
	}
	if err := errors.Join(r.mounted(ctx), r.freeLoop()); err != nil || r.report.Unchanged {
		return err
	}
	if err := r.step(ctx, "check file system", r.checkFileSystem); err != nil {
		return err
	}
	return r.step(ctx, "write", r.writeResult)
}

// mounted does what needs the image's file system. It is unmounted when this returns.
func (r *run) mounted(ctx context.Context) (err error) {
	if r.session, err = disk.OpenSession(ctx, r.work.Path); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.session.Close()) }()
	if err := r.mountRoot(ctx); err != nil {
		return err
	}
	if r.facts.PackageKind == "rpm" {
		return r.upgradeRPM(ctx)
	}
	if err := r.inRoot(r.lookFirst); err != nil {
		return err
	}
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	if err := r.inRoot(func(root *os.Root) error { return r.planAll(ctx, root) }); err != nil || r.report.Unchanged {
		return err
	}
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	if err := r.inRoot(func(root *os.Root) error { return r.change(ctx, root) }); err != nil {
		return err
	}
	if r.boot != nil {
		if err := r.step(ctx, "quarantine boot", r.bootQuarantine); err != nil {
			return err
		}
	}
	if err := r.inRoot(func(root *os.Root) error { return r.approve(ctx, root) }); err != nil {
		return err
	}
	return r.step(ctx, "trim", r.trim)
}

// inRoot gives f the mounted tree, which cannot be unmounted before f returns.
func (r *run) inRoot(f func(*os.Root) error) error {
	root, err := r.mount.Root()
	if err != nil {
		return err
	}
	return errors.Join(f(root), root.Close())
}

// lookFirst refuses what cannot be upgraded before any program of the image runs.
func (r *run) lookFirst(root *os.Root) (err error) {
	if err := checkFolders(root); err != nil {
		return err
	}
	if err := checkInterrupted(root); err != nil {
		return err
	}
	if r.before, err = readStatus(root); err != nil {
		return err
	}
	if err := r.checkLayout(root); err != nil {
		return err
	}
	return r.measure(root)
}

// planAll finds out what is to be done, and changes nothing. Meanwhile it reads what the gate will compare with.
func (r *run) planAll(ctx context.Context, root *os.Root) error {
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		r.old, err = r.remember(both, root)
		return err
	})
	group.Go(func() error {
		if err := r.step(both, "lists", func(ctx context.Context) error { return r.fetchLists(ctx, root) }); err != nil {
			return err
		}
		return r.step(both, "plan", func(ctx context.Context) error { return r.makePlan(ctx, root) })
	})
	return group.Wait()
}

// mountRoot mounts the copy. What counts is on the disk after the unmount, or the copy is thrown away: so there
// are no barriers, files that are replaced are not written at once (noauto_da_alloc), and ext4 works without its journal, whose
// every write would differ from the old version's. A file system that was not unmounted cleanly is mounted with it, which replays
// what it holds.
func (r *run) mountRoot(ctx context.Context) error {
	if r.facts.FileSystem == "ext4" {
		if err := r.mountWith(ctx, "noatime,noload,nobarrier,noauto_da_alloc"); errs.CodeOf(err) != disk.CodeMount {
			return err
		}
	}
	return r.mountWith(ctx, r.withJournal())
}

// withJournal are the options for a mount that keeps the file system whole by itself. xfs knows no barriers any more.
func (r *run) withJournal() string {
	if r.facts.FileSystem == "xfs" {
		return "noatime,nouuid" // another image made from the same one may be mounted beside it
	}
	return "noatime,nobarrier"
}

func (r *run) mountWith(ctx context.Context, options string) (err error) {
	if r.loop != nil {
		r.mount, err = r.session.MountLoop(ctx, r.loop, r.facts.FileSystem, options)
		return err
	}
	r.mount, err = r.session.MountRaw(ctx, r.raw, r.root.Start, r.root.Length, r.facts.FileSystem, options)
	return err
}

// change upgrades the packages.
func (r *run) change(ctx context.Context, root *os.Root) (err error) {
	r.quick = quickPrograms(root)
	if r.boot != nil {
		if err := r.step(ctx, "quarantine packages", r.stockQuarantine); err != nil {
			return err
		}
	}
	if err := r.refuseConffiles(ctx, r.old.conffiles); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.endSharing()) }()
	if err := r.step(ctx, "shared", func(ctx context.Context) error { return r.replayShare(ctx, root) }); err != nil {
		return err
	}
	if err := r.step(ctx, "store", r.stock); err != nil {
		return err
	}
	if err := r.step(ctx, "packages", func(ctx context.Context) error { return r.upgradePackages(ctx, root) }); err != nil {
		return err
	}
	return r.step(ctx, "boot", func(ctx context.Context) error { return r.finishBoot(ctx, root) })
}

// approve puts back what must not change, and checks the rest.
func (r *run) approve(ctx context.Context, root *os.Root) error {
	if err := r.old.identity.restore(root); err != nil {
		return err
	}
	if err := r.step(ctx, "check packages", func(ctx context.Context) error { return r.gate(ctx, root, r.old) }); err != nil {
		return err
	}
	return r.step(ctx, "changes", func(ctx context.Context) error { return r.findChanges(ctx, root) })
}

// step runs one part, and keeps how long it took.
func (r *run) step(ctx context.Context, name string, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.progress(name, 0, 0, "")
	begin := time.Now()
	err := disk.OrFull(r.req.WorkDir, f(ctx))
	r.report.Steps = append(r.report.Steps, build.Step{Name: name, Seconds: time.Since(begin).Seconds()})
	return err
}

func (r *run) progress(step string, done, total int64, unit string) {
	if r.req.Progress != nil {
		r.req.Progress(step, done, total, unit)
	}
}

// inspect reads the original and refuses what cannot be upgraded, before anything is copied.
func (r *run) inspect(ctx context.Context) error {
	f, err := os.Open(r.req.Original)
	if err != nil {
		return errs.Wrap(err, errs.NotFound, CodeRequest, "the original image cannot be opened")
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the original image cannot be read")
	}
	if r.facts, err = inspect.Read(ctx, f, st.Size(), r.req.OriginalFormat); err != nil {
		return err
	}
	if err := r.checkManager(); err != nil {
		return err
	}
	if where := spread(r.facts); where != "" {
		return errs.New(errs.Invalid, CodeLayout, "%s: Kiln reads such systems, and upgrades those that lie on one partition", where)
	}
	return nil
}

// copyOriginal makes the copy that is worked on. The kernel waits until all of a file is on the disk when it becomes a device:
// so it does while it is empty.
func (r *run) copyOriginal(ctx context.Context) error {
	f, err := os.OpenFile(r.raw, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		defer func() { _ = f.Close() }()
		err = f.Truncate(r.facts.VirtualSize)
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the copy cannot be made")
	}
	if r.loop, err = disk.AttachLoop(r.raw, 0, r.facts.VirtualSize, false); err != nil {
		return err
	}
	err = disk.Fill(ctx, disk.Image{Path: r.req.Original, Format: r.req.OriginalFormat}, r.raw,
		func(done, total int64) { r.progress("copy", done, total, "bytes") })
	if err != nil {
		return err
	}
	if r.parts, err = disk.Partitions(f, r.facts.VirtualSize); err != nil {
		return err
	}
	if r.root, err = disk.FindRoot(f, r.parts); err != nil {
		return err
	}
	return disk.MoveLoop(r.loop, r.root.Start, r.root.Length)
}

// freeLoop lets go of the device. The next mount makes one of its own.
func (r *run) freeLoop() error {
	if r.loop == nil {
		return nil
	}
	loop := r.loop
	r.loop = nil
	return loop.Close()
}

// writeResult needs no wait for the disk: the file is uploaded, or made again.
func (r *run) writeResult(ctx context.Context) error {
	return disk.ConvertScratch(ctx, disk.Image{Path: r.raw, Format: disk.Raw}, disk.Image{Path: r.req.Output, Format: r.req.OutputFormat},
		func(done, total int64) { r.progress("write", done, total, "bytes") })
}

// inImage runs a command inside the image.
func (r *run) inImage(ctx context.Context, out io.Writer, spec sandbox.Spec) error {
	return r.inTree(ctx, r.mount, out, spec)
}

// inTree runs a command in the image or in a layer above it.
func (r *run) inTree(ctx context.Context, tree *disk.Mount, out io.Writer, spec sandbox.Spec) error {
	spec.Session, spec.Rootfs = r.session, tree.Path()
	spec.Stdout = out
	spec.NoSync = true
	spec.Limits.Time = r.cfg.Timeout
	spec.Binds = append(spec.Binds, sandbox.Bind{Source: r.control(), Target: controlInside})
	spec.Binds = append(spec.Binds, r.stockBinds()...)
	spec.Env = append(spec.Env, locale()...)
	spec.Env = append(spec.Env, "NEEDRESTART_SUSPEND=1", "APT_LISTCHANGES_FRONTEND=none", ucfVariable(r.req.Policy), "DEBIAN_PRIORITY=critical")
	return sandbox.Run(ctx, spec)
}
