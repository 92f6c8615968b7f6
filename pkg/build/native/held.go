package native

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// held are programs that stand before the real ones while packages are configured: each call is noted in
// /run/kiln/asked, and what was asked for is done once when all packages are there. dpkg's triggers do the same for
// one run of dpkg; maintainer scripts and kernel hooks call these programs directly, and apt runs dpkg several times.
var held = map[string]string{
	// Removing an initramfs belongs to removing its kernel; that goes through.
	"update-initramfs": `case " $* " in *" -d "*) exec /usr/sbin/update-initramfs "$@";; esac
: >/run/kiln/asked/initramfs
`,
	"update-grub": ": >/run/kiln/asked/grub\n",
	"update-ca-certificates": `case "$*" in ""|"--hooksdir "*) ;; *) exec /usr/sbin/update-ca-certificates "$@";; esac
: >/run/kiln/asked/certificates
`,
	// Python runs without its compiled files too; they are made side by side at the end.
	"py3compile": `printf '%s\n' "$@" >/run/kiln/asked/python.$$
`,
	// Host keys are a machine's own: every published image is cleaned of them, so none are made.
	"ssh-keygen": `case " $* " in *" /etc/ssh/ssh_host_"*) exit 0;; esac
exec /usr/bin/ssh-keygen "$@"
`,
}

// doHeld runs what was asked for, the initramfs last but for the boot menu, which lists it.
const doHeld = `cd /run/kiln/asked
if ls python.* >/dev/null 2>&1; then
	printf '%s\n' python.* | xargs -P 2 -I{} xargs -d '\n' -a {} /usr/bin/py3compile
fi
if [ -e certificates ]; then /usr/sbin/update-ca-certificates; fi
`

// doInitramfs makes the initramfs of every kernel anew, each with one run.
const doInitramfs = `for kernel in /boot/vmlinuz-*; do
	[ ! -e "$kernel" ] || update-initramfs -c -k "${kernel#/boot/vmlinuz-}"
done
`

// asked is what a run of packages left to be done.
type asked struct{ initramfs, grub bool }

// hold lays the programs and an empty folder for what they note, and gives the binds that show both inside.
func (m *making) hold() (dir string, binds []sandbox.Bind, err error) {
	programs := filepath.Join(m.work, "held")
	if err = os.MkdirAll(programs, 0o755); err == nil {
		dir, err = os.MkdirTemp(m.work, "asked-*")
	}
	for name, script := range held {
		if err == nil {
			err = os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\n"+script), 0o755)
		}
	}
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, CodeHost, "The programs that are held off cannot be laid.")
	}
	return dir, []sandbox.Bind{{Source: programs, Target: "/run/kiln/held", ReadOnly: true}, {Source: dir, Target: "/run/kiln/asked"}}, nil
}

// install runs apt's install in the image, and then, once, what maintainer scripts asked for.
func (m *making) install(ctx context.Context, before string, packages []string) (asked, error) {
	var out asked
	if err := m.readLists(ctx); err != nil {
		return out, err
	}
	cache, err := m.aptCache()
	if err != nil {
		return out, err
	}
	dir, binds, err := m.hold()
	if err != nil {
		return out, err
	}
	binds = append(binds, sandbox.Bind{Source: m.aptDir(), Target: "/run/kiln/apt", ReadOnly: true},
		sandbox.Bind{Source: filepath.Join(m.repo.lists, "lists"), Target: "/var/lib/apt/lists", ReadOnly: true},
		sandbox.Bind{Source: cache, Target: "/var/cache/apt"})
	words := make([]string, len(packages))
	for i, p := range packages {
		words[i] = quote(p)
	}
	script := before
	if len(words) > 0 {
		script += "apt-get -q install -- " + strings.Join(words, " ") + "\n"
	}
	err = m.sandbox(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-e", "-c", script + doHeld}, Proxy: m.repo.handler, Binds: binds,
		Env: []string{"APT_CONFIG=/run/kiln/apt/apt.conf"}})
	if err != nil {
		return out, m.explainLock(explainApt(err))
	}
	_, initramfs := os.Lstat(filepath.Join(dir, "initramfs"))
	_, grub := os.Lstat(filepath.Join(dir, "grub"))
	return asked{initramfs: initramfs == nil, grub: grub == nil}, nil
}

// explainApt tells a mirror's faults from the recipe's.
func explainApt(err error) error {
	text := err.Error()
	for _, broken := range []string{"Failed to fetch", "Unable to fetch", "Hash Sum mismatch", "Connection failed", "Some files failed to download"} {
		if strings.Contains(text, broken) {
			return errs.Wrap(err, errs.Unavailable, CodeMirror, "The package mirror broke off; it was asked %d times.", tries+1)
		}
	}
	return err
}

// aptCache is this build's copy of what apt has parsed: a package's script may write to it.
func (m *making) aptCache() (string, error) {
	dir := filepath.Join(m.work, "aptcache")
	err := os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755)
	name := "srcpkgcache.bin"
	if _, statErr := os.Stat(filepath.Join(dir, name)); err == nil && statErr != nil {
		err = copyFile(filepath.Join(m.repo.lists, "cache", name), filepath.Join(dir, name))
	}
	if err != nil {
		return "", errs.Wrap(err, errs.Internal, CodeHost, "apt's cache cannot be copied.")
	}
	return dir, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close() //nolint:errcheck // the copy failed already
		return err
	}
	return out.Close()
}

// bootFiles does what packages, files or the kernel's arguments asked for.
func (m *making) bootFiles(ctx context.Context, a asked) error {
	script := ""
	if a.initramfs {
		script += doInitramfs
	}
	if a.grub || a.initramfs {
		script += "if [ -e /boot/grub/grub.cfg ] && command -v update-grub >/dev/null; then update-grub; fi\n"
	}
	if err := m.offline(ctx, script); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeBoot, "The boot files cannot be made.")
	}
	return nil
}
