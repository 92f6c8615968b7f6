package offline_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
)

// asksTheBus is a maintainer script that fails without a running system.
const asksTheBus = `#!/bin/sh
set -e
if [ "$1" = configure ]; then
	[ -d /run/systemd/system ]
	busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager Version >/var/lib/ledger/bus
	cat /etc/machine-id >/var/log/ledger.log
	cat /etc/machine-id >/var/lib/cloud/data/previous
	echo mine >/root/left
	update-grub
fi
`

// firstBoot is what an image does when it is started for the first time, and what any boot leaves.
func firstBoot(root *os.Root) error {
	unit := func(name, target, command string) error {
		text := "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c '" + command + "'\n"
		wants := "etc/systemd/system/" + target + ".wants"
		return errors.Join(root.WriteFile("etc/systemd/system/"+name, []byte(text), 0o644), root.MkdirAll(wants, 0o755), root.Symlink("../"+name, wants+"/"+name))
	}
	return errors.Join(
		unit("first-boot.service", "multi-user.target", "ssh-keygen -A; useradd -m first; echo x >/var/lib/first"),
		unit("trace.service", "sysinit.target", "echo x >/var/lib/trace; echo x >>/etc/debian_version; rm /etc/issue.net"),
		root.MkdirAll("var/lib/cloud/data", 0o755), root.WriteFile("var/lib/cloud/data/instance-id", []byte("template\n"), 0o644), root.MkdirAll("var/log/journal", 0o755),
	)
}

