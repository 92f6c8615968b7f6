package offline_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

const ucfPostinst = `#!/bin/sh
set -e
ucf --three-way /usr/share/looked/template /etc/looked.conf
ucfr looked /etc/looked.conf
`

// settings is a package with four configuration files.
func settings(version string) aptrepo.Package {
	return aptrepo.Package{
		Name: "settings", Version: version,
		Files: map[string]string{
			"etc/settings/both": "both " + version, "etc/settings/owner": "owner", "etc/settings/package": "package " + version, "etc/settings/gone": "gone " + version,
		},
		Conffiles: []string{"/etc/settings/both", "/etc/settings/owner", "/etc/settings/package", "/etc/settings/gone"},
	}
}

// looked is a package with a configuration file that ucf looks after.
func looked(version string) aptrepo.Package {
	return aptrepo.Package{
		Name: "looked", Version: version, Fields: "Depends: ucf\n",
		Files:   map[string]string{"usr/share/looked/template": "template " + version + "\n"},
		Scripts: map[string]string{"postinst": ucfPostinst},
	}
}

// changedByOwner has both packages, and an owner who changed three of the files and removed one.
func changedByOwner(t *testing.T) string {
	t.Helper()
	return installed(t, []aptrepo.Package{settings("1"), looked("1")}, func(root *os.Root) error {
		const sum = "9d8ddf3e7b2a54b6a41a23a2a4ad6a8d" // of a template that nobody has any more
		return errors.Join(
			root.WriteFile("etc/settings/both", []byte("mine"), 0o644), root.WriteFile("etc/settings/owner", []byte("mine"), 0o644), root.Remove("etc/settings/gone"),
			root.WriteFile("etc/looked.conf", []byte("mine\n"), 0o644), root.MkdirAll("var/lib/ucf/cache", 0o755),
			root.WriteFile("var/lib/ucf/hashfile", []byte(sum+"  /etc/looked.conf\n"), 0o644), root.WriteFile("var/lib/ucf/registry", []byte("looked /etc/looked.conf\n"), 0o644))
	})
}

