package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// dnf upgrades an rpm system. The host's dnf and rpm do the work, in a tree beside the image.
type dnf struct {
	*run
	database string // folder of rpm's database, without the first slash
	had      []rpm.Package
	comes    []arrival
	hold     []string // "name.architecture" of packages that need a running system
	configs  []config // that owner and package both changed
	before   tree
	identity identity
}

// arrival is a package of the plan, by the file that was fetched and whose signature is good.
type arrival struct {
	rpm.Package
	file      string // as tools see it
	size      int64  // bytes installed
	obsoletes []string
}

func (a arrival) id() string { return a.Name + "." + a.Architecture }

// rpmSystem refuses, before anything is copied, an rpm system that cannot be upgraded.
func rpmSystem(req upgrade.Request, facts *catalog.Facts) error {
	bad := func(format string, args ...any) error { return errs.New(errs.Invalid, CodeRequest, format, args...) }
	if len(req.Repositories) == 0 {
		return bad("no rpm repository is named to take upgrades from")
	}
	if release := facts.OS.VersionID; !hostdnf.IsRelease(release) {
		return bad("%.64q is no release of an rpm system (VERSION_ID of its os-release)", release)
	}
	if hostdnf.Foreign(facts.Architecture) {
		return bad("the image is for %s: dnf of a worker for %s would find nothing to upgrade in it", facts.Architecture, runtime.GOARCH)
	}
	for _, r := range req.Repositories {
		if problem := r.Problem(); problem != "" {
			return bad("%s", problem)
		}
	}
	return nil
}

// upgradeRPM does what needs the mounted copy.
func (r *run) upgradeRPM(ctx context.Context) error {
	d := &dnf{run: r}
	if len(r.req.Shares) > 0 {
		r.report.Record = "changes of rpm packages are not shared: dnf does everything"
	}
	if err := r.inRoot(d.look); err != nil {
		return err
	}
	if err := r.step(ctx, "plan", d.plan); err != nil || r.report.Unchanged {
		return err
	}
	if err := r.inRoot(d.measureRPM); err != nil {
		return err
	}
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	if err := r.inRoot(func(root *os.Root) error { return d.remember(ctx, root) }); err != nil {
		return err
	}
	if err := r.step(ctx, "packages", d.upgrade); err != nil {
		return err
	}
	if err := r.inRoot(func(root *os.Root) error { return d.approve(ctx, root) }); err != nil {
		return err
	}
	return r.step(ctx, "trim", r.trim)
}

// rpmFolders are those that Kiln, or the sandbox, uses by name.
var rpmFolders = []string{"etc", "etc/dnf", "usr", "usr/lib", "var", "var/lib", "boot", "root", "home", "proc", "dev", "run", "tmp"}

// look refuses what cannot be upgraded before any program runs on the image.
func (d *dnf) look(root *os.Root) error {
	for _, name := range rpmFolders {
		if info, err := root.Lstat(name); err == nil && !info.IsDir() {
			return errs.New(errs.Invalid, CodeLayout, "/%s is a link or no folder: an image like that cannot be upgraded offline", name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cannotRead(err, name)
		}
	}
	for _, name := range []string{"proc", "dev", "run", "tmp"} { // the sandbox would make them, and they would stay
		if !exists(root, name) {
			return errs.New(errs.Invalid, CodeLayout, "the image has no folder /%s", name)
		}
	}
	for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib/rpm"} {
		if exists(root, dir+"/rpmdb.sqlite") {
			d.database = dir
			break
		}
	}
	if d.database == "" {
		return errs.New(errs.Invalid, CodePackages, "the image's rpm database is of a kind (ndb or Berkeley DB) that the worker's rpm cannot write: such systems are read, and not upgraded offline")
	}
	var err error
	if d.had, err = d.installed(root); err != nil {
		return err
	}
	return d.checkLayout(root)
}

