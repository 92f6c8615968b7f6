package offline_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// makeNode puts the node of a disk in the place of a file.
func makeNode(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil {
		return err
	}
	dir, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Mknodat(int(dir.Fd()), filepath.Base(name), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0)))
}

// replace puts a link in the place of a folder or file, which stays beside it.
func replace(name, target string) func(*os.Root) error {
	return func(root *os.Root) error {
		return errors.Join(root.Rename(name, name+".was"), root.Symlink(target, name))
	}
}

func simple(name, version string) aptrepo.Package {
	return aptrepo.Package{Name: name, Version: version, Files: map[string]string{"usr/share/simple/" + name: name + " " + version}}
}

// refusal is how an upgrade must end.
type refusal struct {
	code string
	kind errs.Kind
	text string
}

func (r refusal) check(t *testing.T, a *attempt) {
	t.Helper()
	if errs.CodeOf(a.err) != r.code || errs.KindOf(a.err) != r.kind || !strings.Contains(errText(a.err), r.text) {
		t.Errorf("code %s, kind %d: %v\n%s", errs.CodeOf(a.err), errs.KindOf(a.err), a.err, a.log.Bytes()[max(0, a.log.Len()-1500):])
	}
	t.Logf("%s: %.400v", errs.CodeOf(a.err), a.err)
}