func TestConffilesByPolicy(t *testing.T) {
	s, original := newShop(t), changedByOwner(t)
	t.Parallel()
	s.sell(settings("2"), looked("2"))
	for policy, c := range map[string]struct {
		both, looked string
		report       []upgrade.Conffile
	}{
		upgrade.ConffilesKeep: {"mine", "mine\n", []upgrade.Conffile{
			{Path: "/etc/looked.conf", Package: "looked", Taken: "owner", Left: "/etc/looked.conf.ucf-dist"},
			{Path: "/etc/settings/both", Package: "settings", Taken: "owner", Left: "/etc/settings/both.dpkg-dist"},
			{Path: "/etc/settings/gone", Package: "settings", Taken: "owner", Left: "/etc/settings/gone.dpkg-dist"},
		}},
		upgrade.ConffilesNew: {"both 2", "template 2\n", []upgrade.Conffile{
			{Path: "/etc/looked.conf", Package: "looked", Taken: "package"}, // ucf keeps no copy when it is told to take the new one
			{Path: "/etc/settings/both", Package: "settings", Taken: "package", Left: "/etc/settings/both.dpkg-old"},
			{Path: "/etc/settings/gone", Package: "settings", Taken: "package"},
		}},
	} {
		t.Run(policy, func(t *testing.T) {
			a := s.upgradeIt(t, original, func(r *upgrade.Request, _ *offline.Config) { r.Policy.Conffiles = policy }).good(t)
			if diff := cmp.Diff(c.report, a.report.Conffiles); diff != "" {
				t.Error(diff)
			}
			inside(t, a.output, func(root *os.Root) {
				for name, want := range map[string]string{
					"etc/settings/both": c.both, "etc/looked.conf": c.looked, "etc/settings/owner": "mine", "etc/settings/package": "package 2",
				} {
					if got := text(t, root, name); got != want {
						t.Errorf("%s is %q", name, got)
					}
				}
				for _, r := range a.report.Conffiles {
					if r.Left != "" && text(t, root, strings.TrimPrefix(r.Left, "/")) == "" {
						t.Errorf("%s is not there", r.Left)
					}
				}
			})
		})
	}
	t.Run(upgrade.ConffilesFail, func(t *testing.T) {
		a := s.upgradeIt(t, original, func(r *upgrade.Request, _ *offline.Config) { r.Policy.Conffiles = upgrade.ConffilesFail })
		const want = "the image's owner and its packages both changed /etc/settings/both (settings), /etc/settings/gone (settings), and the policy is to fail then"
		if !strings.Contains(errText(a.err), want) || slices.Contains(a.steps, "packages") {
			t.Errorf("after %v: %v", a.steps, a.err)
		}
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// nosy tries what a script in an image must not be able to do, and fails where it can.
const nosy = `#!/bin/sh
set -u
if read line; then exit 1; fi
echo x >/../../../../../../../../tmp/kiln-escaped 2>/dev/null
for deed in \
	'mount -t tmpfs tmpfs /mnt' 'mount -o remount,suid /' 'mknod /dev/kiln-disk b 8 0' 'mknod /var/kiln-disk b 8 0' \
	'head -c 1 /var/lib/node' 'echo 1 >/proc/sys/kernel/panic' 'chroot /proc/1/root/../.. test -e /work' \
	'perl -e "exit(syscall(165, q(tmpfs), q(/mnt), q(tmpfs), 0, 0) != 0)"' \
	'perl -MSocket -e "socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in(PORT, inet_aton(q(127.0.0.1)))) or exit 1"' \
	'perl -MSocket -e "socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in(80, inet_aton(q(192.0.2.1)))) or exit 1"'
do
	if sh -c "$deed" >/dev/null 2>&1; then echo "$deed: was possible"; exit 1; fi
done
# A daemon that somebody forgot.
(trap "" TERM HUP; while :; do sleep 1; done) >/dev/null 2>&1 </dev/null &
# What is left where nobody may leave anything, what belongs to nobody, and what makes one machine of all clones.
mkdir -p /root/.cache /opt/odd
echo x >/root/.cache/x; echo x >/home/x; echo x >/tmp/x; echo x >/run/x; echo x >/opt/odd/x
echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo builder >/etc/hostname; echo nameserver 192.0.2.1 >/etc/resolv.conf
echo key >/etc/ssh/ssh_host_new_key; echo key >/etc/ssh/ssh_host_rsa_key
echo deb http://evil.example.org x y >/etc/apt/sources.list; echo deb http://evil.example.org x y >/etc/apt/sources.list.d/evil.list
exit 0
`

const asking = `#!/bin/sh
set -e
. /usr/share/debconf/confmodule
db_fset asking/question seen false
db_input critical asking/question || true
db_go
db_get asking/question
echo "$RET" >/var/lib/answer
`

// TestOneUpgradeWithEverything: packages that try all they can, and that ask, are held, diverted or newer already.
func TestOneUpgradeWithEverything(t *testing.T) {
	var called atomic.Int64
	outside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	defer outside.Close()
	port := outside.URL[strings.LastIndexByte(outside.URL, ':')+1:]
	simple := func(name, version string) aptrepo.Package {
		return aptrepo.Package{Name: name, Version: version, Files: map[string]string{"usr/share/simple/" + name: name + " " + version}}
	}
	held := simple("held", "1")
	held.Fields = "Status: hold ok installed\n"
	trusted := aptrepo.Package{Name: "trusted", Version: "1", Files: map[string]string{"usr/bin/was": "x", "usr/bin/becomes": "x"}, Modes: map[string]int64{"usr/bin/was": 0o4755, "usr/bin/becomes": 0o755}}
	original := installed(t, []aptrepo.Package{
		simple("nosy", "1"), simple("asking", "1"), held, simple("diverted", "1"), simple("newer", "9"), simple("leader", "1"), simple("follower", "1"), simple("broken", "1"), trusted,
	}, func(root *os.Root) error {
		return errors.Join(root.Rename("usr/share/simple/diverted", "usr/share/simple/diverted.real"), root.WriteFile("usr/share/simple/diverted", []byte("owner's"), 0o644),
			appendTo(root, "var/lib/dpkg/diversions", "/usr/share/simple/diverted\n/usr/share/simple/diverted.real\n:\n"),
			root.MkdirAll("etc/ssh", 0o755), root.WriteFile("etc/ssh/ssh_host_rsa_key", []byte("from the first boot"), 0o600), root.WriteFile("var/lib/node", nil, 0o600), makeNode(root, "var/lib/node"))
	})
	t.Parallel()
	s := newShop(t)
	bold := simple("nosy", "2")
	bold.Scripts = map[string]string{"postinst": strings.ReplaceAll(nosy, "PORT", port)}
	questions := simple("asking", "2")
	questions.Scripts = map[string]string{"postinst": asking, "templates": "Template: asking/question\nType: string\nDefault: of the package\nDescription: a question\n it is long\n"}
	follower := simple("follower", "2")
	follower.Fields = "Depends: leader (= 2)\n"
	broken := simple("broken", "2")
	broken.Fields = "Depends: nowhere\n"
	trusted.Version, trusted.Modes = "2", map[string]int64{"usr/bin/was": 0o4755, "usr/bin/becomes": 0o2755}
	s.sell(bold, questions, simple("held", "2"), simple("diverted", "2"), simple("newer", "2"), simple("leader", "2"), follower, broken, trusted)
	a := s.upgradeIt(t, original, nil).good(t)
	if diff := cmp.Diff([]string{"broken", "held"}, a.report.Held); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"/usr/bin/becomes (trusted)"}, a.report.Setuid); diff != "" {
		t.Error(diff)
	}
	want := []upgrade.Stray{{Path: "/home/x", Removed: true}, {Path: "/opt/odd/x"}, {Path: "/root/.cache", Removed: true}, {Path: "/root/.cache/x", Removed: true}, {Path: "/var/lib/answer"}}
	if diff := cmp.Diff(want, a.report.Strays); diff != "" {
		t.Error(diff)
	}
	if n := called.Load(); n != 0 {
		t.Errorf("the host was called %d times", n)
	}
	if _, err := os.Stat("/tmp/kiln-escaped"); err == nil {
		t.Error("a script wrote to the host")
	}
	for name, version := range map[string]string{"nosy": "2", "asking": "2", "held": "1", "diverted": "2", "newer": "9", "leader": "2", "follower": "2", "broken": "1", "trusted": "2"} {
		if got := versionIn(t, a.output, name); got != version {
			t.Errorf("%s is %s", name, got)
		}
	}
	inside(t, a.output, func(root *os.Root) {
		for name, want := range map[string]string{
			"var/lib/answer": "of the package\n", "usr/share/simple/diverted": "owner's", "usr/share/simple/diverted.real": "diverted 2",
			"etc/machine-id": "", "etc/ssh/ssh_host_rsa_key": "from the first boot", "etc/apt/sources.list": "deb http://mirror.example.org/own bookworm main\n",
		} {
			if got := text(t, root, name); got != want {
				t.Errorf("%s is %q", name, got)
			}
		}
		for _, name := range []string{"etc/hostname", "etc/resolv.conf", "etc/ssh/ssh_host_new_key", "etc/apt/sources.list.d/evil.list", "tmp/x", "run/x", "run/kiln", "root/.cache", "usr/sbin/policy-rc.d", "home/x"} {
			if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("/%s: %v", name, err)
			}
		}
	})
}

