package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// repository is where a build's packages come from, in one state.
type repository struct {
	release string
	state   string       // "sha256:<hex>": the same state, the same packages
	source  string       // the line of apt's sources
	handler http.Handler // answers for the mirror, as a forward proxy
	lists   string       // folder with what apt knows of it; "" until readLists
	uri     string       // of the index, for the provenance

	prepare   func(context.Context) error // sets source and handler before they are used; nil where they are there
	materials []build.Material            // what packages are taken, where that is known before
}

// repositories is the folder of the lists, which every state has once for all builds.
func repositories(cfg Config) string { return filepath.Join(cfg.Layers.Dir, "lists") }

// tries is how often a mirror that fails is asked.
const tries = 3

// repository finds the state that a build uses now. Lists are not read yet.
func (b *Builder) repository(ctx context.Context, req build.Request, release string, handler http.Handler) (*repository, error) {
	if req.Lock != nil {
		return b.lockedRepository(req, release, handler)
	}
	digest, err := b.indexDigest(ctx, req, release)
	if err != nil {
		return nil, err
	}
	return &repository{release: release, state: digest, handler: handler, uri: b.indexURL(release),
		source: fmt.Sprintf("deb [signed-by=%s] %s %s main\n", b.cfg.Keyring, b.cfg.Mirrors.Main, release)}, nil
}

func (b *Builder) indexURL(release string) string {
	return b.cfg.Mirrors.Main + "/dists/" + release + "/InRelease"
}

// indexDigest is that of the release's signed index. The image is built from the release's main suite alone: what
// -updates and -security hold comes by upgrades.
func (b *Builder) indexDigest(ctx context.Context, in build.Request, release string) (digest string, err error) {
	for try := range tries {
		if try > 0 && !b.pause(ctx, try) {
			break
		}
		if digest, err = b.askIndex(ctx, in, release); errs.KindOf(err) != errs.Unavailable {
			return digest, err
		}
	}
	return digest, err
}

// pause waits before the next try; false where the context ended.
func (b *Builder) pause(ctx context.Context, try int) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(b.cfg.Backoff << (2 * (try - 1))):
		return true
	}
}

func (b *Builder) askIndex(ctx context.Context, in build.Request, release string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.indexURL(release), http.NoBody)
	if err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeMirror, "The mirror's address cannot be used.")
	}
	res, err := b.cfg.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror does not answer.")
	}
	defer res.Body.Close() //nolint:errcheck // read only
	switch {
	case res.StatusCode == http.StatusNotFound:
		return "", errs.New(errs.Invalid, CodeMirror, "The package mirror has no release %q.", release).At(errs.Where{File: in.Recipe.Path, Field: "from.release"})
	case res.StatusCode != http.StatusOK:
		return "", errs.New(errs.Unavailable, CodeMirror, "The package mirror answers %s.", res.Status)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(res.Body, 16<<20)); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror's answer broke off.")
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// aptConfig is all of apt's configuration, on the host and in the image: neither's own is read for where packages
// come from.
const aptConfig = `Dir::Etc::sourcelist "/run/kiln/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::Cache::archives "/var/cache/apt/archives";
APT::Architecture "amd64";
APT::Architectures {"amd64";};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Dpkg::Use-Pty "false";
Dpkg::Options {"--force-unsafe-io"; "--force-confnew";};
DPkg::Path "/run/kiln/held:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
`

// hostApt shows apt of this machine the lists at the paths at which the image's apt finds them, or it would not
// believe the cache that the other one made. Nothing of the machine's own configuration and state is read.
const hostApt = `lists=$1 config=$2
shift 2
mount -t tmpfs -o mode=0755 tmpfs /etc/apt
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/kiln/apt /run/lock
mount --bind "$config" /run/kiln/apt
mount --bind "$lists/lists" /var/lib/apt/lists
mount --bind "$lists/cache" /var/cache/apt
exec apt-get -q -o Dir::State::status=/run/kiln/apt/status "$@"
`

// apt runs this machine's apt-get on a folder of lists, for an image that has no package yet.
func (m *making) apt(ctx context.Context, lists, proxy string, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"/bin/sh", "-ec", hostApt, "apt", lists, m.aptDir()}, args...)...)
	cmd.Env = []string{hostPath, "LC_ALL=C.UTF-8", "HOME=/root", "TMPDIR=/tmp", "APT_CONFIG=/run/kiln/apt/apt.conf", "DEBIAN_FRONTEND=noninteractive"}
	if proxy != "" {
		cmd.Env = append(cmd.Env, "http_proxy=http://"+proxy)
	}
	return m.follow(ctx, cmd, out)
}

