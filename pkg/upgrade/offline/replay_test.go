package offline_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// sibling is an image that differs from the fixture.
type sibling struct {
	name string
	edit func(t *testing.T, m *disk.Mount, s *disk.Session)
	want string // Report.Record
}

// TestReplay upgrades images of a batch alone and together, and compares the results file by file. They share in two parts. The second one has
// packages of its own with fixes of their own, users, statoverrides, triggers that the first one's packages fulfil, and
// configuration files that its owner changed.
func TestReplay(t *testing.T) {
	base := debian(t)
	caches, err := offline.OpenCaches(t.TempDir(), "", proxy(t), logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	x := offline.New(offline.Config{Proxy: proxy(t), Caches: caches, Log: logrus.New()})
	var share []upgrade.PackageRef
	var shares [][]upgrade.PackageRef
	for _, s := range []sibling{{name: "first", want: "recorded"}, {name: "more packages", want: "replayed", edit: func(t *testing.T, m *disk.Mount, s *disk.Session) {
		addPackages(t, m, s, "redis-server", "man-db", "bsdextrautils")
		put(t, m, "etc/motd", "another image\n")
		put(t, m, "srv/data", "of its owner\n")
		put(t, m, "etc/logrotate.d/apt", "# changed by its owner\n")
	}}} {
		image := s.make(t, base)
		alone, plain := upgradeOne(t, x, image)
		if share == nil {
			share = changesOf(t, base, alone)
			kernels := func(ref upgrade.PackageRef) bool { return strings.HasPrefix(ref.Name, "linux-") }
			first := slices.DeleteFunc(slices.Clone(share), kernels)
			shares = [][]upgrade.PackageRef{first, slices.DeleteFunc(slices.Clone(share), func(ref upgrade.PackageRef) bool { return !kernels(ref) })}
		}
		var log bytes.Buffer
		together, report := upgradeLogged(t, x, image, shares, &log)
		if n := strings.Count(log.String(), "The shared changes came from a record"); (n >= 2) != (s.want == "replayed") {
			t.Errorf("%s: %d parts came from records\n%s", s.name, n, log.Bytes())
		}
		t.Logf("%s: %s; %d files from the record, %d changed, %d packages", s.name, report.Record, report.Replayed, report.Changed, len(report.Packages))
		for i, step := range report.Steps {
			t.Logf("  %-20s %6.2f s, alone %6.2f s", step.Name, step.Seconds, plain.Steps[i].Seconds)
		}
		if report.Record != s.want || (report.Replayed > 1000) != (s.want == "replayed") {
			t.Errorf("%s: %s, %d files", s.name, report.Record, report.Replayed)
		}
		if len(report.Packages) < len(share) || len(report.Packages) != len(plain.Packages) || len(report.CVEs) != len(plain.CVEs) {
			t.Errorf("%s: %d packages with %d CVEs, alone %d with %d", s.name, len(report.Packages), len(report.CVEs), len(plain.Packages), len(plain.CVEs))
		}
		compare(t, s.name, alone, together)
		if s.want == "replayed" { // once more: the index of manuals and all else that is made in the end is kept by now
			log.Reset()
			again, _ := upgradeLogged(t, x, image, shares, &log)
			for _, product := range []string{"store of certificates", "index of manuals", "initial RAM disk of ", "boot menu"} {
				if !regexp.MustCompile("The " + product + "\\S* is that of an image with the same inputs").MatchString(log.String()) {
					t.Errorf("the %s was made anew:\n%s", product, log.Bytes())
				}
			}
			compare(t, s.name+" again", alone, again)
		}
		if err := errors.Join(os.Remove(alone), os.Remove(together)); err != nil {
			t.Error(err)
		}
	}
}

func (s *sibling) make(t *testing.T, base string) string {
	t.Helper()
	if s.edit == nil {
		return base
	}
	path := filepath.Join(t.TempDir(), "sibling.raw")
	if err := disk.Convert(t.Context(), disk.Image{Path: base, Format: "raw"}, disk.Image{Path: path, Format: "raw"}, nil); err != nil {
		t.Fatal(err)
	}
	session, m := mountAt(t, path, "")
	defer session.Close()
	s.edit(t, m, session)
	return path
}

func mountAt(t *testing.T, path, options string) (*disk.Session, *disk.Mount) {
	t.Helper()
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.MountRaw(t.Context(), path, partStart, partLength, "ext4", options)
	if err != nil {
		s.Close()
		t.Fatal(err)
	}
	return s, m
}

func put(t *testing.T, m *disk.Mount, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.HostPath(), name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// addPackages puts packages of bookworm's first release into an image.
func addPackages(t *testing.T, m *disk.Mount, s *disk.Session, packages ...string) {
	t.Helper()
	control := t.TempDir()
	line := fmt.Sprintf("deb %s bookworm main\n", suites(t)[0].Mirror)
	if err := os.WriteFile(filepath.Join(control, "sources.list"), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(control, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	apt := "apt-get -q -y -o Dir::Etc::SourceList=/run/kiln/sources.list -o Dir::State::Lists=/run/kiln/lists -o Dir::Cache=/run/kiln/cache" +
		" -o APT::Sandbox::User=root -o Acquire::http::Proxy=http://" + sandbox.ProxyAddress + " -o APT::Install-Recommends=false "
	var out bytes.Buffer
	err := sandbox.Run(t.Context(), sandbox.Spec{Session: s, Rootfs: m.Path(), Stdout: &out, NoSync: true, Proxy: proxy(t).View(),
		Binds: []sandbox.Bind{{Source: control, Target: "/run/kiln"}},
		Args:  []string{"/bin/sh", "-c", apt + "update && " + apt + "install " + strings.Join(packages, " ")}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

func upgradeOne(t *testing.T, x *offline.Executor, image string) (string, upgrade.Report) {
	t.Helper()
	return upgradeLogged(t, x, image, nil, &bytes.Buffer{})
}

func upgradeLogged(t *testing.T, x *offline.Executor, image string, shares [][]upgrade.PackageRef, log *bytes.Buffer) (string, upgrade.Report) {
	t.Helper()
	output := filepath.Join(t.TempDir(), "new.raw")
	report, err := x.Upgrade(t.Context(), upgrade.Request{
		Original: image, OriginalFormat: "raw", Suites: suites(t), WorkDir: t.TempDir(), Output: output, OutputFormat: "raw", Log: log, Shares: shares,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes()[max(0, log.Len()-6000):])
	}
	return output, report
}

// changesOf gives what an upgrade changed, as a batch shares it.
func changesOf(t *testing.T, before, after string) []upgrade.PackageRef {
	t.Helper()
	old, _ := open(t, before)
	now, _ := open(t, after)
	from := map[string]string{}
	for _, p := range old.Packages {
		from[p.Name+":"+p.Architecture] = p.Version
	}
	var out []upgrade.PackageRef
	for _, p := range now.Packages {
		if was := from[p.Name+":"+p.Architecture]; was != p.Version {
			out = append(out, upgrade.PackageRef{Name: p.Name, Architecture: p.Architecture, From: was, To: p.Version})
		}
	}
	return out
}

// differing are what any two upgrades of one image differ in.
var differing = map[string]string{
	"var/log/":                            "logs have times",
	"var/cache/ldconfig/aux-cache":        "has inode numbers",
	"var/lib/dpkg/status-old":             "a backup",
	"var/lib/dpkg/diversions-old":         "a backup",
	"var/cache/debconf/config.dat-old":    "a backup",
	"var/cache/debconf/templates.dat-old": "a backup",
	"boot/initrd.img-":                    "has times; compared by its content",
	"var/cache/man/index.db":              "has the order in which mandb saw the files; compared by its content",
}

func compare(t *testing.T, name, alone, together string) {
	t.Helper()
	s1, m1 := mountAt(t, alone, "ro")
	defer s1.Close()
	s2, m2 := mountAt(t, together, "ro")
	defer s2.Close()
	a, b := content(t, m1.HostPath()), content(t, m2.HostPath())
	bad := 0
	for _, file := range slices.Sorted(maps.Keys(a)) {
		if a[file] == b[file] || excused(file) {
			continue
		}
		if bad++; bad < 60 {
			t.Errorf("%s: /%s: alone %q, replayed %q", name, file, a[file], b[file])
		}
	}
	for _, file := range slices.Sorted(maps.Keys(b)) {
		if _, there := a[file]; !there && !excused(file) {
			if bad++; bad < 60 {
				t.Errorf("%s: /%s is only in the replayed one: %q", name, file, b[file])
			}
		}
	}
	t.Logf("%s: %d files compared, %d differ", name, len(a), bad)
	for file := range a {
		for start, command := range byContent {
			if !strings.HasPrefix(file, start) || a[file] == b[file] {
				continue
			}
			if one, other := listed(t, s1, m1, command, file), listed(t, s2, m2, command, file); one != other || len(one) < 1000 {
				t.Errorf("%s: /%s has other contents: %d bytes of list alone, %d replayed\n%.3000s", name, file, len(one), len(other), cmp.Diff(strings.Split(one, "\n"), strings.Split(other, "\n")))
			}
		}
	}
	if len(a) < 5000 {
		t.Errorf("%d files are no Debian", len(a))
	}
}

// byContent are commands of the image that list what is in a file.
var byContent = map[string]string{
	"boot/initrd.img-":       "mkdir /tmp/x && unmkinitramfs $0 /tmp/x && cd /tmp/x && find . -printf '%y %m %p %l\\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum",
	"var/cache/man/index.db": "accessdb $0 | sort",
}

func listed(t *testing.T, s *disk.Session, m *disk.Mount, command, file string) string {
	t.Helper()
	var out bytes.Buffer
	err := sandbox.Run(t.Context(), sandbox.Spec{Session: s, Rootfs: m.Path(), Stdout: &out, StartServices: true, Args: []string{"/bin/sh", "-c", command, "/" + file}})
	if err != nil {
		t.Errorf("/%s: %v", file, err)
	}
	return out.String()
}

func excused(file string) bool {
	for start := range differing {
		if strings.HasPrefix(file, start) {
			return true
		}
	}
	return false
}

// content describes every file of a tree: type, mode, owner, size, content, target and attributes.
func content(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root+"/.", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			f.Close()
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %s %d", info.Size(), hex.EncodeToString(h.Sum(nil))[:16], st.Nlink)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + target
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			names := make([]byte, 1024)
			if n, err := syscall.Listxattr(path, names); err == nil && n > 0 {
				text += fmt.Sprintf(" %q", names[:n])
				value := make([]byte, 1024)
				if n, err := syscall.Getxattr(path, "security.capability", value); err == nil {
					text += fmt.Sprintf(" %x", value[:n])
				}
			}
		}
		out[strings.TrimPrefix(strings.TrimPrefix(path, root), "/")] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
