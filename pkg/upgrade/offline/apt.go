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
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// controlInside is where the control folder is seen in the image. What apt fetches, its lists and its
// cache are there and not in the image, which therefore keeps its own lists, sources and archives
// untouched and needs no room for the packages.
const controlInside = "/run/kiln"

func (r *run) control() string { return filepath.Join(r.work.Path, "control") }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+/_-]*$`)

func checkRequest(req upgrade.Request) error {
	bad := func(format string, args ...any) error { return errs.New(errs.Invalid, CodeRequest, format, args...) }
	if len(req.Suites) == 0 {
		return bad("no suite is named to take upgrades from")
	}
	for _, s := range req.Suites {
		u, err := url.Parse(s.Mirror)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(s.Mirror, " \t\r\n[]#") {
			return bad("%q is no http address of a mirror", s.Mirror)
		}
		if len(s.Components) == 0 {
			return bad("the suite %s has no components", s.Suite)
		}
		for _, word := range append([]string{s.Suite}, s.Components...) {
			if !plainWord.MatchString(word) {
				return bad("%q is no suite or component", word)
			}
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

// aptGet is an apt-get command line. Options on it are stronger than any file of the image.
func aptGet(args ...string) []string {
	cmd := []string{"/usr/bin/apt-get", "-q", "-y"}
	for _, o := range []string{
		"Dir::Etc::SourceList=" + controlInside + "/sources.list",
		"Dir::Etc::SourceParts=/dev/null",
		"Dir::State::Lists=" + controlInside + "/lists",
		"Dir::Cache=" + controlInside + "/cache",
		"APT::Sandbox::User=root", // _apt may not enter the control folder
		"Acquire::http::Proxy=http://" + sandbox.ProxyAddress,
		"Acquire::https::Proxy=http://" + sandbox.ProxyAddress,
		"Acquire::Languages=none",
		"Acquire::PDiffs=false",
		"Acquire::AllowInsecureRepositories=false",
		"Acquire::AllowDowngradeToInsecureRepositories=false",
		"APT::Get::AllowUnauthenticated=false",
		"APT::Update::Error-Mode=any",
		"APT::Install-Recommends=false",
		"APT::Get::AutomaticRemove=false",
		"Dpkg::Use-Pty=0",
		"Dpkg::Options::=--force-confold",
		"Dpkg::Options::=--force-unsafe-io",
	} {
		cmd = append(cmd, "-o", o)
	}
	return append(cmd, args...)
}

// fetchLists lays the control folder and fetches the suites' lists.
func (r *run) fetchLists(ctx context.Context, _ *os.Root) error {
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
	return r.apt(ctx, nil, "update")
}

// apt runs apt-get with the mirror, logs what it says and gives it to seen too.
func (r *run) apt(ctx context.Context, seen io.Writer, args ...string) error {
	var output tailBuffer
	writers := []io.Writer{r.log, &output}
	if seen != nil {
		writers = append(writers, seen)
	}
	err := r.inImage(ctx, io.MultiWriter(writers...), sandbox.Spec{Args: aptGet(args...), Proxy: r.proxy})
	return aptError(err, output.String())
}

// aptError tells whose fault it is that apt failed.
func aptError(err error, output string) error {
	if err == nil || errs.CodeOf(err) != sandbox.CodeExit {
		return err
	}
	switch {
	case strings.Contains(output, "No space left on device"), strings.Contains(output, "You don't have enough free space"):
		return errs.Wrap(err, errs.TooLarge, CodeDiskFull, "the image's file system is full")
	case strings.Contains(output, "Failed to fetch"), strings.Contains(output, "failed to download"):
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "packages or lists could not be fetched from the mirror")
	}
	return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image could not be upgraded")
}

// plan is what apt's solver decided.
type plan struct {
	uris    map[string]string // package file name to address
	bytes   int64             // of the package files
	grows   int64             // bytes that the file system needs more; negative where it shrinks
	held    []string          // kept back
	nothing bool
}

var (
	uriLine     = regexp.MustCompile(`^'([^']+)' (\S+) (\d+) `)
	growsLine   = regexp.MustCompile(`^After this operation, ([0-9.,]+) (k|M|G)?B (of additional disk space will be used|disk space will be freed)`)
	summaryLine = regexp.MustCompile(`^(\d+) upgraded, (\d+) newly installed, (\d+) to remove`)
)

// makePlan asks apt what it would do, without doing it, and holds the room that it needs against what
// the image has. The numbers are those that apt prints, so they are exact to about a percent.
func (r *run) makePlan(ctx context.Context, root *os.Root) error {
	var out bytes.Buffer
	if err := r.apt(ctx, &out, "--print-uris", "dist-upgrade"); err != nil {
		return err
	}
	r.plan = parsePlan(out.String())
	r.report.Held = r.plan.held
	if r.plan.nothing {
		r.report.Unchanged = true
		return nil
	}
	dir, err := root.Open(".")
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the image's file system cannot be read")
	}
	defer func() { _ = dir.Close() }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the image's file system cannot be read")
	}
	free := int64(st.Bfree) * st.Bsize
	if missing := r.plan.grows - free; missing > 0 {
		return errs.New(errs.TooLarge, CodeDiskFull,
			"the image's file system has %d bytes free and the upgrade needs %d: %d bytes are missing; rebuild the image with a larger disk", free, r.plan.grows, missing)
	}
	return nil
}

func parsePlan(text string) plan {
	p := plan{uris: map[string]string{}, held: []string{}}
	keptBack := false
	for line := range strings.SplitSeq(text, "\n") {
		if keptBack && strings.HasPrefix(line, "  ") {
			p.held = append(p.held, strings.Fields(line)...)
			continue
		}
		keptBack = strings.HasPrefix(line, "The following packages have been kept back")
		if m := uriLine.FindStringSubmatch(line); m != nil {
			p.uris[m[2]] = m[1]
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

// humanBytes reads "1,234" and "12.3" with apt's decimal units.
func humanBytes(number, unit string) int64 {
	n, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	if err != nil {
		return 0
	}
	return int64(n * map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])
}

// tailBuffer keeps the last bytes of what is written: enough to see why apt failed.
type tailBuffer struct{ buf []byte }

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 64<<10; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return string(t.buf) }