func (m *making) aptDir() string { return filepath.Join(m.work, "apt") }

// writeAptDir lays the configuration that the host's and the image's apt get.
func (m *making) writeAptDir() error {
	err := os.MkdirAll(m.aptDir(), 0o755)
	for name, text := range map[string]string{"apt.conf": aptConfig, "sources.list": m.repo.source, "status": ""} {
		if err == nil {
			err = os.WriteFile(filepath.Join(m.aptDir(), name), []byte(text), 0o644)
		}
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The configuration of apt cannot be written.")
	}
	return nil
}

// readLists makes sure that this machine has the lists of the repository's state, checked against the keyring, and
// apt's cache of them.
func (m *making) readLists(ctx context.Context) error {
	if m.repo == nil {
		return errs.New(errs.Invalid, CodeMirror, "It is not known which release the packages are of: the base image tells none.")
	}
	if m.repo.lists != "" {
		return nil
	}
	if m.repo.prepare != nil {
		if err := m.repo.prepare(ctx); err != nil {
			return err
		}
	}
	if err := m.writeAptDir(); err != nil {
		return err
	}
	root := repositories(m.builder.cfg)
	sum := sha256.Sum256([]byte(m.repo.state + " " + m.repo.source))
	dir := filepath.Join(root, hex.EncodeToString(sum[:]))
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		m.repo.lists = dir
		return os.Chtimes(dir, now, now)
	}
	work, err := disk.NewWork(root)
	if err != nil {
		return err
	}
	defer work.Close() //nolint:errcheck // the next sweep takes what stays
	made := filepath.Join(work.Path, "made")
	if err := m.update(ctx, made); err != nil {
		return err
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return errs.Wrap(err, errs.Internal, CodeHost, "The package lists cannot be kept.")
	}
	m.repo.lists = dir
	return nil
}

// update fetches the lists, again if need be: a mirror that is being written to serves lists that do not fit the
// signed index for a while.
func (m *making) update(ctx context.Context, dir string) error {
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The package lists cannot be kept.")
		}
	}
	addr, stop, err := serveProxy(ctx, m.repo.handler)
	if err != nil {
		return err
	}
	defer stop()
	for try := range tries {
		if try > 0 {
			m.logf("the package mirror failed; trying again\n")
			if !m.builder.pause(ctx, try) {
				return ctx.Err()
			}
		}
		if err = m.apt(ctx, dir, addr, m.log, "-o", "APT::Update::Error-Mode=any", "update"); err == nil {
			break
		}
	}
	if err != nil {
		text := "The package lists of %s cannot be fetched from the mirror."
		for _, unsigned := range []string{"NO_PUBKEY", "is not signed", "BADSIG", "EXPKEYSIG", "signatures were invalid", "signatures couldn't be verified", "Clearsigned file"} {
			if strings.Contains(err.Error(), unsigned) {
				text = "The package mirror serves lists of %s that nobody trusted has signed."
			}
		}
		return errs.Wrap(err, errs.Unavailable, CodeMirror, text, m.repo.release)
	}
	// Made here, where nothing of an image runs: every build gets a copy.
	if err := m.apt(ctx, dir, "", io.Discard, "--print-uris", "install", "apt"); err != nil {
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "The package lists of %s cannot be used.", m.repo.release)
	}
	return m.checkLists(dir)
}

// checkLists holds what apt fetched against the state that the keys of the layers were made of.
func (m *making) checkLists(dir string) error {
	if !strings.Contains(m.repo.source, "signed-by") {
		return nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "lists", "*_InRelease"))
	if err != nil || len(names) != 1 {
		return errs.New(errs.Unavailable, CodeMirror, "The package mirror gives no signed index of %s.", m.repo.release)
	}
	raw, err := os.ReadFile(names[0])
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The package lists cannot be read.")
	}
	sum := sha256.Sum256(raw)
	if "sha256:"+hex.EncodeToString(sum[:]) != m.repo.state {
		return errs.New(errs.Unavailable, CodeMirror, "The package mirror changed while the build began; try again.")
	}
	return nil
}

// SweepLists removes lists that no build used for a week.
func (b *Builder) SweepLists() error {
	root := repositories(b.cfg)
	if _, err := disk.Sweep(root); err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The folder of the package lists cannot be read.")
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && len(e.Name()) == sha256.Size*2 && time.Since(info.ModTime()) > 7*24*time.Hour {
			err = os.RemoveAll(filepath.Join(root, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errs.Wrap(err, errs.Internal, CodeHost, "Old package lists cannot be removed.")
		}
	}
	return nil
}
