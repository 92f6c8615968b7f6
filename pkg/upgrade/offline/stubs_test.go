package offline_test

import (
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// told is a program of the image that only tells that it was called.
const told = "#!/bin/sh\necho \"${0##*/} $*\" >>/var/log/told\n"

// calls are what maintainer scripts ask of the programs that are stood in for; true for those that must reach the real program.
var calls = []struct {
	call string
	real bool
}{
	{"ucf /usr/share/caller/same /etc/same.conf", false},
	{"ucf --three-way --debconf-ok /usr/share/caller/same /etc/same.conf", false},
	{"ucf /usr/share/caller/new /etc/new.conf", true},
	{"ucf /usr/share/caller/same /etc/link.conf", true},
	{"ucf /usr/share/caller/same /etc/gone.conf", true},
	{"ucf /usr/share/caller/same /etc/never.conf", true},
	{"ucf /usr/share/caller/same /etc/diverted.conf", true},
	{"ucf /usr/share/caller/same /etc/linked/in.conf", true},
	{"ucf /usr/share/caller/same /etc/twice.conf", true},
	{"ucf /usr/share/caller/same ../etc/same.conf", true},
	{"ucf /usr/share/caller/same /etc/../etc/same.conf", true},
	{"ucf /usr/share/caller/none /etc/same.conf", true},
	{"ucf '/usr/share/caller/same' '/etc/a name'", true},
	{"ucf --purge /etc/same.conf", true},
	{"ucf --sum-file /x /usr/share/caller/same /etc/same.conf", true},
	{"ucf /usr/share/caller/same /etc/same.conf --three-way", true},
	{"ucf /usr/share/caller/same", true},
	{"UCF_SOURCE_DIR=/x ucf /usr/share/caller/same /etc/same.conf", true},
	{"DEBIAN_HAS_FRONTEND=1 ucf /usr/share/caller/same /etc/same.conf", true},
	{"/usr/bin/ucf /usr/share/caller/same /etc/same.conf", true},
	{"ucfr caller /etc/same.conf", false},
	{"ucfr --force caller /etc/same.conf", false},
	{"ucfr other /etc/same.conf", true},
	{"ucfr caller /etc/new.conf", true},
	{"ucfr --purge caller /etc/same.conf", true},
	{"ucfr caller /etc/link.conf", true},
	{"ucfr call.r /etc/same.conf", true},
	{"deb-systemd-helper unmask free.service", false},
	{"deb-systemd-helper unmask masked.service", true},
	{"deb-systemd-helper --user unmask free.service", true},
	{"deb-systemd-helper enable free.service", true},
	{"deb-systemd-helper unmask free.service masked.service", true},
	{"dpkg-maintscript-helper rm_conffile /etc/gone 1~ -- configure 1", false},
	{"dpkg-maintscript-helper rm_conffile /etc/gone 1~ caller -- configure 1", false},
	{"dpkg-maintscript-helper rm_conffile /etc/same.conf 1~ -- configure 1", true},
	{"dpkg-maintscript-helper rm_conffile /etc/kept 1~ -- configure 1", true},
	{"dpkg-maintscript-helper rm_conffile /etc/gone 1~ --", true},
	{"dpkg-maintscript-helper rm_conffile etc/gone 1~ -- configure", true},
	{"dpkg-maintscript-helper dir_to_symlink /etc/linked true 1~ -- configure 1", false},
	{"dpkg-maintscript-helper dir_to_symlink /etc/linked/ true 1~ -- configure 1", false},
	{"dpkg-maintscript-helper dir_to_symlink /etc/true other 1~ -- configure 1", true},
	{"dpkg-maintscript-helper dir_to_symlink /etc/linked -- configure 1", true},
	{"dpkg-maintscript-helper symlink_to_dir /etc/gone x 1~ -- configure 1", true},
	{"dpkg-maintscript-helper mv_conffile /etc/gone /etc/same.conf 1~ -- configure 1", true},
	{"dpkg-maintscript-helper supports rm_conffile", true},
}

// variables are what stands before the name of a program in calls.
var variables = regexp.MustCompile(`^([A-Z_]+=\S+ |/usr/bin/)`)

// called edits an image so that the programs have what calls name.
func called(conf string) func(*os.Root) error {
	sum := fmt.Sprintf("%x", md5.Sum([]byte("same\n")))
	return func(root *os.Root) error {
		var hashes strings.Builder
		err := errors.Join(root.MkdirAll("var/lib/ucf/cache", 0o755), root.MkdirAll("usr/share/caller", 0o755), root.MkdirAll("etc/true", 0o755),
			root.Symlink("true", "etc/linked"), root.Symlink("same.conf", "etc/link.conf"),
			root.MkdirAll("etc/systemd/system", 0o755), root.Symlink("/dev/null", "etc/systemd/system/masked.service"), root.WriteFile("etc/kept.dpkg-backup", nil, 0o644))
		for _, name := range []string{"same.conf", "new.conf", "link.conf", "gone.conf", "diverted.conf", "linked/in.conf", "twice.conf", "twice.conf", "a name"} {
			hashes.WriteString(sum + "  /etc/" + name + "\n")
			if name != "gone.conf" && name != "link.conf" {
				err = errors.Join(err, root.WriteFile("etc/"+name, []byte("same\n"), 0o644))
			}
		}
		for _, name := range []string{"usr/bin/ucf", "usr/bin/ucfr", "usr/bin/deb-systemd-helper", "usr/bin/dpkg-maintscript-helper"} {
			err = errors.Join(err, root.WriteFile(name, []byte(told), 0o755))
		}
		return errors.Join(err, root.WriteFile("etc/never.conf", []byte("same\n"), 0o644), root.WriteFile("var/lib/ucf/hashfile", []byte(hashes.String()), 0o644),
			root.WriteFile("var/lib/ucf/registry", []byte("caller \t /etc/same.conf\ncaller \t /etc/link.conf\n"), 0o644), root.WriteFile("etc/ucf.conf", []byte("# nothing\n"+conf), 0o644),
			appendTo(root, "var/lib/dpkg/diversions", "/etc/diverted.conf\n/etc/diverted.conf.own\n:\n"))
	}
}

// TestLeftOut: programs are left out where they would do nothing, and nowhere else.
func TestLeftOut(t *testing.T) {
	tiny(t)
	t.Parallel()
	var script, usual, all strings.Builder
	script.WriteString("#!/bin/sh\n")
	for i, c := range calls {
		note := fmt.Sprintf("echo call %d >>/var/log/told\n", i)
		script.WriteString(note + c.call + "\n")
		line := strings.ReplaceAll(variables.ReplaceAllString(c.call, ""), "'", "") + "\n"
		fmt.Fprintf(&all, "call %d\n", i)
		fmt.Fprintf(&usual, "call %d\n", i)
		if c.real || strings.HasPrefix(line, "ucf") {
			all.WriteString(line)
		}
		if c.real {
			usual.WriteString(line)
		}
	}
	for name, c := range map[string]struct{ conf, want string }{
		"usual":             {"", usual.String()},
		"settings of ucf":   {"conf_state_dir=/var/lib/other\n", all.String()},
		"indented settings": {"\t conf_state_dir=/var/lib/other\n", all.String()},
	} {
		image := installed(t, []aptrepo.Package{simple("caller", "1")}, called(c.conf))
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			p := simple("caller", "2")
			p.Files["usr/share/caller/same"], p.Files["usr/share/caller/new"] = "same\n", "new\n"
			p.Scripts = map[string]string{"postinst": script.String()}
			s.sell(p)
			a := s.upgradeIt(t, image, nil).good(t)
			inside(t, a.output, func(root *os.Root) {
				if got := text(t, root, "var/log/told"); got != c.want {
					t.Errorf("%s\nwanted\n%s", got, c.want)
				}
			})
		})
	}
}

