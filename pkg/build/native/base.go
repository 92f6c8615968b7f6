package native

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// base is what every image has beside Debian's essential packages and apt: the rest of Debian's required ones, an
// init, device events, a bus for logind, and what makes the boot files.
var base = []string{"e2fsprogs", "mount", "passwd", "tzdata", "util-linux-extra", "usr-is-merged",
	"systemd-sysv", "udev", "dbus", "initramfs-tools", "zstd"}

// bootPackages make the boot files, with those of bootPackagesOf. Not grub-pc and grub-efi-amd64: they would write to
// devices at every upgrade. update-grub is in grub2-common.
var bootPackages = []string{"grub2-common"}

// fresh makes the base of a recipe that stands on a release: a disk that boots, with nothing of the recipe's steps.
func (m *making) fresh(ctx context.Context) error {
	if err := m.layout(ctx); err != nil {
		return err
	}
	if err := m.readLists(ctx); err != nil {
		return err
	}
	addr, stop, err := serveProxy(ctx, m.repo.handler)
	if err != nil {
		return err
	}
	defer stop()
	defer m.prefetch(ctx, addr)()
	if err := m.unpack(ctx, addr); err != nil {
		return err
	}
	if err := m.configure(ctx); err != nil {
		return err
	}
	if _, err := m.install(ctx, "", slices.Concat(base, []string{m.recipe.Kernel.Package}, bootPackagesOf(m.recipe))); err != nil {
		return errs.Wrap(err, errs.KindOf(err), codeOr(err, CodePackages), "The base packages cannot be installed.").At(errs.Where{File: m.recipe.Path, Field: "kernel"})
	}
	if err := m.bootFiles(ctx, asked{initramfs: true}); err != nil {
		return err
	}
	return m.bootloader(ctx)
}

// codeOr keeps the code of a fault that is not the step's own: the mirror's.
func codeOr(err error, code string) string {
	if c := errs.CodeOf(err); c == CodeMirror || c == CodeHost || c == CodeLock || strings.HasPrefix(c, "kiln.lock.") {
		return c
	}
	return code
}

// prefetch lets the proxy fetch side by side what apt will ask for piece by piece. It is a help only: what it cannot
// fetch, apt will ask for and complain about. The returned function ends it.
func (m *making) prefetch(ctx context.Context, addr string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		args := append([]string{"--print-uris", "install", "?essential", "apt", m.recipe.Kernel.Package}, slices.Concat(base, bootPackagesOf(m.recipe), wantedOf(m.recipe))...)
		var out bytes.Buffer
		if m.apt(ctx, m.repo.lists, "", &out, args...) != nil {
			return
		}
		var g errgroup.Group
		g.SetLimit(6)
		client := &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}}
		for uri := range uris(&out) {
			g.Go(func() error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, http.NoBody)
				if err != nil {
					return nil //nolint:nilerr // apt will tell
				}
				if res, err := client.Do(req); err == nil {
					io.Copy(io.Discard, res.Body) //nolint:errcheck // a help only
					res.Body.Close()              //nolint:errcheck // read only
				}
				return nil
			})
		}
		g.Wait() //nolint:errcheck // none gives any
		client.CloseIdleConnections()
	}()
	return func() {
		cancel()
		<-done
	}
}

// uris are the addresses in apt-get --print-uris.
func uris(out *bytes.Buffer) func(func(string) bool) {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(out); s.Scan(); {
			if rest, ok := strings.CutPrefix(s.Text(), "'"); ok {
				if uri, _, ok := strings.Cut(rest, "'"); ok && !yield(uri) {
					return
				}
			}
		}
	}
}

// unpackScript lays the files of packages, as many at once as there are processors, without running any code of them.
const unpackScript = `root=$1
shift
printf '%s\0' "$@" | xargs -0 -P "$(nproc)" -n 8 sh -ec 'root=$0
for deb; do dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" --keep-directory-symlink --extract --file -; done' "$root"
`

// unpack fetches the essential packages and apt and lays their files, which is what dpkg needs to install them
// properly inside.
func (m *making) unpack(ctx context.Context, addr string) error {
	cache, err := m.aptCache()
	if err != nil {
		return err
	}
	fault := func(err error) error {
		err = explainApt(err)
		return errs.Wrap(err, errs.Unavailable, codeOr(err, CodeBootstrap), "The base of %s cannot be fetched from the package mirror.", m.repo.release)
	}
	lists := filepath.Join(m.work, "lists") // the host's apt may write beside them
	if err := os.Mkdir(lists, 0o755); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The lists cannot be linked.")
	}
	for name, to := range map[string]string{"lists": filepath.Join(m.repo.lists, "lists"), "cache": cache} {
		if err := os.Symlink(to, filepath.Join(lists, name)); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The lists cannot be linked.")
		}
	}
	if err := m.apt(ctx, lists, addr, m.log, "--download-only", "install", "?essential", "apt"); err != nil {
		return fault(err)
	}
	debs, err := filepath.Glob(filepath.Join(cache, "archives", "*.deb"))
	if err != nil || len(debs) == 0 {
		return errs.New(errs.Unavailable, CodeBootstrap, "The package mirror gave no package of the base.")
	}
	if err := m.skeleton(ctx); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBootstrap, "The folders of the base cannot be made.")
	}
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--pid", "--fork", "--kill-child", "--", "/bin/sh", "-ec", unpackScript, "unpack", m.root.Path()}, debs...)...)
	cmd.Env = []string{hostPath, "LC_ALL=C.UTF-8"}
	if err := m.follow(ctx, cmd, m.log); err != nil {
		return errs.Wrap(err, errs.Internal, CodeBootstrap, "The base cannot be unpacked.")
	}
	return m.layBase()
}

// skeleton is what must be there before the first package: the merged /usr, dpkg's empty books, and the few device
// nodes with which a kernel starts that mounts no devtmpfs.
func (m *making) skeleton(ctx context.Context) error {
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // what was made is checked one by one
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := root.MkdirAll("usr/"+dir, 0o755); err != nil {
			return err
		}
		if err := root.Symlink("usr/"+dir, dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "dev/pts", "dev/shm", "etc/apt"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"var/lib/dpkg/status", "var/lib/dpkg/available"} {
		if err := root.WriteFile(name, nil, 0o644); err != nil {
			return err
		}
	}
	return m.session.Do(ctx, func() error {
		for name, dev := range map[string][2]uint32{"console": {5, 1}, "null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9}, "tty": {5, 0}} {
			path := filepath.Join(m.root.Path(), "dev", name)
			if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(dev[0], dev[1]))); err != nil {
				return err
			}
			if err := unix.Chmod(path, 0o666); err != nil {
				return err
			}
		}
		return nil
	})
}

// configure installs what was unpacked, in the sandbox.
func (m *making) configure(ctx context.Context) error {
	_, binds, err := m.hold()
	if err != nil {
		return err
	}
	binds = append(binds, sandbox.Bind{Source: filepath.Join(m.work, "aptcache", "archives"), Target: "/run/kiln/debs", ReadOnly: true})
	err = m.sandbox(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-ec", "PATH=/run/kiln/held:$PATH exec dpkg --force-depends --force-unsafe-io --install /run/kiln/debs/*.deb"}, Binds: binds})
	if err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeBootstrap, "The base of %s cannot be configured.", m.repo.release)
	}
	return nil
}
