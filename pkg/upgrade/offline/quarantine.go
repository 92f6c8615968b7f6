package offline

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/pool"
)

// CodeQuarantine says that packages which need a running system could not be upgraded in the quarantine boot. It never changes.
const CodeQuarantine = "kiln.upgrade.quarantine"

// defaultGuestTime bounds what is done in a quarantine boot, until the machine is off.
const defaultGuestTime = 30 * time.Minute

// Guests start a copy's own file system with its own kernel, isolated from everything, and run a script in it
// (testboot.QEMU on the worker, testboot/cloud.Booter on the cloud). errs.Invalid where the guest does not come to the end of its script.
type Guests interface {
	Run(ctx context.Context, g build.Guest) (build.GuestReport, error)
}

// quarantine is the part of an upgrade that is done while the copy runs.
type quarantine struct {
	plan       plan          // all of the upgrade, with what is done offline before
	packages   []deb.Package // that are done here
	repository *pool.Plan
	files      map[string][]byte // for the guest, by path
	machine    string            // the machine-id for the time of the boot
	tree       tree              // before the boot
	notes      map[string]string // what the stubs wrote, by name
	from, to   int64             // when the packages' part began and ended, in nanoseconds by the guest's clock
}

// planQuarantine finds out, after the packages that need a running system were taken out of the plan, whether they can be
// upgraded in a boot, and which ones those are: what had to stay with them too.
func (r *run) planQuarantine(root *os.Root, full plan) error {
	if r.req.Policy.Running != upgrade.RunningBoot || len(r.pinned) == 0 {
		return nil
	}
	q := &quarantine{plan: full}
	for _, p := range full.packages {
		if !slices.Contains(r.plan.packages, p) {
			q.packages = append(q.packages, p)
		}
	}
	if problem := r.noQuarantine(root); problem != "" {
		return errs.New(errs.Invalid, CodeRunning, "%s need a running system (%s), and %s: choose hold", names(r.pinned), r.why(r.pinned[0].Name), problem)
	}
	for _, p := range r.plan.packages { // apt may find another way to do without the others
		if !slices.Contains(q.plan.packages, p) {
			q.plan.packages = append(q.plan.packages, p)
			q.plan.uris[fileName(p)], q.plan.sums[fileName(p)] = r.plan.uris[fileName(p)], r.plan.sums[fileName(p)]
		}
	}
	r.plan.nothing, r.plan.grows = false, max(r.plan.grows, full.grows)
	r.req.Shares = slices.Clone(r.req.Shares)
	for i, share := range r.req.Shares {
		r.req.Shares[i] = slices.DeleteFunc(slices.Clone(share), func(ref upgrade.PackageRef) bool {
			return slices.ContainsFunc(q.packages, func(p deb.Package) bool { return p.Name == ref.Name && p.Architecture == ref.Architecture })
		})
	}
	r.boot = q
	return nil
}

// runGenerator makes systemd run a command from the kernel's command line (systemd 240).
const runGenerator = "lib/systemd/system-generators/systemd-run-generator"

// noQuarantine says why this image cannot be booted here; "" where it can.
func (r *run) noQuarantine(root *os.Root) string {
	switch {
	case r.cfg.Guests == nil:
		return "this worker has no quarantine to boot the image in"
	case r.facts.Architecture != "x86_64" && r.facts.Architecture != "amd64":
		return "a quarantine boot is for x86_64 only"
	case len(r.facts.Kernels) == 0 || len(r.facts.Initrds) == 0:
		return "the image has no kernel with an initial RAM disk to boot it by"
	case !exists(root, runGenerator) && !exists(root, "usr/"+runGenerator):
		return "the image has no systemd of version 240 or later, which a quarantine boot needs"
	}
	return ""
}

// stockQuarantine lays a repository of just the packages of the boot, before anything is changed.
func (r *run) stockQuarantine(ctx context.Context) error {
	store := r.cfg.Caches.Packages
	if store == nil {
		var err error
		if store, err = pool.Open(pool.Config{Dir: filepath.Join(r.work.Path, "pool"), Log: r.cfg.Log}); err != nil {
			return err
		}
	}
	var packages []pool.Source
	for _, p := range r.boot.packages {
		name := fileName(p)
		source, ok := r.source(name, r.boot.plan.uris[name], r.boot.plan.sums[name])
		if !ok {
			return errs.New(errs.Unavailable, CodeMirror, "the index names no SHA-256 of %s %s", p.Name, p.Version)
		}
		packages = append(packages, source)
	}
	repository, files, err := bring(ctx, store, packages)
	if err != nil {
		return err
	}
	r.boot.repository, r.boot.files = repository, map[string][]byte{"control/" + stockLists + "/partial/none": nil}
	for name, text := range files {
		r.boot.files["control/"+name] = text
	}
	for name, text := range upgradeScripts {
		r.boot.files["control/"+name] = []byte(text)
	}
	return nil
}

