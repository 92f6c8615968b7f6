package offline

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// upgradeScript diverts update-initramfs and update-grub for the time of the upgrade: packages call
// each several times, and only the last call counts. A diversion and not a bind mount, because dpkg
// must be able to replace the real files. They come back whatever happens to apt.
const upgradeScript = `#!/bin/sh
set -u
put() {
	[ -f "/usr/sbin/$1" ] && [ ! -L "/usr/sbin/$1" ] || return 0
	[ "$(dpkg-divert --truename "/usr/sbin/$1")" = "/usr/sbin/$1" ] || return 0 # the image's owner did so already
	dpkg-divert --quiet --local --rename --divert "/usr/sbin/$1.kiln" --add "/usr/sbin/$1" || exit 1
	cp "/run/kiln/$1" "/usr/sbin/$1" && chmod 755 "/usr/sbin/$1" || exit 1
	diverted="$diverted $1"
}
# What is quick stands before the image's own programs on the PATH, where nothing of what they would do can be missed.
quick() {
	mkdir -p /run/kiln/bin
	for name in "$@"; do
		[ -x "/usr/bin/$name" ] || continue
		cp "/run/kiln/$name" "/run/kiln/bin/$name" && chmod 755 "/run/kiln/bin/$name" || exit 1
	done
}
diverted=
put update-initramfs
put update-grub
put update-ca-certificates
if [ -n "${KILN_QUICK:-}" ]; then
	quick $KILN_QUICK
	export PATH="/run/kiln/bin:$PATH"
fi
"$@"
code=$?
for name in $diverted; do
	rm -f "/usr/sbin/$name"
	dpkg-divert --quiet --local --rename --divert "/usr/sbin/$name.kiln" --remove "/usr/sbin/$name" || code=1
done
exit $code
`

// divertedPrograms are those that upgradeScript diverts.
var divertedPrograms = []string{"update-initramfs", "update-grub", "update-ca-certificates"}

// initramfsStub notes what was asked for. Deleting is done at once: it is quick, and its order counts.
const initramfsStub = `#!/bin/sh
case " $* " in
*" -d "*) exec /usr/sbin/update-initramfs.kiln "$@" ;;
esac
printf '%s\n' "$*" >>/run/kiln/deferred/initramfs
`

// grubStub notes that it was asked at all: there are mostly no arguments.
const grubStub = `#!/bin/sh
printf 'update-grub %s\n' "$*" >>/run/kiln/deferred/grub
`

// certificatesStub leaves out the first of the two runs that ca-certificates' postinst makes: it calls the program without
// its hooks and then sets off a trigger, which runs it again. Where there are hooks, the first run decides what they are told.
const certificatesStub = `#!/bin/sh
if [ "$*" = "--hooksdir " ] && [ "$DPKG_MAINTSCRIPT_PACKAGE" = ca-certificates ] && [ -z "$(ls -A /etc/ca-certificates/update.d 2>&1)" ]; then
	exit 0
fi
if [ $# = 0 ] && [ "${KILN_QUICK:+yes},$DPKG_MAINTSCRIPT_PACKAGE,$DPKG_MAINTSCRIPT_NAME" = yes,ca-certificates,postinst ] && [ -z "$(ls -A /etc/ca-certificates/update.d 2>&1)" ]; then
	echo asked >>/run/kiln/deferred/certificates
	exit 0
fi
exec /usr/sbin/update-ca-certificates.kiln "$@"
`

// finishScript does once what was put off. -u needs an initrd that is there, -c one that is not.
const finishScript = `#!/bin/sh
set -e
for version in "$@"; do
	if [ -e "/boot/initrd.img-$version" ]; then
		update-initramfs -u -k "$version"
	else
		update-initramfs -c -k "$version"
	fi
done
`

// upgradeScripts are the programs in the control folder.
var upgradeScripts = map[string]string{
	"upgrade": upgradeScript, "update-initramfs": initramfsStub, "update-grub": grubStub, "update-ca-certificates": certificatesStub, "finish": finishScript, "late": lateScript,
	"ucf": ucfStub, "ucfr": ucfrStub, "setpriv": setprivStub, "deb-systemd-helper": systemdStub, "dpkg-maintscript-helper": maintscriptStub,
}

