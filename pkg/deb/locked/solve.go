// Package locked pins packages and brings them back: Solve asks apt which packages an image would get, with their
// hashes; Repository serves exactly those, from an archive of its own where the mirror has moved on.
package locked

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of this package's errors. They never change.
const (
	CodeSolve   = "kiln.lock.solve"   // apt finds no set of packages
	CodeMirror  = "kiln.lock.mirror"  // the mirror does not answer
	CodeHost    = "kiln.lock.host"    // this host lacks something
	CodeGone    = "kiln.lock.gone"    // a locked package is nowhere any more
	CodeArchive = "kiln.lock.archive" // the archive cannot be read or written
)

// Question is what Solve is asked.
type Question struct {
	Release  string       // "bookworm"
	Suites   []deb.Suite  // where packages come from; all of one architecture
	Packages []string     // names, with =version where a recipe says so; Debian's essential ones are always added
	Keyring  string       // of the indexes; default deb.DefaultKeyring
	Proxy    http.Handler // a forward proxy to the mirrors
	Dir      string       // empty folder of the caller's
	Log      io.Writer    // what apt says; nil: nowhere
}

// Solve finds every package that the image would get, with apt's own solver in a folder of its own. Nothing is
// installed or unpacked. errs.Invalid CodeSolve where a package does not exist or the packages do not fit together.
func Solve(ctx context.Context, q Question) (*deb.Lock, error) {
	if q.Keyring == "" {
		q.Keyring = deb.DefaultKeyring
	}
	if q.Log == nil {
		q.Log = io.Discard
	}
	if len(q.Suites) == 0 {
		return nil, errs.New(errs.Invalid, CodeSolve, "There is no suite to take packages from.")
	}
	addr, stop, err := serve(ctx, q.Proxy)
	if err != nil {
		return nil, err
	}
	defer stop()
	a := aptRoot{dir: q.Dir, arch: q.Suites[0].Arch, proxy: addr, log: q.Log}
	if err := a.lay(q); err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "The folder for apt's lists cannot be made.")
	}
	if _, err := a.get(ctx, "update"); err != nil {
		return nil, errs.Wrap(err, kindOf(err, errs.Unavailable), CodeMirror, "The package indexes of %s cannot be read or are not signed.", q.Release)
	}
	out, err := a.get(ctx, append([]string{"--print-uris", "-y", "-o", "Acquire::ForceHash=SHA256", "install", "--", "?essential"}, q.Packages...)...)
	if err != nil {
		return nil, errs.Wrap(err, kindOf(err, errs.Invalid), CodeSolve, "The packages of the recipe cannot be installed together.")
	}
	lock := &deb.Lock{Release: q.Release, Architecture: a.arch}
	if err := lockSuites(lock, filepath.Join(q.Dir, "state/lists"), q.Suites); err != nil {
		return nil, err
	}
	return lock, lockPackages(lock, out, q.Suites)
}

// kindOf keeps what a context says about an error, which else is of the kind.
func kindOf(err error, kind errs.Kind) errs.Kind {
	if k := errs.KindOf(err); k != errs.Internal {
		return k
	}
	return kind
}

// aptRoot is a folder in which apt knows no machine but an empty one.
type aptRoot struct {
	dir, arch, proxy string
	log              io.Writer
}

func (a aptRoot) lay(q Question) error {
	for _, dir := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial", "tmp"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	var sources strings.Builder
	for _, s := range q.Suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s arch=%s] %s %s %s\n", q.Keyring, s.Arch, strings.TrimRight(s.Mirror, "/"), s.Suite, strings.Join(s.Components, " "))
	}
	// Dir comes from APT_CONFIG, which is read before the machine's own files: those are then not looked for.
	conf := fmt.Sprintf(`Dir "%[1]s/";
Dir::State "%[1]s/state/";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache/";
Dir::Etc "%[1]s/etc/";
Dir::Log "%[1]s/tmp/";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::Retries "2";
`, a.dir, a.arch)
	for name, text := range map[string]string{"etc/sources.list": sources.String(), "apt.conf": conf, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// solveTime bounds one run of apt.
const solveTime = 10 * time.Minute

// get runs apt-get and gives what it printed.
func (a aptRoot) get(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, solveTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "APT::Update::Error-Mode=any"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "TMPDIR=" + a.dir + "/tmp",
		"APT_CONFIG=" + a.dir + "/apt.conf", "http_proxy=http://" + a.proxy}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&said, a.log)
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	return nil, fmt.Errorf("apt-get: %w: %s", err, strings.Join(lines[max(0, len(lines)-6):], "; "))
}

// lockSuites notes the state of each suite, by the InRelease files that apt has verified.
func lockSuites(lock *deb.Lock, lists string, suites []deb.Suite) error {
	for _, s := range suites {
		data, err := os.ReadFile(filepath.Join(lists, deb.AptFileName(strings.TrimRight(s.Mirror, "/")+"/dists/"+s.Suite+"/InRelease")))
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, CodeMirror, "The suite %s has no InRelease; only repositories with one can be locked.", s.Suite)
		}
		date, err := deb.ReleaseDate(data)
		if err != nil {
			return err
		}
		if date.After(lock.Time) {
			lock.Time = date
		}
		sum := sha256.Sum256(data)
		lock.Suites = append(lock.Suites, deb.LockedSuite{Suite: s.Suite, SHA256: hex.EncodeToString(sum[:])})
	}
	return nil
}

// lockPackages reads apt's lines: 'URI' name_version_architecture.deb size SHA256:hex.
func lockPackages(lock *deb.Lock, out []byte, suites []deb.Suite) error {
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		if len(words) != 4 {
			return errs.New(errs.Internal, CodeSolve, "apt answers %q, which is no package with its hash.", line)
		}
		p := deb.LockedPackage{SHA256: strings.TrimPrefix(words[3], "SHA256:")}
		full, err := url.PathUnescape(strings.TrimSuffix(words[1], ".deb"))
		parts := strings.Split(full, "_")
		size, sizeErr := strconv.ParseInt(words[2], 10, 64)
		if err != nil || sizeErr != nil || len(parts) != 3 || len(p.SHA256) != 2*sha256.Size {
			return errs.New(errs.Internal, CodeSolve, "apt answers %q, which is no package with its hash.", line)
		}
		p.Name, p.Version, p.Architecture, p.Size = parts[0], parts[1], parts[2], size
		if p.Filename, err = below(strings.Trim(words[0], "'"), suites); err != nil {
			return err
		}
		lock.Packages = append(lock.Packages, p)
	}
	slices.SortFunc(lock.Packages, func(a, b deb.LockedPackage) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// below is an address as the path below its mirror.
func below(address string, suites []deb.Suite) (string, error) {
	for _, s := range suites {
		if rest, ok := strings.CutPrefix(address, strings.TrimRight(s.Mirror, "/")+"/"); ok {
			name, err := url.PathUnescape(rest)
			if err == nil && path.Clean(name) == name {
				return name, nil
			}
		}
	}
	return "", errs.New(errs.Internal, CodeSolve, "apt answers %q, which is not below a mirror.", address)
}

// serve answers for the mirrors on a free port of loopback.
func serve(ctx context.Context, h http.Handler) (addr string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, CodeHost, "The mirror proxy cannot listen on loopback.")
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	return l.Addr().String(), func() {
		srv.Close() //nolint:errcheck // its clients have ended
	}, nil
}
