package offline_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// TestBadScripts: what maintainer scripts do wrong ends the upgrade, each in its own words.
func TestBadScripts(t *testing.T) {
	image := installed(t, []aptrepo.Package{simple("subject", "1")}, func(root *os.Root) error {
		return errors.Join(root.WriteFile("root/.profile", []byte("mine"), 0o644), root.WriteFile("usr/bin/tool", []byte("x"), 0o755))
	})
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		limit  time.Duration
		want   refusal
	}{
		"fails":                {"echo sorry; exit 3", 0, refusal{offline.CodePackages, errs.Invalid, "the packages of the image could not be upgraded"}},
		"forks for ever":       {"while :; do sleep 1000 & done", 0, refusal{sandbox.CodeProcesses, errs.TooLarge, "more than 1024 processes"}},
		"fills the disk":       {"cat /dev/zero >/var/filler", 0, refusal{offline.CodeDiskFull, errs.TooLarge, "file system is full"}},
		"kills its parent":     {"kill -9 $PPID; sleep 1", 0, refusal{offline.CodePackages, errs.Invalid, "could not be upgraded"}},
		"kills everything":     {"kill -9 -1", 0, refusal{offline.CodePackages, errs.Invalid, "could not be upgraded"}},
		"sleeps for ever":      {"sleep 100000", 30 * time.Second, refusal{sandbox.CodeTimeout, errs.Timeout, "ran longer than 30s"}},
		"makes setuid":         {"cp /bin/true /usr/bin/back; chmod 4755 /usr/bin/back", 0, refusal{offline.CodeGate, errs.Invalid, "/usr/bin/back was made setuid or setgid by a script"}},
		"makes a file setuid":  {"chmod 2755 /usr/bin/tool", 0, refusal{offline.CodeGate, errs.Invalid, "/usr/bin/tool was made setuid or setgid by a script"}},
		"gives capabilities":   {`perl -e '$p = "/usr/bin/tool"; $n = "security.capability"; $v = pack("L*", 0x2000001, 0x2000, 0, 0, 0); exit(syscall(188, $p, $n, $v, 20, 0) != 0)'`, 0, refusal{offline.CodeGate, errs.Invalid, "/usr/bin/tool was given capabilities by a script"}},
		"changes a user":       {"echo evil >>/root/.profile", 0, refusal{offline.CodeGate, errs.Invalid, "/root/.profile belongs to a user and was changed"}},
		"is from the future":   {"touch -d 2099-01-01 /var/lib/later", 0, refusal{offline.CodeGate, errs.Invalid, "/var/lib/later is dated 2099-01-01, in the future"}},
		"replaces the menu":    {"echo linux /boot/vmlinuz-6.1.0-1 root=/dev/loop0p1 >/boot/grub/grub.cfg", 0, refusal{offline.CodeGate, errs.Invalid, "the boot menu says root=/dev/loop0p1"}},
		"empties the menu":     {": >/boot/grub/grub.cfg", 0, refusal{offline.CodeGate, errs.Invalid, "the boot menu does not name the kernel 6.1.0-1"}},
		"removes the kernel":   {"rm /boot/vmlinuz-*", 0, refusal{offline.CodeGate, errs.Invalid, "no kernel is left in /boot"}},
		"brings half a kernel": {"echo x >/boot/vmlinuz-6.1.0-2; echo '#!/bin/sh' >/usr/sbin/update-initramfs; chmod 755 /usr/sbin/update-initramfs", 0, refusal{offline.CodeGate, errs.Invalid, "the kernel 6.1.0-2 has no initrd"}},
		"makes a link of dpkg": {"mv /var/lib/dpkg/info /var/lib/dpkg/other; ln -s other /var/lib/dpkg/info", 0, refusal{offline.CodeGate, errs.Invalid, `/var/lib/dpkg/info is a symbolic link to "other"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			p := simple("subject", "2")
			p.Scripts = map[string]string{"postinst": "#!/bin/sh\n" + c.script + "\n"}
			s.sell(p)
			a := s.upgradeIt(t, image, func(_ *upgrade.Request, cfg *offline.Config) {
				if c.limit > 0 {
					cfg.Timeout = c.limit
				}
			})
			c.want.check(t, a)
		})
	}
}

// TestGateAfterThePackages: what is wrong when apt is done is found, by a hook that the image runs behind dpkg.
func TestGateAfterThePackages(t *testing.T) {
	stanza := func(fields string) string {
		return `echo /. >/var/lib/dpkg/info/late.list; : >/var/lib/dpkg/info/late.md5sums; printf 'Package: late\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@example.org>\nDescription: x\n` + fields + `\n\n' >>/var/lib/dpkg/status`
	}
	tiny(t)
	t.Parallel()
	for name, c := range map[string]struct{ hook, want string }{
		"a package that was not planned": {stanza(`Status: install ok installed\n`), "its packages are not those of the plan: late:amd64 1 was not planned"},
		"a package of another version":   {"sed -i '/^Package: subject$/,/^$/s/^Version: 2/Version: 3/' /var/lib/dpkg/status", "subject:amd64 is 3 instead of 2"},
		"a package that is half there":   {stanza(`Status: install ok unpacked\n`), "dpkg --audit"},
		"a package that lacks another":   {stanza(`Status: install ok installed\nDepends: nowhere\n`), "apt-get check"},
	} {
		t.Run(name, func(t *testing.T) {
			image := installed(t, []aptrepo.Package{simple("subject", "1")}, func(root *os.Root) error {
				hook := "#!/bin/sh\n[ ! -e /usr/share/simple/done ] || exit 0\n: >/usr/share/simple/done\n" + c.hook + "\n"
				return errors.Join(root.WriteFile("usr/bin/hook", []byte(hook), 0o755), root.WriteFile("etc/apt/apt.conf.d/99hook", []byte("DPkg::Post-Invoke { \"/usr/bin/hook\"; };\n"), 0o644))
			})
			t.Parallel()
			s := newShop(t)
			s.sell(simple("subject", "2"))
			refusal{offline.CodeGate, errs.Invalid, c.want}.check(t, s.upgradeIt(t, image, nil))
		})
	}
	t.Run("a damaged file system", func(t *testing.T) {
		image := installed(t, []aptrepo.Package{simple("subject", "1")}, nil)
		t.Parallel()
		if out, err := exec.CommandContext(t.Context(), "debugfs", "-w", "-R", "set_inode_field /etc/fstab links_count 7", image+"?offset=1048576").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		s := newShop(t)
		s.sell(simple("subject", "2"))
		refusal{offline.CodeGate, errs.Invalid, "its file system has errors"}.check(t, s.upgradeIt(t, image, nil))
	})
}

// TestWhatNeedsARunningSystem is held, and with it what depends on it; the rest is upgraded.
func TestWhatNeedsARunningSystem(t *testing.T) {
	follower := simple("follower", "2")
	follower.Fields = "Depends: database (= 2)\n"
	image := installed(t, []aptrepo.Package{simple("database", "1"), simple("follower", "1"), simple("web", "1")}, nil)
	t.Parallel()
	s := newShop(t)
	s.sell(simple("database", "2"), follower, simple("web", "2"))
	classify := func(r *upgrade.Request, c *offline.Config) {
		c.Classify = func(_ context.Context, uri string) (upgrade.Script, string, error) {
			if strings.HasSuffix(uri, "/database_2_amd64.deb") {
				return upgrade.ScriptRunning, "it asks the daemon", nil
			}
			if strings.HasSuffix(uri, "/web_2_amd64.deb") {
				return upgrade.ScriptDivert, "it restarts a service", nil
			}
			return upgrade.ScriptSafe, "", nil
		}
	}
	a := s.upgradeIt(t, image, classify).good(t)
	for name, want := range map[string]string{"database": "1", "follower": "1", "web": "2"} {
		if got := versionIn(t, a.output, name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
	if got := strings.Join(a.report.Held, " "); got != "database follower" {
		t.Errorf("held %s", got)
	}
	if len(a.report.Scripts) != 2 || a.report.Scripts[0].Why == "" {
		t.Errorf("%+v", a.report.Scripts)
	}
	b := s.upgradeIt(t, image, func(r *upgrade.Request, c *offline.Config) { classify(r, c); r.Policy.Running = upgrade.RunningBoot })
	refusal{offline.CodeRunning, errs.Invalid, "database need a running system (it asks the daemon)"}.check(t, b)
}