// TestHostileFiles: disks that are refused by their first bytes or their file system.
func TestHostileFiles(t *testing.T) {
	original := tiny(t)
	t.Parallel()
	s := newShop(t)
	s.sell()
	dir := t.TempDir()
	qcow2 := filepath.Join(dir, "small.qcow2")
	if err := disk.Convert(t.Context(), disk.Image{Path: original, Format: "raw"}, disk.Image{Path: qcow2, Format: "qcow2"}, nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		format string
		make   []string // argv; OUT is the image
		want   refusal
	}{
		"backing file": {"qcow2", []string{"qemu-img", "create", "-q", "-f", "qcow2", "-b", original, "-F", "raw", "OUT"}, refusal{disk.CodeBackingFile, errs.Invalid, "names a backing file"}},
		"data file": {"qcow2", []string{"qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=" + dir + "/data,data_file_raw=on", "OUT", "1G"},
			refusal{disk.CodeDataFile, errs.Invalid, "data in another file"}},
		"absurd size":         {"qcow2", []string{"qemu-img", "create", "-q", "-f", "qcow2", "OUT", "3T"}, refusal{disk.CodeSize, errs.TooLarge, "would have 3298534883328 bytes"}},
		"cut-off qcow2":       {"qcow2", []string{"sh", "-c", `head -c 20000000 "$0" >"$1"`, qcow2, "OUT"}, refusal{disk.CodeTruncated, errs.Invalid, "The image ends at byte"}},
		"cut-off raw":         {"raw", []string{"sh", "-c", `head -c 20000000 "$0" >"$1"`, original, "OUT"}, refusal{disk.CodePartitions, errs.Invalid, "lies outside the disk"}},
		"not what it says":    {"raw", []string{"cp", qcow2, "OUT"}, refusal{disk.CodeFormat, errs.Invalid, "first bytes are those of qcow2"}},
		"folders in a circle": {"raw", []string{"sh", "-c", `cp --sparse=always "$0" "$1" && debugfs -w -R "ln /usr /usr/lib/circle" "$1?offset=1048576"`, original, "OUT"}, refusal{inspect.CodeUnreadable, errs.Invalid, "directory /usr/lib/circle is in two places"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			for i := range c.make {
				c.make[i] = strings.ReplaceAll(c.make[i], "OUT", image)
			}
			if c.make[0] == "sh" {
				c.make[len(c.make)-1] = image
			}
			if out, err := exec.CommandContext(t.Context(), c.make[0], c.make[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			a := s.upgradeIt(t, image, func(r *upgrade.Request, _ *offline.Config) { r.OriginalFormat = c.format })
			c.want.check(t, a)
			if slices.Contains(a.steps, "packages") {
				t.Errorf("it went as far as %v", a.steps)
			}
		})
	}
}

// TestHostileTrees: systems that are refused before anything is changed.
func TestHostileTrees(t *testing.T) {
	tiny(t)
	t.Parallel()
	s := newShop(t)
	s.sell(simple("subject", "2"))
	status := func(text string) func(*os.Root) error {
		return func(root *os.Root) error { return appendTo(root, "var/lib/dpkg/status", text) }
	}
	for name, c := range map[string]struct {
		edit func(*os.Root) error
		want refusal
	}{
		"apt's configuration is a link to the host": {replace("etc/apt", "/root/.config"), refusal{offline.CodeLayout, errs.Invalid, `/etc/apt is a symbolic link to "/root/.config"`}},
		"dpkg's database is a link out":             {replace("var/lib/dpkg", "../../../../../etc"), refusal{offline.CodeLayout, errs.Invalid, "no dpkg database"}},
		"dpkg's lists are a link out":               {replace("var/lib/dpkg/info", "../../../../../etc"), refusal{offline.CodeLayout, errs.Invalid, `/var/lib/dpkg/info is a symbolic link to "../../../../../etc"`}},
		"the boot files are a link to /proc":        {replace("boot", "/proc"), refusal{offline.CodeLayout, errs.Invalid, `/boot is a symbolic link to "/proc"`}},
		"dpkg's status is a device":                 {func(root *os.Root) error { return makeNode(root, "var/lib/dpkg/status") }, refusal{inspect.CodeUnreadable, errs.Invalid, ""}},
		"dpkg's status is garbage":                  {status("\n\x00\xff garbage\nno field\n"), refusal{"kiln.advisory.control_malformed", errs.Invalid, "/var/lib/dpkg/status: line "}},
		"the machine-id is a device":                {func(root *os.Root) error { return makeNode(root, "etc/machine-id") }, refusal{inspect.CodeUnreadable, errs.Invalid, ""}},
		"dpkg was interrupted": {func(root *os.Root) error {
			return root.WriteFile("var/lib/dpkg/updates/0000", []byte("Package: dpkg\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@example.org>\nDescription: x\n"), 0o644)
		}, refusal{offline.CodePackages, errs.Invalid, "an earlier run of dpkg in the image was interrupted"}},
		"a broken dependency": {status("Package: lonely\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@example.org>\nStatus: install ok installed\nDepends: nowhere\nDescription: x\n\n"),
			refusal{offline.CodePackages, errs.Invalid, "do not fit together"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := installed(t, []aptrepo.Package{simple("subject", "1")}, c.edit)
			t.Parallel()
			a := s.upgradeIt(t, image, nil)
			c.want.check(t, a)
			if slices.Contains(a.steps, "packages") {
				t.Errorf("it went as far as %v", a.steps)
			}
		})
	}
	t.Run("update-initramfs is a link", func(t *testing.T) {
		image := installed(t, []aptrepo.Package{simple("subject", "1")}, func(root *os.Root) error { return root.Symlink("../../../../bin/true", "usr/sbin/update-initramfs") })
		t.Parallel()
		if a := s.upgradeIt(t, image, nil).good(t); versionIn(t, a.output, "subject") != "2" {
			t.Error("nothing was upgraded")
		}
	})
}

// TestBadRepositories: what is not signed, too old, changed or cut off is not installed.
func TestBadRepositories(t *testing.T) {
	image := installed(t, []aptrepo.Package{simple("subject", "1")}, nil)
	t.Parallel()
	const file = "pool/main/subject_2_amd64.deb"
	for name, c := range map[string]struct {
		spoil func(*shop)
		mend  func(*shop)
		want  refusal
	}{
		"signed by somebody else": {func(s *shop) { s.NewKey(); s.Publish("bookworm", "") }, nil, refusal{offline.CodeSignature, errs.Unavailable, "not signed by a key of the keyring"}},
		"changed after it was signed": {func(s *shop) {
			s.SetFile("dists/bookworm/InRelease", []byte(strings.Replace(string(s.File("dists/bookworm/InRelease")), "Origin: test", "Origin: evil", 1)))
		}, nil, refusal{offline.CodeSignature, errs.Unavailable, "not signed by a key of the keyring"}},
		"expired": {func(s *shop) { s.Publish("bookworm", "Valid-Until: Sun, 01 Feb 2026 00:00:00 UTC\n") }, nil, refusal{offline.CodeSignature, errs.Unavailable, "older than its signer allows"}},
		"another list than it signed": {func(s *shop) { s.SetFile("dists/bookworm/main/binary-amd64/Packages", []byte("Package: evil\n")) }, nil,
			refusal{offline.CodeMirror, errs.Unavailable, "other bytes than the signed index names"}},
		"another package than it signed": {func(s *shop) {
			s.SetFile(file, []byte(strings.Replace(string(s.File(file)), "subject 2", "subject 3", 1)))
		},
			func(s *shop) {
				s.SetFile(file, []byte(strings.Replace(string(s.File(file)), "subject 3", "subject 2", 1)))
			},
			refusal{offline.CodeMirror, errs.Unavailable, "other bytes than the signed index names"}},
		"it dies in the middle of a package": {func(s *shop) { s.Break(func(path string) int { return cutAt(path, file) }) }, func(s *shop) { s.Break(nil) },
			refusal{offline.CodeMirror, errs.Unavailable, "could not be fetched from the mirror"}},
		"it dies in the middle of a list": {func(s *shop) {
			s.Break(func(path string) int { return cutAt(path, "dists/bookworm/main/binary-amd64/Packages") })
		}, func(s *shop) { s.Break(nil) },
			refusal{offline.CodeMirror, errs.Unavailable, "could not be fetched from the mirror"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			s.sell(simple("subject", "2"))
			c.spoil(s)
			c.want.check(t, s.upgradeIt(t, image, nil))
			if c.mend == nil {
				return
			}
			c.mend(s) // the same worker, with what its proxy kept
			if a := s.upgradeIt(t, image, nil).good(t); versionIn(t, a.output, "subject") != "2" {
				t.Error("the mended mirror's package is not there")
			}
		})
	}
	t.Run("it breaks off once", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		s.sell(simple("subject", "2"))
		broken := map[string]bool{}
		s.Break(func(path string) int {
			if broken[path] {
				return -1
			}
			broken[path] = true
			return 100
		})
		s.upgradeIt(t, image, nil).good(t)
	})
}

func cutAt(path, file string) int {
	if path == file {
		return 100
	}
	return -1
}