// Scripts of packages that make whole-system results, as Debian's do.
const (
	manualsPostinst = "#!/bin/sh\nfor i in 1 2; do setpriv --reuid man --regid man --init-groups -- /usr/bin/mandb -pq || true; done\n" +
		"setpriv --reuid man --regid man --init-groups -- /usr/bin/mandb -c\necho man-db done >>/var/log/told\n"
	certificatesPostinst = "#!/bin/sh\nset -e\ncase $1 in\nconfigure) update-ca-certificates --hooksdir \"\"; dpkg-trigger --no-await update-ca-certificates ;;\n" +
		"triggered) update-ca-certificates ;;\nesac\necho ca-certificates $1 >>/var/log/told\n"
)

// TestLastOnceAndTogether: the index of manuals and the store of certificates are made once, when all packages are configured.
func TestLastOnceAndTogether(t *testing.T) {
	tiny(t)
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*os.Root) error
		want []string
	}{
		"at the end": {nil, []string{"ca-certificates configure", "ca-certificates triggered", "man-db done", "mandb -c", "mandb -pq", "update-ca-certificates "}},
		"told to hooks": {func(root *os.Root) error {
			return root.WriteFile("etc/ca-certificates/update.d/own", []byte(told), 0o755)
		}, []string{"ca-certificates configure", "ca-certificates triggered", "man-db done", "mandb -c", "mandb -pq", "update-ca-certificates.kiln ", "update-ca-certificates.kiln --hooksdir "}},
		"which fail": {func(root *os.Root) error {
			return root.WriteFile("usr/sbin/update-ca-certificates", []byte("#!/bin/sh\nexit 7\n"), 0o755)
		}, nil},
	} {
		image := installed(t, []aptrepo.Package{simple("man-db", "1"), simple("ca-certificates", "1")}, func(root *os.Root) error {
			err := errors.Join(root.MkdirAll("etc/ca-certificates/update.d", 0o755), root.WriteFile("var/log/told", nil, 0o666), root.Chmod("var/log/told", 0o666),
				root.WriteFile("usr/bin/mandb", []byte(told), 0o755), root.WriteFile("usr/sbin/update-ca-certificates", []byte(told), 0o755))
			if err == nil && c.edit != nil {
				err = c.edit(root)
			}
			return err
		})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			manuals, certificates := simple("man-db", "2"), simple("ca-certificates", "2")
			manuals.Scripts = map[string]string{"postinst": manualsPostinst}
			certificates.Scripts = map[string]string{"postinst": certificatesPostinst, "triggers": "interest-noawait update-ca-certificates\n"}
			s.sell(manuals, certificates)
			a := s.upgradeIt(t, image, nil)
			if c.want == nil {
				refusal{offline.CodePackages, errs.Invalid, "could not be upgraded"}.check(t, a)
				return
			}
			a.good(t)
			inside(t, a.output, func(root *os.Root) {
				lines := strings.Split(strings.TrimSuffix(text(t, root, "var/log/told"), "\n"), "\n")
				if last := lines[len(lines)-1]; name == "at the end" && last != "mandb -pq" && last != "update-ca-certificates " {
					t.Errorf("%q ends not with what was put off", lines)
				}
				if got := sorted(lines); strings.Join(got, ";") != strings.Join(c.want, ";") {
					t.Errorf("%q instead of %q", got, c.want)
				}
			})
		})
	}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}
