package offline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// controlInside is where the control folder is seen in the image. What apt fetches, its lists and its
// cache are there and not in the image, which therefore keeps its own lists, sources and archives
// untouched and needs no room for the packages.
const controlInside = "/run/kiln"

const aptProgram = "/usr/bin/apt-get"

func (r *run) control() string { return filepath.Join(r.work.Path, "control") }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+/_-]*$`)

func checkRequest(req upgrade.Request) error {
	bad := func(format string, args ...any) error { return errs.New(errs.Invalid, CodeRequest, format, args...) }
	if len(req.Suites) == 0 && len(req.Repositories) == 0 {
		return bad("no suite is named to take upgrades from")
	}
	for _, s := range req.Suites {
		if problem := s.Problem(); problem != "" {
			return bad("%s", problem)
		}
	}
	same, err := sameFile(req.Original, req.Output)
	if err != nil || same {
		return bad("the output must be another file than the original")
	}
	return nil
}

func sameFile(a, b string) (bool, error) {
	a, errA := filepath.Abs(a)
	b, errB := filepath.Abs(b)
	if errA != nil || errB != nil || a == b {
		return a == b, errs.Wrap(errA, errs.Invalid, CodeRequest, "a path cannot be resolved")
	}
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(sa, sb), nil
}

// aptGet is an apt-get command line for the sandbox.
func (r *run) aptGet(args ...string) []string { return r.aptCommand(r.ready, args...) }

// aptCommand is an apt-get command line; stocked is for one that takes its packages from the repository of the plan. Options
// on it are stronger than any file of the image.
func (r *run) aptCommand(stocked bool, args ...string) []string {
	cmd := []string{aptProgram, "-q", "-y"}
	options := []string{
		"Dir::Etc::SourceList=" + controlInside + "/sources.list",
		"Dir::Etc::SourceParts=/dev/null",
		"Dir::State::Lists=" + controlInside + "/lists",
		"Dir::Cache=" + controlInside + "/cache",
		"APT::Sandbox::User=root", // _apt may not enter the control folder
		"Acquire::http::Proxy=http://" + sandbox.ProxyAddress,
		"Acquire::https::Proxy=http://" + sandbox.ProxyAddress,
		"Acquire::Languages=none",
		"Acquire::PDiffs=false",
		"Acquire::ForceHash=SHA256", // what --print-uris names
		"Acquire::AllowInsecureRepositories=false",
		"Acquire::AllowDowngradeToInsecureRepositories=false",
		"APT::Get::AllowUnauthenticated=false",
		"APT::Update::Error-Mode=any",
		"APT::Install-Recommends=false",
		"APT::Get::AutomaticRemove=false",
		"Dpkg::Use-Pty=0",
		"Dpkg::Options::=--force-unsafe-io",
	}
	for _, o := range conffileOptions(r.req.Policy) {
		options = append(options, "Dpkg::Options::="+o)
	}
	if r.pins() {
		options = append(options, "Dir::Etc::Preferences="+controlInside+"/preferences")
	}
	if stocked {
		options = append(options, stockOptions()...) // the last one counts
	}
	for _, o := range options {
		cmd = append(cmd, "-o", o)
	}
	return append(cmd, args...)
}

// fetchLists lays the control folder and fetches the suites' lists.
func (r *run) fetchLists(ctx context.Context, root *os.Root) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial", "deferred"} {
		if err := os.MkdirAll(filepath.Join(r.control(), dir), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	keys, err := os.ReadFile(r.cfg.Keyring)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeRequest, "cannot read the keyring %s", r.cfg.Keyring)
	}
	var sources strings.Builder
	for _, s := range r.req.Suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s/keyring.gpg] %s %s %s\n", controlInside, s.Mirror, s.Suite, strings.Join(s.Components, " "))
	}
	for name, text := range map[string][]byte{"keyring.gpg": keys, "sources.list": []byte(sources.String())} {
		if err := os.WriteFile(filepath.Join(r.control(), name), text, 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	if done, err := r.layLists(ctx, root); done || err != nil {
		return err
	}
	return r.apt(ctx, nil, r.aptGet("update"))
}

// apt runs a command line of apt with the mirror, logs what it says and gives it to seen too.
func (r *run) apt(ctx context.Context, seen io.Writer, command []string) error {
	var output sandbox.Tail
	writers := []io.Writer{r.log, &output}
	if seen != nil {
		writers = append(writers, seen)
	}
	err := r.inImage(ctx, io.MultiWriter(writers...), sandbox.Spec{Args: command, Proxy: r.proxy})
	return r.aptError(err, output.String())
}

var wrongFile = regexp.MustCompile(`Failed to fetch (\S+)\s+(?:Hash Sum mismatch|File has unexpected size)`)

// aptError is the package's aptError. The proxy keeps packages for ever under their names, so one that the mirror gave
// wrong is forgotten: the next upgrade asks for it again.
func (r *run) aptError(err error, output string) error {
	if err != nil {
		for _, m := range wrongFile.FindAllStringSubmatch(output, -1) {
			if err := r.cfg.Proxy.Forget(m[1]); err != nil {
				r.cfg.Log.WithError(err).Warnf("%s stays in the proxy", m[1])
			}
		}
	}
	return aptError(err, output)
}

// aptError tells whose fault it is that apt failed.
func aptError(err error, output string) error {
	if err == nil || errs.CodeOf(err) != sandbox.CodeExit {
		return err
	}
	said := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(output, t) })
	}
	switch {
	case said("No space left on device", "You don't have enough free space"):
		return errs.Wrap(err, errs.TooLarge, CodeDiskFull, "the image's file system is full")
	case said("is expired (invalid since"):
		return errs.Wrap(err, errs.Unavailable, CodeSignature, "a repository's Release is older than its signer allows: the mirror is no longer brought up to date")
	case said("is not signed", "couldn't be verified", "were invalid:"):
		return errs.Wrap(err, errs.Unavailable, CodeSignature, "a repository is not signed by a key of the keyring")
	case said("Hash Sum mismatch", "File has unexpected size"):
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "the mirror gave other bytes than the signed index names")
	case said("Failed to fetch", "failed to download"):
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "packages or lists could not be fetched from the mirror")
	case said("Unmet dependencies", "unmet dependencies"):
		return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image do not fit together")
	}
	return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image could not be upgraded")
}

// plan is what apt's solver decided.
type plan struct {
	uris     map[string]string // package file name to address
	sums     map[string]string // package file name to checksum, with its algorithm
	packages []deb.Package     // that come or change; name, version and architecture
	removed  []string          // names, with ":architecture" where it is not the image's own
	bytes    int64             // of the package files
	grows    int64             // bytes that the file system needs more; negative where it shrinks
	held     []string          // kept back
	nothing  bool
	settings string // as apt-config prints them
}

var (
	uriLine     = regexp.MustCompile(`^'([^']+)' (\S+) (\d+) `)
	growsLine   = regexp.MustCompile(`^After this operation, ([0-9.,]+) (k|M|G)?B (of additional disk space will be used|disk space will be freed)`)
	summaryLine = regexp.MustCompile(`^(\d+) upgraded, (\d+) newly installed, (\d+) to remove`)
)

