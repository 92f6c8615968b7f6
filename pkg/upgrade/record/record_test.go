package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// The image of these tests has the packages foo, which the share upgrades, and man, which wants to know of manuals.

var fooShare = []upgrade.PackageRef{{Name: "foo", Architecture: "amd64", From: "1", To: "2"}}

const (
	foo1 = "Package: foo\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nConffiles:\n /etc/foo.conf 900150983cd24fb0d6963f7d28e17f72"
	foo2 = "Package: foo\nStatus: install ok triggers-awaited\nArchitecture: amd64\nVersion: 2\nConffiles:\n /etc/foo.conf 900150983cd24fb0d6963f7d28e17f72\nTriggers-Awaited: man"
	man1 = "Package: man\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1"
	man2 = "Package: man\nStatus: install ok triggers-pending\nArchitecture: amd64\nVersion: 1\nTriggers-Pending: /usr/share/man refresh"
)

// pythonPrerm calls awk as the scripts of python's packages do.
const pythonPrerm = `max=$(LANG=C LC_ALL=C xargs --show-limits < /dev/null 2>&1 | awk '/Maximum length/ {print int($NF / 4)}')
    dpkg -L $pkg \
	| awk -F/ 'BEGIN {OFS="/"} /\.py$/ {$NF=sprintf("__pycache__/%s.*.py[co]", substr($NF,1,length($NF)-3)); print}' \
	| xargs --max-chars="$max" echo
`

var fooImage = known(map[string]string{
	statusFile:                        foo1 + "\n\n" + man1 + "\n\n",
	infoFolder + "/foo.list":          "/.\n/usr\n/usr/bin\n/usr/bin/foo\n/usr/share/man/foo.1\n/usr/share/foo\n/usr/share/foo/old\n/usr/share/foo/gone\n/etc/foo.conf\n",
	infoFolder + "/foo.postinst":      "getent passwd foouser; update-rc.d foo; mkdir /srv/foopath",
	"usr/sbin/update-rc.d":            "#!/usr/bin/perl\nglob(\"/etc/rc?.d/[SK][0-9][0-9]$scriptname\");\nreturn  glob(\"$dpkg_root/etc/rcS.d/S??mountkernfs.sh\");\n",
	"etc/rc3.d/S01a":                  "",
	"boot/initrd.img-1":               "initrd",
	infoFolder + "/man.list":          "/.\n/usr/bin/man\n",
	infoFolder + "/foo.prerm":         pythonPrerm,
	fileTriggers:                      "/etc/foo.d foo\n/usr/share/man man/noawait\n",
	alternatives + "/foo":             "manual",
	alternatives + "/zoo":             "auto",
	"usr/bin/awk":                     "mawk",
	triggersFolder + "/refresh":       "man\n",
	"etc/passwd":                      "root:x:0:0::/root:/bin/sh\n",
	"etc/group":                       "root:x:0:\nfoo:x:42:\n",
	"etc/foo.conf":                    "abc",
	"etc/default/foo":                 "input",
	"etc/ld.so.cache":                 "first",
	"usr/bin/foo":                     "foo 1",
	"usr/bin/man":                     "man 1",
	"usr/bin/tool":                    "a script runs it",
	"usr/share/man/foo.1":             "manual 1",
	"usr/share/foo/old":               "goes",
	"var/lib/foo/db":                  "made by the script of 1",
	"etc/rc2.d/S01a":                  "",
	configFile:                        "Name: foo/q\nTemplate: foo/q\nOwners: foo\nValue: 1\n\n",
	templatesFile:                     "Name: foo/q\nType: string\nOwners: foo/q\n\n",
	"var/log/dpkg.log":                "before\n",
	"etc/machine-id":                  "",
	diversionsFile:                    "",
	"var/lib/dpkg/updates/.keep":      "",
	"var/cache/ldconfig/aux-cache":    "x",
	"usr/share/other/that-others-own": "y",
})