// bootQuarantine upgrades what is left in the booted copy, and puts back what the boot itself left.
func (r *run) bootQuarantine(ctx context.Context) error {
	q := r.boot
	g := build.Guest{
		Dir: r.work.Path, Disk: r.raw, Start: r.root.Start, Length: r.root.Length, RootUUID: r.facts.RootUUID, Script: r.guestScript(),
		Files: q.files, Packages: q.repository.Dir, Limit: r.cfg.GuestTime, Log: r.log,
	}
	if err := r.inRoot(func(root *os.Root) error { return r.beforeBoot(ctx, root, &g) }); err != nil {
		return err
	}
	if err := errors.Join(r.mount.Unmount(ctx), r.freeLoop()); err != nil { // what the kernel has read of the copy changes now
		return err
	}
	copied := disk.Image{Path: filepath.Join(r.work.Path, "before.raw"), Format: disk.Raw}
	if err := disk.ConvertScratch(ctx, disk.Image{Path: r.raw, Format: disk.Raw}, copied, nil); err != nil {
		return err
	}
	r.tell("quarantine boot of %s", names(q.packages))
	said, err := r.cfg.Guests.Run(ctx, g)
	if err != nil && ctx.Err() == nil {
		code := CodeQuarantine
		if errs.Retryable(err) { // the fault of a host or a cloud tells nothing of the image
			code = errs.CodeOf(err)
		}
		err = errs.Wrap(err, errs.KindOf(err), code, "%s could not be upgraded in the quarantine boot", names(q.packages))
	}
	if err == nil {
		err = q.judge(said.Reports)
	}
	if err != nil {
		return err
	}
	r.report.Quarantine = &upgrade.Quarantine{Packages: []string{}, Changed: []string{}, Seconds: said.Seconds}
	for _, p := range q.packages {
		r.report.Quarantine.Packages = append(r.report.Quarantine.Packages, p.Name)
	}
	slices.Sort(r.report.Quarantine.Packages)
	if err := r.putBackTraces(ctx, copied.Path); err != nil {
		return err
	}
	if err := os.Remove(copied.Path); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be emptied")
	}
	r.plan = q.plan
	return r.finishQuarantine(ctx)
}

// beforeBoot gives the copy a machine-id, so that it does not take this boot for its first one, and takes its kernel out.
func (r *run) beforeBoot(ctx context.Context, root *os.Root, g *build.Guest) (err error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "no random number could be read")
	}
	r.boot.machine = hex.EncodeToString(id)
	if err := root.Remove("etc/machine-id"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unreadable(err, "etc/machine-id")
	}
	if err := root.WriteFile("etc/machine-id", []byte(r.boot.machine+"\n"), 0o444); err != nil {
		return unreadable(err, "etc/machine-id")
	}
	kernels, initrds, err := bootFiles(root)
	if err != nil {
		return err
	}
	for _, v := range slices.Backward(kernels) {
		if !slices.Contains(initrds, v) {
			continue
		}
		if g.Kernel, err = r.takeOut(root, "boot/vmlinuz-"+v); err != nil {
			return err
		}
		if g.Initrd, err = r.takeOut(root, "boot/initrd.img-"+v); err != nil {
			return err
		}
		r.boot.tree, err = lookAt(ctx, root)
		return err
	}
	return errs.New(errs.Invalid, CodeRunning, "no kernel of the image has an initial RAM disk, so it cannot be booted in quarantine")
}

// maxBootFile bounds a kernel and an initial RAM disk, in bytes.
const maxBootFile = 512 << 20

func (r *run) takeOut(root *os.Root, name string) (string, error) {
	data, err := readFile(root, name, maxBootFile)
	if err != nil {
		return "", cannotRead(err, name)
	}
	out := filepath.Join(r.work.Path, filepath.Base(name))
	if err := os.WriteFile(out, data, 0o600); err != nil {
		return "", errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	return out, nil
}

// judge reads what the guest's script reported.
func (q *quarantine) judge(reports map[string]string) error {
	code := -1
	if _, err := fmt.Sscanf(reports["result"], "%d %d %d", &code, &q.from, &q.to); err != nil || q.from <= 0 || q.to < q.from {
		return errs.New(errs.Invalid, CodeQuarantine, "the quarantine boot ended without a result: %.200q", reports["result"])
	}
	if code != 0 {
		return errs.New(errs.Invalid, CodeQuarantine, "%s could not be upgraded in the quarantine boot; apt ended with %d:\n%s", names(q.packages), code, strings.TrimSpace(reports["log"]))
	}
	q.notes = map[string]string{}
	for _, name := range deferredNotes {
		q.notes[name] = reports[name]
	}
	return nil
}

// finishQuarantine does what the guest's stubs put off: initial RAM disks and the boot menu are made here as ever, since the
// guest saw a disk without a partition table.
func (r *run) finishQuarantine(ctx context.Context) error {
	control, err := os.OpenRoot(r.control()) // programs of the image could write there
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be read")
	}
	defer func() { _ = control.Close() }()
	if err := errors.Join(control.RemoveAll("deferred"), control.Mkdir("deferred", 0o755)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	asked := false
	for name, text := range r.boot.notes {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		asked = true
		if err := control.WriteFile("deferred/"+name, []byte(text+"\n"), 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	if !asked {
		return nil
	}
	return r.inRoot(func(root *os.Root) error { return r.finishBoot(ctx, root) })
}

// allPackages are those of the plan, with what is done in a boot.
func (r *run) allPackages() []deb.Package {
	if r.boot != nil {
		return r.boot.plan.packages
	}
	return r.plan.packages
}

// packageFile opens the file of a package that was fetched. One that is for a boot may have come from the store.
func (r *run) packageFile(ctx context.Context, p deb.Package) (*os.File, error) {
	name := fileName(p)
	if r.boot != nil && slices.ContainsFunc(r.boot.packages, func(o deb.Package) bool { return fileName(o) == name }) {
		return r.cfg.Proxy.Have(ctx, r.boot.plan.uris[name])
	}
	address, ok := r.plan.uris[name]
	if !ok {
		return nil, errors.New("its package file was not fetched")
	}
	return r.cfg.Proxy.Open(address)
}

func (r *run) closeQuarantine() error {
	if r.boot == nil || r.boot.repository == nil {
		return nil
	}
	return r.boot.repository.Close()
}