// installed reads the packages as the image has them now.
func (d *dnf) installed(root *os.Root) ([]rpm.Package, error) {
	const most = 512 << 20
	name := d.database + "/rpmdb.sqlite"
	data, err := readFile(root, name, most)
	if err != nil {
		return nil, cannotRead(err, name)
	}
	log, err := readFile(root, name+"-wal", most)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cannotRead(err, name+"-wal")
	}
	return rpm.ReadDatabase(data, log)
}

// plan fetches what dnf would install, holds its signatures against the keyrings, and changes nothing.
func (d *dnf) plan(ctx context.Context) error {
	if err := d.layTools(); err != nil {
		return err
	}
	if err := d.inRoot(d.writeConf); err != nil {
		return err
	}
	for again, round := true, 0; again; round++ {
		if round == holdRounds {
			return errs.New(errs.Invalid, CodeRunning, "too many packages need a running system: after %d rounds there are still more", holdRounds)
		}
		err := d.fetch(ctx)
		if err == nil {
			again, err = d.classify()
		}
		if err != nil {
			return err
		}
	}
	if err := d.estimate(ctx); err != nil {
		return err
	}
	if err := d.findHeld(ctx); err != nil {
		return err
	}
	d.report.Unchanged = len(d.comes) == 0
	return nil
}

// options are those that make dnf upgrade what the policy wants.
func (d *dnf) options(first ...string) []string {
	if d.req.Policy.Security {
		first = append(first, "--security")
	}
	return append(append(first, hostdnf.Exclude(d.hold)...), "upgrade")
}

// fetch fetches what dnf would install, and reads what it is where its signatures are good.
func (d *dnf) fetch(ctx context.Context) error {
	if _, err := d.dnf(ctx, true, d.options("--downloadonly")...); err != nil {
		return err
	}
	if err := d.checkSecurity(); err != nil {
		return err
	}
	files, err := d.fetched()
	if err != nil {
		return err
	}
	if err := d.checkSignatures(ctx, files); err != nil {
		return err
	}
	return d.readArrivals(ctx, files)
}

// checkSecurity refuses to choose by what no repository says: dnf would find nothing, and call the image good.
func (d *dnf) checkSecurity() error {
	if !d.req.Policy.Security {
		return nil
	}
	told, err := d.host().TellsSecurity()
	if err == nil && !told {
		err = errs.New(errs.Invalid, CodeRequest, "none of the repositories says which packages are security fixes: they have no updateinfo, so nothing can be chosen by it")
	}
	return err
}

// fetched lists the package files. No program of the image has run yet.
func (d *dnf) fetched() ([]string, error) {
	cache, err := os.OpenRoot(d.control())
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be read")
	}
	defer func() { _ = cache.Close() }()
	names, err := fs.Glob(cache.FS(), "cache/*/packages/*.rpm")
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be read")
	}
	for i, name := range names {
		info, err := cache.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			return nil, errs.New(errs.Internal, CodeRequest, "%s is no file", name)
		}
		names[i] = path.Join(controlInside, name)
	}
	return names, nil
}

// checkSignatures holds each package against the keys of the repository that it came from. rpm's own check counts a
// package without any signature as good where its digests are: what it says has to name a good signature, too.
func (d *dnf) checkSignatures(ctx context.Context, files []string) error {
	files = slices.Clone(files)
	for i, r := range d.req.Repositories {
		keys := fmt.Sprintf("%s/keys/db%d", controlInside, i)
		folder := regexp.MustCompile("/cache/" + regexp.QuoteMeta(r.ID) + "-[0-9a-f]{16}/packages/")
		own := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return !folder.MatchString(f) })
		if len(own) == 0 {
			continue
		}
		tool := func(args ...string) (string, error) {
			out := &hostdnf.Buffer{Left: maxStatus}
			err := d.inTools(ctx, out, sandbox.Spec{Args: append([]string{"/usr/bin/rpmkeys", "--dbpath", keys}, args...)})
			return out.String(), err
		}
		if out, err := tool("--import", fmt.Sprintf("%s/keys/%d.asc", controlInside, i)); err != nil {
			return errs.Wrap(err, errs.Invalid, CodeRequest, "the keys of the repository %s cannot be used: %.200s", r.ID, out)
		}
		out, err := tool(append([]string{"--define", "_pkgverify_level all", "-K"}, own...)...)
		if err != nil && errs.CodeOf(err) != sandbox.CodeExit {
			return err
		}
		good := 0
		for line := range strings.Lines(out) {
			if strings.HasSuffix(strings.TrimSpace(line), ": digests signatures OK") {
				good++
			}
		}
		if err != nil || good != len(own) {
			_, _ = d.log.Write([]byte(out))
			return errs.New(errs.Unavailable, CodeSignature, "packages of the repository %s are not signed by a key of its keyring: %s", r.ID, unsigned(out))
		}
		files = slices.DeleteFunc(files, func(f string) bool { return slices.Contains(own, f) })
	}
	if len(files) > 0 {
		return errs.New(errs.Internal, CodeSignature, "%s is of no repository", files[0])
	}
	return nil
}