// known makes whoever runs the test a user of the image.
func known(files map[string]string) map[string]string {
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		files["etc/passwd"] += fmt.Sprintf("tester:x:%d:%d::/:/bin/sh\n", uid, gid)
		files["etc/group"] += fmt.Sprintf("tester:x:%d:\n", gid)
	}
	return files
}

func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, dir, name, text)
	}
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	at := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(at+".new", []byte(text), 0o644), os.Rename(at+".new", at)); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) *Tree {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(root)
	if err := errors.Join(err, root.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// upgradeFoo does what dpkg and foo's scripts would do.
func upgradeFoo(t *testing.T, dir string) {
	t.Helper()
	past := time.Unix(1700000000, 0)
	put(t, dir, "usr/bin/foo", "foo 2")
	put(t, dir, "usr/share/man/foo.1", "manual 2")
	for _, name := range []string{"usr/bin/foo", "usr/share/man/foo.1"} {
		if err := os.Chtimes(filepath.Join(dir, name), past, past); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.RemoveAll(filepath.Join(dir, "usr/share/foo")), os.Chmod(filepath.Join(dir, "usr/bin/foo"), 0o4755), os.Symlink("foo", filepath.Join(dir, "usr/bin/oof")),
		os.Link(filepath.Join(dir, "usr/bin/foo"), filepath.Join(dir, "usr/bin/foo2")), os.Mkdir(filepath.Join(dir, "usr/lib"), 0o750), ownByFoo(dir))
	if err != nil {
		t.Fatal(err)
	}
	ts := unix.NsecToTimespec(past.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "usr/bin/oof"), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "usr/lib/foo.so", "library")
	put(t, dir, infoFolder+"/foo.list", "/.\n/usr\n/usr/bin\n/usr/bin/foo\n/usr/bin/foo2\n/usr/bin/oof\n/usr/lib\n/usr/lib/foo.so\n/usr/share/man/foo.1\n/etc/foo.conf\n")
	put(t, dir, statusFile, foo2+"\n\n"+man2+"\n\n")
	put(t, dir, "var/lib/foo/db", "made by the script of 2")
	put(t, dir, fileTriggers, "/usr/share/man man/noawait\n/etc/foo.d foo\n") // unpacked, and so at the end
	put(t, dir, "etc/ld.so.cache", "second")
	put(t, dir, configFile, "Name: foo/q\nTemplate: foo/q\nOwners: foo\nValue: 2\n\n")
	put(t, dir, "var/log/dpkg.log", "before\nfoo upgraded\n")
	put(t, dir, statusFile+"-old", "backup")
}

// ownByFoo gives a file to the group foo, where the test may.
func ownByFoo(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(filepath.Join(dir, "usr/bin/oof"), 0, 42)
}

// looks is what their processes look at.
func looks(r *Recorder) {
	r.reader = func(process int) reader {
		return map[int]reader{
			1: {program: "dpkg"}, 2: {program: "sh"}, 5: {program: "dash"},
			3: {program: "perl", args: []string{"/usr/bin/perl", "/usr/sbin/update-rc.d", "-f", "foo", "defaults"}},
			6: {program: "update-alternatives", args: []string{"update-alternatives", "--install", "/usr/bin/f", "foo", "/usr/bin/foo", "10"}},
			7: {program: "dash", args: []string{"/bin/sh", "/" + infoFolder + "/foo.prerm", "upgrade", "2"}},
			8: {program: "dpkg-trigger", args: []string{"dpkg-trigger", "--by-package", "foo", "--no-await", "/opt/named"}},
			4: {program: "python3.11", args: []string{"/usr/bin/python3", "-E", "/usr/bin/py3clean", "-p", "foo"}},
		}[process]
	}
	for _, a := range []sandbox.Access{
		{Kind: sandbox.Read, Path: "/" + statusFile, Process: 1}, {Kind: sandbox.Read, Path: "/usr/bin/foo", Process: 1}, {Kind: sandbox.Read, Path: "/etc/foo.conf", Process: 1},
		{Kind: sandbox.List, Path: "/usr/bin", Process: 1}, {Kind: sandbox.Exec, Path: "/usr/bin/tool", Process: 2}, {Kind: sandbox.Read, Path: "/etc/default/foo", Process: 2},
		{Kind: sandbox.Stat, Path: "/etc/absent", Process: 2}, {Kind: sandbox.List, Path: "/etc/rc2.d", Process: 2}, {Kind: sandbox.Read, Path: "/etc/ld.so.cache", Process: 2},
		{Kind: sandbox.Read, Path: "/etc/passwd", Process: 2}, {Kind: sandbox.Stat, Path: "/run/x", Process: 2}, {Kind: sandbox.Readlink, Path: "/proc/self/exe", Process: 2},
		{Kind: sandbox.Write, Path: "/var/lib/foo/db", Process: 2}, {Kind: sandbox.Read, Path: "/" + triggersFolder + "/nobody", Process: 1},
		{Kind: sandbox.List, Path: "/etc", Process: 3}, {Kind: sandbox.List, Path: "/etc/rc3.d", Process: 3}, {Kind: sandbox.List, Path: "/usr/bin", Process: 4},
		{Kind: sandbox.Stat, Path: "/boot/initrd.img-1", Process: 5}, {Kind: sandbox.Read, Path: "/" + pendingFile, Process: 8},
		{Kind: sandbox.List, Path: "/" + alternatives, Process: 6}, {Kind: sandbox.Read, Path: "/" + alternatives + "/foo", Process: 6},
		{Kind: sandbox.Read, Path: "/" + alternatives + "/zoo", Process: 6}, {Kind: sandbox.Stat, Path: "/usr/bin/awk", Process: 7}, {Kind: sandbox.Exec, Path: "/usr/bin/awk", Process: 7},
	} {
		a.Asked = a.Path
		r.See(a)
	}
}

// recordFoo gives a record of the upgrade, and the upgraded tree.
func recordFoo(t *testing.T) (*Record, []byte, string) {
	t.Helper()
	dir := lay(t, fooImage)
	rec, pack, why := recordIn(t, dir, func() { upgradeFoo(t, dir) })
	if why != "" {
		t.Fatal(why)
	}
	return rec, pack, dir
}

func recordIn(t *testing.T, dir string, change func()) (*Record, []byte, string) {
	t.Helper()
	r, err := Begin(t.Context(), tree(t, dir), fooShare)
	if err != nil {
		t.Fatal(err)
	}
	looks(r)
	time.Sleep(20 * time.Millisecond) // coarse file times
	change()
	var pack bytes.Buffer
	rec, why, err := r.Finish(t.Context(), &pack)
	if err != nil {
		t.Fatal(err)
	}
	return rec, pack.Bytes(), why
}

// contents lists a tree with modes, links and texts.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			out[strings.TrimPrefix(path, dir)] = fmt.Sprint(text, " ", target, " ", info.ModTime().Year() == 2023)
			return err
		}
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
			if info.ModTime().Year() == 2023 {
				text += " old"
			}
		}
		out[strings.TrimPrefix(path, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReplayIsWhatWasRecorded(t *testing.T) {
	rec, pack, upgraded := recordFoo(t)
	dir := lay(t, fooImage)
	put(t, dir, "srv/of-the-owner", "z")
	put(t, dir, statusFile, fooImage[statusFile]+"Package: zoo\nStatus: install ok installed\nArchitecture: all\nVersion: 7\n\n")
	put(t, dir, "etc/passwd", fooImage["etc/passwd"]+"zoo:x:7:7::/:/bin/false\n")
	put(t, dir, "usr/bin/foo", "changed by the owner: dpkg does not look")
	put(t, dir, fileTriggers, fooImage[fileTriggers]+"/usr/bin zoo\n/usr/sbin zoo\n/opt zoo\n/opt/named zoo\n")
	put(t, dir, triggersFolder+"/nobody", "zoo\n")
	put(t, dir, overridesFile, "zoo zoo 2750 /srv\n")
	if why, err := rec.Fits(t.Context(), tree(t, dir)); err != nil || why != "" {
		t.Fatalf("%q %v", why, err)
	}
	past := time.Unix(1700000000, 0)
	if err := os.Chtimes(filepath.Join(dir, "usr/share/man"), past, past); err != nil {
		t.Fatal(err)
	}
	n, err := rec.Apply(t.Context(), tree(t, dir), bytes.NewReader(pack))
	if err != nil || n < 6 {
		t.Fatalf("%d files, %v", n, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "usr/share/man")); err != nil || st.ModTime().Equal(past) {
		t.Errorf("nobody can tell that a manual in the folder changed: %v", err)
	}
	want, got := contents(t, upgraded), contents(t, dir)
	const mode = "-rw-r--r-- "
	want["/"+statusFile] = mode + settled(foo2) + "\n\n" + man1 + "\n\nPackage: zoo\nStatus: install ok installed\nArchitecture: all\nVersion: 7\n\n"
	want["/"+pendingFile] = mode + "/usr/bin -\n/usr/share/man -\n/opt/named -\nnobody -\nrefresh -\n"
	want["/"+fileTriggers] = mode + "/usr/share/man man/noawait\n/usr/bin zoo\n/usr/sbin zoo\n/opt zoo\n/opt/named zoo\n/etc/foo.d foo\n"
	want["/etc/ld.so.cache"] = mode + "first" // left to ldconfig's trigger
	for _, own := range []string{"/srv", "/srv/of-the-owner", "/etc/passwd", "/" + triggersFolder + "/nobody", "/" + overridesFile} {
		want[own] = got[own]
	}
	delete(want, "/"+statusFile+"-old")
	delete(want, "")
	delete(got, "")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	a, errA := os.Stat(filepath.Join(dir, "usr/bin/foo"))
	b, errB := os.Stat(filepath.Join(dir, "usr/bin/foo2"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Error("the hard link is none")
	}
}

// TestWhatDoesNotFit changes each thing that the record depends on.
func TestWhatDoesNotFit(t *testing.T) {
	rec, _, _ := recordFoo(t)
	file := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { t.Helper(); put(t, dir, name, text) }
	}
	status := func(more string) func(*testing.T, string) { return file(statusFile, fooImage[statusFile]+more+"\n\n") }
	const zoo = "Package: zoo\nStatus: install ok installed\nArchitecture: all\nVersion: 7\n"
	for name, c := range map[string]struct {
		spoil func(*testing.T, string)
		why   string
	}{
		"a script's input":            {file("etc/default/foo", "other"), "etc/default/foo"},
		"its mode":                    {func(t *testing.T, dir string) { chmod(t, dir, "etc/default/foo", 0o600) }, "etc/default/foo"},
		"a program":                   {file("usr/bin/tool", "a script runs iT"), "usr/bin/tool"},
		"what was not there":          {file("etc/absent", ""), "etc/absent"},
		"names in a folder":           {file("etc/rc2.d/S02b", ""), "etc/rc2.d"},
		"a file that a script writes": {file("var/lib/foo/db", "other"), "var/lib/foo/db"},
		"a new name that is there":    {file("usr/lib", "a file"), "usr/lib"},
		"a folder instead of a file": {func(t *testing.T, dir string) {
			if err := errors.Join(os.Remove(filepath.Join(dir, "usr/bin/foo")), os.Mkdir(filepath.Join(dir, "usr/bin/foo"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}, "usr/bin/foo"},
		"a link instead of a folder": {func(t *testing.T, dir string) {
			if err := errors.Join(os.Rename(filepath.Join(dir, "usr/bin"), filepath.Join(dir, "bin")), os.Symlink("../bin", filepath.Join(dir, "usr/bin"))); err != nil {
				t.Fatal(err)
			}
		}, "usr/bin"},
		"the package's version":         {file(statusFile, strings.Replace(fooImage[statusFile], "Version: 1", "Version: 0", 1)), "foo:amd64"},
		"a package on hold":             {file(statusFile, strings.Replace(fooImage[statusFile], "install ok", "hold ok", 1)), "foo:amd64"},
		"an exact dependency":           {status(zoo + "Depends: foo (= 1)"), "zoo"},
		"a package that breaks it":      {status(zoo + "Breaks: foo (>= 2)"), "zoo"},
		"a user that scripts name":      {file("etc/passwd", fooImage["etc/passwd"]+"foouser:x:9:9::/:/bin/sh\n"), "etc/passwd"},
		"a user that is another":        {file("etc/passwd", strings.Replace(fooImage["etc/passwd"], "/bin/sh", "/bin/bash", 1)), "etc/passwd"},
		"an owner's number":             {file("etc/group", "wheel:x:43:\n"), "is \"\" here"},
		"a file that dpkg would remove": {file("usr/share/foo/gone", ""), "usr/share/foo/gone"},
		"a user of NIS":                 {file("etc/passwd", fooImage["etc/passwd"]+"+::::::\n"), "etc/passwd"},
		"a diversion":                   {file(diversionsFile, "/usr/bin/foo\n/usr/bin/foo.real\nzoo\n"), "usr/bin/foo"},
		"an override":                   {file(overridesFile, "root zoo 4755 /usr/bin/foo\n"), "usr/bin/foo"},
		"an answer of debconf":          {file(configFile, "Name: foo/q\nTemplate: foo/q\nOwners: foo\nValue: 3\n\n"), "foo/q"},
		"another question of debconf":   {file(configFile, fooImage[configFile]+"Name: foo/r\nOwners: foo, zoo\n\n"), "foo/r"},
		"a file of two packages": {func(t *testing.T, dir string) {
			put(t, dir, infoFolder+"/man.list", "/usr/bin/foo\n")
		}, "usr/bin/foo"},
	} {
		dir := lay(t, fooImage)
		c.spoil(t, dir)
		why, err := rec.Fits(t.Context(), tree(t, dir))
		if err != nil || !strings.Contains(why, c.why) {
			t.Errorf("%s: %q, %v", name, why, err)
		}
	}
	dir := lay(t, fooImage)
	if why, err := rec.Fits(t.Context(), tree(t, dir)); err != nil || why != "" {
		t.Errorf("the image as it was: %q, %v", why, err)
	}
	// dpkg keeps a configuration file that did not change between the packages, whatever its owner made of it.
	put(t, dir, "etc/foo.conf", "changed by the owner")
	if why, err := rec.Fits(t.Context(), tree(t, dir)); err != nil || why != "" {
		t.Errorf("a changed configuration file: %q, %v", why, err)
	}
}

func chmod(t *testing.T, dir, name string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsNotRecorded: changes that must not travel, or that nobody can prove.
func TestWhatIsNotRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testing.T, string)
		why    string
	}{
		"a user": {func(t *testing.T, dir string) {
			put(t, dir, "etc/passwd", strings.Replace(fooImage["etc/passwd"], "/bin/sh", "/bin/bash", 1))
		}, "/etc/passwd"},
		"a key": {func(t *testing.T, dir string) { put(t, dir, "etc/foo/server.key", "secret") }, "server.key"},
		"a password": {func(t *testing.T, dir string) {
			put(t, dir, configFile, "Name: foo/password\nOwners: foo\nValue: x\n\n")
		}, "foo/password"},
		"another package": {func(t *testing.T, dir string) {
			put(t, dir, statusFile, foo2+"\n\n"+strings.Replace(man1, "1", "2", 1)+"\n\n")
		}, "man:amd64"},
		"not the whole share":  {func(t *testing.T, dir string) { put(t, dir, statusFile, fooImage[statusFile]) }, "foo is"},
		"an interest":          {func(t *testing.T, dir string) { put(t, dir, fileTriggers, "/usr/share/man man\n/x foo\n") }, "interest"},
		"another's info files": {func(t *testing.T, dir string) { put(t, dir, infoFolder+"/man.postinst", "x") }, "man.postinst"},
	} {
		dir := lay(t, fooImage)
		_, _, why := recordIn(t, dir, func() { upgradeFoo(t, dir); c.change(t, dir) })
		if !strings.Contains(why, c.why) {
			t.Errorf("%s: %q", name, why)
		}
	}
	dir := lay(t, fooImage)
	r, err := Begin(t.Context(), tree(t, dir), fooShare)
	if err != nil {
		t.Fatal(err)
	}
	r.See(sandbox.Access{Kind: sandbox.Unknown})
	if _, why, err := r.Finish(t.Context(), &bytes.Buffer{}); err != nil || !strings.Contains(why, "traced") {
		t.Errorf("an unknown access: %q, %v", why, err)
	}
	// The identity of a machine is put back by the upgrade: that a script fills it in is no change.
	dir = lay(t, fooImage)
	rec, _, why := recordIn(t, dir, func() { upgradeFoo(t, dir); put(t, dir, "etc/machine-id", "0123") })
	if why != "" || slices.ContainsFunc(rec.Entries, func(e Entry) bool { return e.Name == "etc/machine-id" }) {
		t.Errorf("a machine-id: %q", why)
	}
}

func TestStore(t *testing.T) {
	rec, pack, _ := recordFoo(t)
	now := time.Now()
	s := &Store{Dir: filepath.Join(t.TempDir(), "records"), Now: func() time.Time { return now }}
	keep := func(key string) {
		t.Helper()
		d, err := s.Create(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Write(pack); err != nil {
			t.Fatal(err)
		}
		if k, _, err := s.Find(t.Context(), key, tree(t, lay(t, fooImage))); err != nil || k != nil {
			t.Fatalf("a half record was found: %v", err)
		}
		if err := d.Keep(rec); err != nil {
			t.Fatal(err)
		}
	}
	keep("key")
	image := lay(t, fooImage)
	k, why, err := s.Find(t.Context(), "key", tree(t, image))
	if err != nil || k == nil {
		t.Fatalf("%q %v", why, err)
	}
	if n, err := k.Apply(t.Context(), tree(t, image)); err != nil || n == 0 {
		t.Error(n, err)
	}
	k.Close()
	if k, why, err := s.Find(t.Context(), "key", tree(t, image)); err != nil || k != nil || why == "" {
		t.Errorf("an upgraded image fits: %q %v", why, err)
	}
	lock, err := s.Lock(t.Context(), "key", time.Minute)
	if err != nil || lock == nil {
		t.Fatal(err)
	}
	for since, far := range map[time.Duration]bool{0: true, 29 * time.Second: true, 121 * time.Second: true, 40 * time.Second: false} {
		later := &Store{Dir: s.Dir, Now: func() time.Time { return now.Add(since) }}
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		second, err := later.Lock(ctx, "key", time.Minute)
		cancel()
		if second != nil || errors.Is(err, context.DeadlineExceeded) == far {
			t.Errorf("%s after a recording of a minute began: %v", since, err)
		}
	}
	lock.Close()
	for range 2 {
		if lock, err := s.Lock(t.Context(), "key", time.Minute); err != nil || lock == nil || lock.Close() != nil {
			t.Errorf("a key that nobody records: %v", err)
		}
	}
	for i, want := range []bool{false, true, false, true} {
		if before, err := s.Missed("key", []string{"one", "one", "other", "one"}[i]); err != nil || before != want {
			t.Errorf("miss %d: %t, %v", i, before, err)
		}
	}
	if pace := s.Pace(); pace <= 0 || pace > time.Minute {
		t.Error(pace)
	}

	t.Run("the second time", func(t *testing.T) { // its content was checked then: the kernel copies it
		again := lay(t, fooImage)
		k, why, err := s.Find(t.Context(), "key", tree(t, again))
		if err != nil || k == nil {
			t.Fatal(why, err)
		}
		if n, err := k.Apply(t.Context(), tree(t, again)); err != nil || n == 0 {
			t.Error(n, err)
		}
		k.Close()
		files := 0
		for _, e := range k.Entries {
			if e.After.Type != TypeFile {
				continue
			}
			files++
			one, err1 := tree(t, image).Full(e.Name)
			two, err2 := tree(t, again).Full(e.Name)
			if err := errors.Join(err1, err2); err != nil || !one.Same(two) || e.Link == "" && two.Hash != e.After.Hash {
				t.Errorf("/%s: %v, first %v: %v", e.Name, two, one, err)
			}
		}
		if files == 0 {
			t.Error("the record has no file")
		}
	})
	t.Run("damaged", func(t *testing.T) {
		packs, _ := filepath.Glob(filepath.Join(s.Dir, "key-*", "pack"))
		data, err := os.ReadFile(packs[0])
		if err != nil {
			t.Fatal(err)
		}
		data[1] ^= 1
		if err := os.WriteFile(packs[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		image := lay(t, fooImage)
		k, _, err := s.Find(t.Context(), "key", tree(t, image))
		if err != nil || k == nil {
			t.Fatal(err)
		}
		if _, err := k.Apply(t.Context(), tree(t, image)); errs.CodeOf(err) != CodeDamaged {
			t.Error(err)
		}
		if err := k.Drop(); err != nil {
			t.Error(err)
		}
		keep("key")
		texts, _ := filepath.Glob(filepath.Join(s.Dir, "key-*", "record.json"))
		if err := os.WriteFile(texts[0], []byte("abc\n{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, _, err := s.Find(t.Context(), "key", tree(t, image)); err != nil || k != nil {
			t.Error("a record with other bytes was taken", err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "key-*")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
	t.Run("bounds", func(t *testing.T) {
		for i := range 3 {
			now = now.Add(time.Minute)
			keep(fmt.Sprintf("k%d", i))
		}
		s.Bytes = 1
		now = now.Add(time.Minute)
		keep("last")
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "k[0-9]-*")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		s.Bytes = 0
		keep("young")
		now = now.Add(8 * 24 * time.Hour)
		keep("k9")
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "young-*")); len(left) > 0 {
			t.Error("an old record stays")
		}
	})
}

// TestKilledRecorder: a record that was being written when its process was killed is never seen.
func TestKilledRecorder(t *testing.T) {
	if dir := os.Getenv("KILN_TEST_RECORDS"); dir != "" {
		s := &Store{Dir: dir}
		d, err := s.Create("key")
		if err != nil {
			t.Fatal(err)
		}
		d.Write(make([]byte, 3<<20))
		os.Stdout.WriteString("half\n")
		select {}
	}
	dir := filepath.Join(t.TempDir(), "records")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledRecorder$")
	cmd.Env = append(os.Environ(), "KILN_TEST_RECORDS="+dir)
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	s := &Store{Dir: dir, Now: func() time.Time { return time.Now().Add(halfAge + time.Minute) }}
	if k, why, err := s.Find(t.Context(), "key", tree(t, lay(t, fooImage))); k != nil || why != "" || err != nil {
		t.Errorf("%v %q %v", k, why, err)
	}
	d, err := s.Create("other")
	if err != nil {
		t.Fatal(err)
	}
	if half, _ := filepath.Glob(filepath.Join(dir, halfMark+"*")); len(half) != 1 {
		t.Errorf("the dead one's half record stays: %v", half)
	}
	d.Discard()
}