// quarantined upgrades what needs a running system in a boot.
func quarantined(t *testing.T, limit time.Duration) func(*upgrade.Request, *offline.Config) {
	t.Helper()
	guests, err := testboot.New(testboot.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return quarantinedBy(guests, limit)
}

func quarantinedBy(guests offline.Guests, limit time.Duration) func(*upgrade.Request, *offline.Config) {
	return func(r *upgrade.Request, c *offline.Config) {
		r.Policy.Running = upgrade.RunningBoot
		c.Classify = (&scripts.Library{Mirror: c.Proxy}).ClassifyURI
		c.Guests, c.GuestTime = guests, limit
	}
}

// changedByQuarantine are the files that may differ in the upgraded image.
var changedByQuarantine = regexp.MustCompile(`^(usr/share/simple/|var/lib/dpkg/|var/lib/ledger(/bus)?$|var/log/(dpkg\.log|apt/.*|ledger\.log)$|var/cache/|boot/grub/|etc/ld\.so\.cache$)`)

// TestQuarantineBoot under QEMU.
func TestQuarantineBoot(t *testing.T) { quarantineBoot(t, quarantined(t, 8*time.Minute)) }

// quarantineBoot: a package whose scripts need a running system is upgraded in a boot, with what depends on it; the image
// is otherwise as if it had never been booted.
func quarantineBoot(t *testing.T, how func(*upgrade.Request, *offline.Config)) {
	ledger, follower := simple("ledger", "2"), simple("follower", "2")
	ledger.Files["var/lib/ledger/"] = ""
	ledger.Scripts = map[string]string{"postinst": asksTheBus}
	follower.Fields = "Depends: ledger (= 2)\n"
	image := editedPart(t, debian(t), partLength, func(root *os.Root) error {
		return errors.Join(install(root, simple("ledger", "1")), install(root, simple("follower", "1")), install(root, simple("web", "1")), firstBoot(root))
	})
	t.Parallel()
	s := newShop(t)
	s.sell(ledger, follower, simple("web", "2"))
	a := s.upgradeIt(t, image, how).good(t)
	for _, step := range a.report.Steps {
		t.Logf("%-20s %6.2f s", step.Name, step.Seconds)
	}

	q := a.report.Quarantine
	if q == nil || !slices.Equal(q.Packages, []string{"follower", "ledger"}) || q.Seconds <= 0 || q.PutBack < 3 || !slices.Equal(q.Changed, []string{"/var/lib/ledger/bus"}) {
		t.Errorf("%+v", q)
	}
	if len(a.report.Held) > 0 || len(a.report.Packages) != 3 {
		t.Errorf("held %v, packages %+v", a.report.Held, a.report.Packages)
	}
	if !slices.Contains(a.steps, "quarantine boot") {
		t.Errorf("steps %v", a.steps)
	}
	was := contents(t, image)
	is := contents(t, a.output)
	for name, text := range is {
		if old, had := was[name]; (!had || old != text) && !changedByQuarantine.MatchString(name) {
			t.Errorf("/%s was %q and is %q", name, old, text)
		}
	}
	for name := range was {
		if _, still := is[name]; !still {
			t.Errorf("/%s is gone", name)
		}
	}
	if got := is["var/lib/ledger/bus"]; !strings.HasPrefix(got, `s "2`) {
		t.Errorf("the script wrote %q", got)
	}
	if got, ok := is["var/log/ledger.log"]; !ok || got != "" {
		t.Errorf("the script's log is %q", got)
	}
	for _, name := range []string{"ledger", "follower", "web"} {
		if got := versionIn(t, a.output, name); got != "2" {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// TestQuarantineFails: a script that hangs is ended with its machine, one that fails fails the upgrade. The machine has the
// image's files and no system that runs, which the script does not know.
func TestQuarantineFails(t *testing.T) {
	kernel, initrd := boottest.Kernel(t)
	image := installed(t, []aptrepo.Package{simple("ledger", "1")}, func(root *os.Root) error {
		return errors.Join(root.WriteFile("boot/vmlinuz-6.1.0-1", kernel, 0o600), root.WriteFile("boot/initrd.img-6.1.0-1", initrd, 0o600),
			root.MkdirAll("usr/lib/systemd/system-generators", 0o755), root.WriteFile("usr/lib/systemd/system-generators/systemd-run-generator", nil, 0o755))
	})
	t.Parallel()
	t.Run("the cloud is away", func(t *testing.T) {
		t.Parallel()
		p := simple("ledger", "2")
		p.Scripts = map[string]string{"postinst": "#!/bin/sh\nset -e\npsql -c check\n"}
		s := newShop(t)
		s.sell(p)
		refusal{testboot.CodeCloud, errs.Unavailable, "ledger could not be upgraded in the quarantine boot: No valid host"}.check(t, s.upgradeIt(t, image, quarantinedBy(away{}, time.Minute)))
	})
	for name, c := range map[string]struct {
		script, want string
		limit        time.Duration
	}{
		"hangs": {"while :; do sleep 1; done", "ledger could not be upgraded in the quarantine boot: the script had not ended after 25s", 25 * time.Second},
		"fails": {"echo not today; false", "ledger could not be upgraded in the quarantine boot; apt ended with 100:", 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := simple("ledger", "2")
			p.Scripts = map[string]string{"postinst": "#!/bin/sh\nset -e\n[ ! -e /nowhere ] || psql -c check\n" + c.script + "\n"}
			s := newShop(t)
			s.sell(p)
			refusal{offline.CodeQuarantine, errs.Invalid, c.want}.check(t, s.upgradeIt(t, image, quarantined(t, c.limit)))
		})
	}
}

// away are guests whose host cannot run them.
type away struct{}

func (away) Run(context.Context, build.Guest) (build.GuestReport, error) {
	return build.GuestReport{}, errs.New(errs.Unavailable, testboot.CodeCloud, "No valid host was found.")
}

// TestQuarantineIsRefused where an image cannot be booted, before anything is changed.
func TestQuarantineIsRefused(t *testing.T) {
	image := installed(t, []aptrepo.Package{simple("ledger", "1")}, nil)
	t.Parallel()
	s := newShop(t)
	p := simple("ledger", "2")
	p.Scripts = map[string]string{"postinst": "#!/bin/sh\npsql -c check\n"}
	s.sell(p)
	a := s.upgradeIt(t, image, quarantined(t, time.Minute))
	refusal{offline.CodeRunning, errs.Invalid, "ledger need a running system (postinst line 2: psql -c check), and the image has no systemd of version 240 or later"}.check(t, a)
}

// TestQuarantineKeepsThePolicy: configuration files of the packages that are for the boot are looked at before anything is changed.
func TestQuarantineKeepsThePolicy(t *testing.T) {
	with := func(version, text string) aptrepo.Package {
		p := simple("ledger", version)
		p.Files["etc/ledger.conf"], p.Conffiles = text, []string{"/etc/ledger.conf"}
		p.Scripts = map[string]string{"postinst": "#!/bin/sh\npsql -c check\n"}
		return p
	}
	image := installed(t, []aptrepo.Package{with("1", "one\n")}, func(root *os.Root) error {
		return errors.Join(root.MkdirAll("usr/lib/systemd/system-generators", 0o755), root.WriteFile("usr/lib/systemd/system-generators/systemd-run-generator", nil, 0o755),
			root.WriteFile("etc/ledger.conf", []byte("mine\n"), 0o644))
	})
	t.Parallel()
	s := newShop(t)
	s.sell(with("2", "two\n"))
	a := s.upgradeIt(t, image, func(r *upgrade.Request, c *offline.Config) {
		quarantined(t, time.Minute)(r, c)
		r.Policy.Conffiles = upgrade.ConffilesFail
	})
	refusal{offline.CodeConffiles, errs.Conflict, "/etc/ledger.conf (ledger)"}.check(t, a)
}

// contents are the files of an image but for what packages ship below /usr: their text, the target of links, their rights.
func contents(t *testing.T, image string) map[string]string {
	t.Helper()
	found := map[string]string{}
	inside(t, image, func(root *os.Root) {
		for _, top := range []string{"etc", "var", "root", "home", "boot", "srv", "opt", "usr/local", "usr/share/simple", "tmp"} {
			err := fs.WalkDir(root.FS(), top, func(name string, d fs.DirEntry, err error) error {
				switch {
				case err != nil:
					return err
				case d.Type()&fs.ModeSymlink != 0:
					target, err := root.Readlink(name)
					found[name] = "-> " + target
					return err
				case d.Type().IsRegular():
					text, err := root.ReadFile(name)
					found[name] = string(text)
					return err
				}
				info, err := d.Info()
				if err == nil {
					found[name] = info.Mode().String()
				}
				return err
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	})
	return found
}