// upgradePackages runs apt's dist-upgrade: plain upgrade would hold kernels back.
func (r *run) upgradePackages(ctx context.Context, root *os.Root) error {
	for name, text := range upgradeScripts {
		if err := os.WriteFile(filepath.Join(r.control(), name), []byte(text), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
	}
	if err := r.recordShare(ctx); err != nil {
		return err
	}
	rest := r.aptGet("dist-upgrade")
	if r.allMade() {
		rest = []string{"/usr/bin/dpkg", "--configure", "--pending"}
	}
	if err := r.aptChange(ctx, rest, nil); err != nil {
		return err
	}
	return r.makeLate(ctx, root)
}

// finishBoot builds the initial RAM disks that packages asked for, and the boot menu, once each.
func (r *run) finishBoot(ctx context.Context, root *os.Root) error {
	kernels, initrds, err := bootFiles(root)
	if err != nil {
		return err
	}
	asked, err := r.deferred(deferredRAMDisks)
	if err != nil {
		return err
	}
	versions := wanted(asked, kernels, initrds)
	if len(versions) > 0 {
		if err := r.ramDisks(ctx, root, versions); err != nil {
			return err
		}
	}
	menu, err := r.deferred(deferredMenu)
	if err != nil {
		return err
	}
	// Kernel packages leave the menu alone inside a container, which a sandbox looks like to them.
	changed := len(menu) > 0 || len(versions) > 0 || !slices.Equal(kernels, r.facts.Kernels)
	if !changed || r.facts.BootLoader != "grub" || !exists(root, "usr/sbin/update-grub") {
		return nil
	}
	p := r.bootMenu()
	if done, err := r.produce(ctx, root, p); done || err != nil {
		return err
	}
	return r.tool(ctx, p.spec)
}

func (r *run) rootDisk() *sandbox.RootDisk {
	return &sandbox.RootDisk{UUID: r.facts.RootUUID, FSType: r.facts.FileSystem}
}

// tool runs a program of the image without any network.
func (r *run) tool(ctx context.Context, spec sandbox.Spec) error {
	var output sandbox.Tail
	err := r.inImage(ctx, io.MultiWriter(r.log, &output), spec)
	return aptError(err, output.String())
}

var kernelVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~_-]{0,99}$`)

// wanted gives the kernels whose initial RAM disk must be built: those that were asked for by name,
// the newest one where none was named, and each that has none.
func wanted(asked, kernels, initrds []string) []string {
	var versions []string
	add := func(v string) {
		if slices.Contains(kernels, v) && kernelVersion.MatchString(v) && !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	for _, line := range asked {
		words := strings.Fields(line)
		at := slices.Index(words, "-k")
		switch {
		case at >= 0 && at+1 < len(words) && words[at+1] == "all":
			for _, v := range kernels {
				add(v)
			}
		case at >= 0 && at+1 < len(words):
			add(words[at+1])
		case len(kernels) > 0:
			add(kernels[len(kernels)-1])
		}
	}
	if len(asked) > 0 || len(initrds) > 0 {
		for _, v := range kernels {
			if !slices.Contains(initrds, v) {
				add(v)
			}
		}
	}
	return versions
}

// deferred reads what a stub noted. The folder is writable in the image, so it is read like the image.
func (r *run) deferred(name string) ([]string, error) {
	text, err := r.controlFile("deferred/" + name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return strings.TrimSpace(s) == "" }), nil
}

// controlFile reads a file that was written in the sandbox; "" where there is none.
func (r *run) controlFile(name string) (string, error) {
	root, err := os.OpenRoot(r.control())
	if err != nil {
		return "", errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be read")
	}
	defer func() { _ = root.Close() }()
	text, err := readFile(root, name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// bootFiles names the versions of the kernels and initial RAM disks in /boot, newest last.
func bootFiles(root *os.Root) (kernels, initrds []string, err error) {
	names, err := fs.ReadDir(root.FS(), "boot")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, errs.Wrap(err, errs.Invalid, CodeGate, "/boot of the image cannot be read")
	}
	for _, e := range names {
		if v, ok := strings.CutPrefix(e.Name(), "vmlinuz-"); ok {
			kernels = append(kernels, v)
		}
		if v, ok := strings.CutPrefix(e.Name(), "initrd.img-"); ok {
			initrds = append(initrds, v)
		}
	}
	inspect.SortVersions(kernels)
	inspect.SortVersions(initrds)
	return kernels, initrds, nil
}

func exists(root *os.Root, name string) bool {
	_, err := root.Stat(name)
	return err == nil
}

// aptProgress counts the lines by which apt and dpkg tell that a package was fetched, unpacked and
// configured: three a package.
type aptProgress struct {
	total  int64
	done   int64
	rest   string
	report func(step string, done, total int64, unit string)
}

func (a *aptProgress) Write(p []byte) (int, error) {
	text := a.rest + string(p)
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		text = rest
		if strings.HasPrefix(line, "Get:") || strings.HasPrefix(line, "Unpacking ") || strings.HasPrefix(line, "Setting up ") {
			a.done++
			a.report("packages", min(a.done, 3*a.total)/3, a.total, "packages")
		}
	}
	a.rest = text[max(0, len(text)-4096):]
	return len(p), nil
}