// unsigned names the packages that a check did not find good.
func unsigned(out string) string {
	var bad []string
	for line := range strings.Lines(out) {
		file, said, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok && strings.HasPrefix(file, "/") && said != "digests signatures OK" {
			bad = append(bad, path.Base(file))
		}
	}
	return shown(bad)
}

// readArrivals reads what the package files say of themselves.
func (d *dnf) readArrivals(ctx context.Context, files []string) error {
	if len(files) == 0 {
		return nil
	}
	for _, file := range files {
		out, err := d.query(ctx, "-qp", "--nosignature", "--qf", `P\t%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\t%{ARCH}\t%{LONGSIZE}\t%{SOURCERPM}\n[O\t%{OBSOLETENAME}\n]`, file)
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, CodeMirror, "the package %s cannot be read", path.Base(file))
		}
		a := arrival{file: file}
		for line := range strings.Lines(out) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			switch {
			case f[0] == "P" && len(f) == 7:
				a.Name, a.Version, a.Architecture = f[1], f[3], f[4]
				if f[2] != "0" {
					a.Version = f[2] + ":" + f[3]
				}
				if a.Source, _ = rpm.SplitSource(f[6]); a.Source == "" {
					a.Source = a.Name
				}
				a.size, _ = strconv.ParseInt(f[5], 10, 64) // digits, by rpm
			case f[0] == "O" && len(f) == 2:
				a.obsoletes = append(a.obsoletes, f[1])
			}
		}
		if a.Name == "" {
			return errs.New(errs.Unavailable, CodeMirror, "the package %s does not say what it is", path.Base(file))
		}
		d.comes = append(d.comes, a)
	}
	return nil
}

// findHeld names the packages of which the repositories have a later version that does not come.
func (d *dnf) findHeld(ctx context.Context) error {
	out, err := d.dnf(ctx, false, "--quiet", "--disableexcludes=all", "repoquery", "--upgrades", "--qf", "held %{name}.%{arch}")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		id, ok := strings.CutPrefix(strings.TrimSpace(line), "held ")
		if ok && !slices.ContainsFunc(d.comes, func(a arrival) bool { return a.id() == id }) {
			d.report.Held = append(d.report.Held, strings.TrimSuffix(id, path.Ext(id)))
		}
	}
	slices.Sort(d.report.Held)
	d.report.Held = slices.Compact(d.report.Held)
	return nil
}

// remember reads what the gate compares with, and refuses where configuration files would have to be decided on.
func (d *dnf) remember(ctx context.Context, root *os.Root) (err error) {
	if d.identity, err = keepIdentity(root); err != nil {
		return err
	}
	if d.configs, err = d.conflicts(ctx, root); err != nil {
		return err
	}
	if len(d.configs) > 0 && d.req.Policy.Conffiles == upgrade.ConffilesFail {
		var list []string
		for _, c := range d.configs {
			list = append(list, c.path+" ("+c.pkg+")")
		}
		return errs.New(errs.Invalid, CodeConffiles, "the image's owner and its packages both changed %s", strings.Join(list, ", "))
	}
	d.before, err = lookAt(ctx, root)
	return err
}