// makePlan asks apt what it would do, without doing it, and holds the room that it needs against what
// the image has. The numbers are those that apt prints, so they are exact to about a percent.
func (r *run) makePlan(ctx context.Context, root *os.Root) error {
	if err := r.writePreferences(root); err != nil {
		return err
	}
	if err := r.solve(ctx); err != nil {
		return err
	}
	if err := r.holdRunning(ctx, root); err != nil {
		return err
	}
	r.report.Held = r.heldNames()
	if r.plan.nothing {
		r.report.Unchanged = true
		return nil
	}
	return r.measure(root)
}

// solve asks apt for the plan, and for the settings of the image's owner.
func (r *run) solve(ctx context.Context) error {
	var out bytes.Buffer
	both := []string{"/bin/sh", "-c", "apt-config dump >" + controlInside + "/" + settingsFile + ` && exec "$@"`, "plan"}
	if err := r.apt(ctx, &out, append(both, r.aptGet("--print-uris", "dist-upgrade")...)); err != nil {
		return err
	}
	text, err := r.controlFile(settingsFile)
	if err != nil {
		return err
	}
	r.plan = parsePlan(out.String())
	r.plan.settings = text
	return nil
}

// settingsFile is where apt-config(8) writes, in the control folder.
const settingsFile = "settings"

// elsewhere are settings that change nothing of what dpkg is called for: of downloads, of what is done in the background, and of
// what an autoremove, which is never made, would leave.
var elsewhere = []string{"Acquire::", "APT::Compressor", "APT::NeverAutoRemove", "APT::Periodic", "Unattended-Upgrade"}

// counting are the lines of the settings that count for what dpkg does.
func (p *plan) counting() []string {
	var out []string
	for line := range strings.Lines(p.settings) {
		if !slices.ContainsFunc(elsewhere, func(start string) bool { return strings.HasPrefix(line, start) }) {
			out = append(out, line)
		}
	}
	return out
}

// setting is the value of one of apt's settings.
func (p *plan) setting(name string) string {
	for line := range strings.Lines(p.settings) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.Trim(strings.TrimSpace(value), `";`)
		}
	}
	return ""
}

func parsePlan(text string) plan {
	p := plan{uris: map[string]string{}, sums: map[string]string{}, held: []string{}}
	var list *[]string // of names, that the last line began
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "  ") {
			if list != nil {
				*list = append(*list, strings.Fields(line)...)
			}
			continue
		}
		list = nil
		switch {
		case strings.HasPrefix(line, "The following packages have been kept back"):
			list = &p.held
		case strings.HasPrefix(line, "The following packages will be REMOVED"):
			list = &p.removed
		}
		if m := uriLine.FindStringSubmatch(line); m != nil {
			p.uris[m[2]] = m[1]
			p.sums[m[2]] = strings.TrimSpace(line[len(m[0]):])
			if pkg, ok := packageOf(m[2]); ok {
				p.packages = append(p.packages, pkg)
			}
			n, _ := strconv.ParseInt(m[3], 10, 64) // digits only; a number that does not fit counts 0
			p.bytes += n
		}
		if m := growsLine.FindStringSubmatch(line); m != nil {
			p.grows = humanBytes(m[1], m[2])
			if strings.HasSuffix(m[3], "freed") {
				p.grows = -p.grows
			}
		}
		if m := summaryLine.FindStringSubmatch(line); m != nil {
			p.nothing = m[1] == "0" && m[2] == "0" && m[3] == "0"
		}
	}
	return p
}

// packageOf reads the name that apt gives a package file: name_version_architecture.deb, with ":" and "_" escaped.
func packageOf(file string) (deb.Package, bool) {
	words := strings.Split(strings.TrimSuffix(file, ".deb"), "_")
	if len(words) != 3 {
		return deb.Package{}, false
	}
	for i, w := range words {
		plain, err := url.PathUnescape(w)
		if err != nil {
			return deb.Package{}, false
		}
		words[i] = plain
	}
	return deb.Package{Name: words[0], Version: words[1], Architecture: words[2]}, true
}

// humanBytes reads "1,234" and "12.3" with apt's decimal units.
func humanBytes(number, unit string) int64 {
	n, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	if err != nil {
		return 0
	}
	return int64(n * map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])
}