func TestSecurityFixesOnly(t *testing.T) {
	pkg := func(name, version, fields string) aptrepo.Package {
		return aptrepo.Package{Name: name, Version: version, Fields: fields}
	}
	original := installed(t, []aptrepo.Package{pkg("safe", "1", ""), pkg("feature", "1", ""), pkg("entangled", "1", "")}, nil)
	t.Parallel()
	s := newShop(t)
	s.sell(pkg("feature", "2", ""), pkg("safe", "2", ""), pkg("fresh", "1", ""))
	s.Add("bookworm-security", pkg("safe", "1.1", "Depends: fresh\n"))
	s.Add("bookworm-security", pkg("entangled", "1.1", "Depends: feature (>= 2)\n"))
	s.Publish("bookworm-security", "")
	a := s.upgradeIt(t, original, func(r *upgrade.Request, _ *offline.Config) {
		r.Policy.Security = true
		r.Suites = append(r.Suites, upgrade.Suite{Mirror: aptrepo.Base, Suite: "bookworm-security", Components: []string{"main"}})
	}).good(t)
	got := map[string]string{}
	for _, p := range a.report.Packages {
		got[p.Name] = p.From + " to " + p.To
	}
	if diff := cmp.Diff(map[string]string{"safe": "1 to 1.1", "fresh": " to 1"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"entangled"}, a.report.Held); diff != "" {
		t.Error(diff)
	}
}
