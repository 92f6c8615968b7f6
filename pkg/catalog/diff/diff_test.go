package diff_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/diff"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

var noon = time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)

func input(version string, facts catalog.Facts, size int64) diff.Input {
	i := catalog.Image{ID: "image-" + version, Name: "web", Size: size, Facts: &facts, CreatedAt: noon}
	return diff.InputOf(i, &catalog.Version{Family: "debian-12-web", Name: version, CreatedAt: noon})
}

func p(name, version string) catalog.Package {
	return catalog.Package{Name: name, Version: version, Architecture: "amd64", Source: name}
}

func old() diff.Input {
	return input("20260301.1", catalog.Facts{
		OS: catalog.OSRelease{PrettyName: "Debian GNU/Linux 12 (bookworm)"}, VirtualSize: 4 << 30, UsedBytes: 700 << 20, Firmware: "bios", Kernels: []string{"6.1.0-30-amd64"},
		Packages: []catalog.Package{p("bash", "5.2"), p("curl", "7.88.1-10+deb12u4"), p("openssl", "3.0.14-1~deb12u2"), p("libssl3", "3.0.14-1~deb12u2"), p("telnet", "0.17"), p("vim", "9.1")},
		Services: []string{"ssh.service", "telnet.socket"}, Users: []catalog.User{{Name: "root", Password: "locked"}},
		Setuid: []catalog.Setuid{{Path: "/usr/bin/sudo", Mode: "4755"}}, Partitions: []catalog.Partition{{Number: 1, FileSystem: "ext4", Size: 4 << 30}},
	}, 500<<20)
}

func fresh() diff.Input {
	return input("20260329.1", catalog.Facts{
		OS: catalog.OSRelease{PrettyName: "Debian GNU/Linux 12 (bookworm)"}, VirtualSize: 4 << 30, UsedBytes: 733 << 20, Firmware: "both", Kernels: []string{"6.1.0-31-amd64"}, CommandLine: "ro quiet",
		Packages: []catalog.Package{p("bash", "5.2"), p("curl", "7.88.1-10+deb12u8"), p("openssl", "3.0.15-1~deb12u1"), p("libssl3", "3.0.15-1~deb12u1"), p("nginx", "1.22.1-9"), p("vim", "9.0")},
		Services: []string{"nginx.service", "ssh.service"}, Users: []catalog.User{{Name: "root", Password: "locked"}, {Name: "ops", UID: 1000, Password: "none"}},
		Setuid: []catalog.Setuid{{Path: "/usr/bin/sudo", Mode: "4755"}}, Partitions: []catalog.Partition{{Number: 1, FileSystem: "vfat", Size: 64 << 20}, {Number: 2, FileSystem: "ext4", Size: 4032 << 20}},
	}, 533<<20)
}

// lacks are the fixes that the old version lacks; some of them the new one lacks, too.
func lacks() []diff.Lack {
	return []diff.Lack{
		{Package: "openssl", Fixed: "3.0.15-1~deb12u1", Urgency: "medium", Security: true, CVEs: []string{"CVE-2026-2", "CVE-2026-1"}},
		{Package: "libssl3", Fixed: "3.0.15-1~deb12u1", Urgency: "medium", Security: true, CVEs: []string{"CVE-2026-1", "CVE-2026-2"}},
		{Package: "curl", Fixed: "7.88.1-10+deb12u5", CVEs: []string{"CVE-2026-3"}, Urgency: "low"},
		{Package: "curl", Fixed: "7.88.1-10+deb12u8", CVEs: []string{"CVE-2026-4"}, Urgency: "high", Security: true},
		{Package: "telnet", Fixed: "0.18", CVEs: []string{"CVE-2026-5"}},
		{Package: "bash", Fixed: "5.3", CVEs: []string{"CVE-2026-6"}},    // still lacking
		{Package: "elsewhere", Fixed: "1", CVEs: []string{"CVE-2026-7"}}, // was never there
		{Package: "vim", Fixed: "no version at all", CVEs: []string{"CVE-2026-8"}},
	}
}

func compare(t *testing.T) *diff.Report {
	t.Helper()
	r, err := diff.Compare(old(), fresh(), lacks())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCompare(t *testing.T) {
	r := compare(t)
	pkg := func(name, change, from, to string) diff.Package {
		return diff.Package{Name: name, Architecture: "amd64", Source: name, Change: change, From: from, To: to}
	}
	if d := cmp.Diff([]diff.Package{
		pkg("curl", diff.Upgraded, "7.88.1-10+deb12u4", "7.88.1-10+deb12u8"), pkg("libssl3", diff.Upgraded, "3.0.14-1~deb12u2", "3.0.15-1~deb12u1"), pkg("nginx", diff.Added, "", "1.22.1-9"),
		pkg("openssl", diff.Upgraded, "3.0.14-1~deb12u2", "3.0.15-1~deb12u1"), pkg("telnet", diff.Removed, "0.17", ""), pkg("vim", diff.Downgraded, "9.1", "9.0"),
	}, r.Packages); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]diff.Fix{
		{Package: "curl", Urgency: "high", Security: true, CVEs: []string{"CVE-2026-3", "CVE-2026-4"}, From: "7.88.1-10+deb12u4", To: "7.88.1-10+deb12u8"},
		{Package: "libssl3", Urgency: "medium", Security: true, CVEs: []string{"CVE-2026-1", "CVE-2026-2"}, From: "3.0.14-1~deb12u2", To: "3.0.15-1~deb12u1"},
		{Package: "openssl", Urgency: "medium", Security: true, CVEs: []string{"CVE-2026-1", "CVE-2026-2"}, From: "3.0.14-1~deb12u2", To: "3.0.15-1~deb12u1"},
		{Package: "telnet", CVEs: []string{"CVE-2026-5"}, From: "0.17"},
	}, r.Fixed); d != "" {
		t.Error(d)
	}
	want := []any{
		diff.Names{Added: []string{"6.1.0-31-amd64"}, Removed: []string{"6.1.0-30-amd64"}}, diff.Names{Added: []string{"nginx.service"}, Removed: []string{"telnet.socket"}},
		diff.Names{Added: []string{"ops (uid 1000, password none)"}, Removed: []string{}}, true,
		map[string]diff.FromTo{"firmware": {From: "bios", To: "both"}, "kernel command line": {To: "ro quiet"}, "partitions": {From: "1:ext4 4.0 GiB", To: "1:vfat 64 MiB, 2:ext4 3.9 GiB"}},
		"5 CVEs fixed, 6 packages differ (3 upgraded, 1 downgraded, 1 added, 1 removed), image +33 MiB",
	}
	if d := cmp.Diff(want, []any{r.Kernels, r.Services, r.Users, r.Setuid.Empty(), r.Settings, r.Summary}); d != "" {
		t.Error(d)
	}
	same, err := diff.Compare(old(), old(), nil)
	if err != nil || len(same.Packages)+len(same.Fixed)+len(same.Settings) != 0 || same.Summary != "the same packages" {
		t.Errorf("%+v %v", same, err)
	}
	unread := old()
	unread.Image.Facts = nil
	if _, err := diff.Compare(unread, fresh(), nil); errs.CodeOf(err) != "kiln.diff.facts" || !errs.Is(err, errs.Conflict) {
		t.Error(err)
	}
}

// manifest is a list of files as it is kept.
func manifest(t *testing.T, files []catalog.File) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	if err := catalog.WriteFiles(&b, files); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestFiles(t *testing.T) {
	f := func(path, sum string) catalog.File {
		return catalog.File{Path: path, Type: "file", Mode: "0644", SHA256: sum, Size: int64(len(sum))}
	}
	dir := func(path string) catalog.File { return catalog.File{Path: path, Type: "dir", Mode: "0755"} }
	link := func(path, to string) catalog.File {
		return catalog.File{Path: path, Type: "link", Mode: "0777", Target: to}
	}
	before := []catalog.File{dir("/"), dir("/etc"), f("/etc/a", "1"), dir("/etc/a.d"), f("/etc/a.d/x", "1"), f("/etc/a0", "1"), link("/etc/l", "a"), dir("/usr"), dir("/usr/share"), f("/usr/share/gone", "1"), f("/usr/share/same", "1")}
	owned := f("/etc/a0", "1")
	owned.UID, owned.Mode = 7, "4755"
	after := []catalog.File{dir("/"), dir("/etc"), f("/etc/a", "22"), dir("/etc/a.d"), f("/etc/a.d/x", "1"), f("/etc/a.d/y", "1"), owned, f("/etc/l", "1"), dir("/usr"), dir("/usr/share"), f("/usr/share/same", "1"), dir("/var")}
	r := compare(t)
	if err := r.CompareFiles(manifest(t, before), manifest(t, after)); err != nil {
		t.Fatal(err)
	}
	want := diff.Files{Added: 2, Removed: 1, Changed: 3, Folders: map[string]int{"/": 1, "/etc": 4, "/usr/share": 1}, List: []diff.FileChange{
		{Path: "/etc/a", Change: diff.Changed, What: []string{"content"}}, {Path: "/etc/a.d/y", Change: diff.Added, What: []string{}},
		{Path: "/etc/a0", Change: diff.Changed, What: []string{"mode", "owner"}}, {Path: "/etc/l", Change: diff.Changed, What: []string{"type", "content", "target", "mode"}},
		{Path: "/usr/share/gone", Change: diff.Removed, What: []string{}}, {Path: "/var", Change: diff.Added, What: []string{}},
	}}
	if d := cmp.Diff(want, r.Files); d != "" {
		t.Error(d)
	}
	if err := r.CompareFiles(strings.NewReader("hello"), manifest(t, after)); !errs.Is(err, errs.Invalid) {
		t.Errorf("no list of files: %v", err)
	}
}

// TestFilesOfRandomTrees holds the reading side by side against sets.
func TestFilesOfRandomTrees(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var lists [2][]catalog.File
		var sets [2]map[string]string
		for i := range lists {
			sets[i] = map[string]string{}
			for range r.IntN(40) {
				var path strings.Builder
				for range 1 + r.IntN(3) {
					path.WriteByte('/')
					path.Write([]byte{"ab.-0!~"[r.IntN(7)], "ab.-0!~"[r.IntN(7)]}[:1+r.IntN(2)])
				}
				sets[i][path.String()] = strconv.Itoa(r.IntN(2))
			}
			for path, sum := range sets[i] {
				lists[i] = append(lists[i], catalog.File{Path: path, Type: "file", SHA256: sum})
			}
			slices.SortFunc(lists[i], func(a, b catalog.File) int { // as a walk gives them
				return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x01"), strings.ReplaceAll(b.Path, "/", "\x01"))
			})
		}
		want := 0
		for path, sum := range sets[0] {
			if now, ok := sets[1][path]; !ok || now != sum {
				want++
			}
		}
		for path := range sets[1] {
			if _, ok := sets[0][path]; !ok {
				want++
			}
		}
		rep := compare(t)
		if err := rep.CompareFiles(manifest(t, lists[0]), manifest(t, lists[1])); err != nil || rep.Files.Count() != want || len(rep.Files.List) != want {
			t.Fatalf("%d files differ, want %d (%v)", rep.Files.Count(), want, err)
		}
	}
}

func TestManyFilesAreCut(t *testing.T) {
	var many []catalog.File
	for i := range diff.ListMost + 10 {
		many = append(many, catalog.File{Path: fmt.Sprintf("/f%06d", i), Type: "file"})
	}
	r := compare(t)
	if err := r.CompareFiles(manifest(t, nil), manifest(t, many)); err != nil {
		t.Fatal(err)
	}
	if r.Files.Added != diff.ListMost+10 || len(r.Files.List) != diff.ListMost || !strings.Contains(r.FilesNote, "first 5000 of 5010") {
		t.Errorf("%d %d %s", r.Files.Added, len(r.Files.List), r.FilesNote)
	}
}

// TestRealTrees compares two small disks end to end: what the reader of disks writes is in the order that the diff expects.
func TestRealTrees(t *testing.T) {
	disk := func(change func(root string)) *bytes.Buffer {
		root := t.TempDir()
		for _, name := range []string{"etc/os-release", "etc/a/b", "etc/a-b", "etc/a.conf", "usr/bin/x", "usr/bin-y/z"} {
			write(t, root, name, name)
		}
		change(root)
		image := filepath.Join(t.TempDir(), "disk")
		cmd := exec.CommandContext(t.Context(), "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", root, image, "16m")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		data, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		files, err := inspect.Manifest(t.Context(), bytes.NewReader(data), int64(len(data)), "raw")
		if err != nil {
			t.Fatal(err)
		}
		return manifest(t, files)
	}
	r := compare(t)
	err := r.CompareFiles(disk(func(string) {}), disk(func(root string) {
		write(t, root, "etc/a-b", "changed")
		write(t, root, "etc/a/new", "")
		if err := os.Remove(filepath.Join(root, "usr/bin/x")); err != nil {
			t.Fatal(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Files.List {
		got = append(got, f.Change+" "+f.Path)
	}
	if d := cmp.Diff([]string{"added /etc/a/new", "changed /etc/a-b", "removed /usr/bin/x"}, got); d != "" {
		t.Error(d)
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const note = `debian-12-web 20260301.1 → 20260329.1
5 CVEs fixed, 6 packages differ (3 upgraded, 1 downgraded, 1 added, 1 removed), 2 files differ, image +33 MiB

5 CVEs fixed
  curl              high     7.88.1-10+deb12u4 → 7.88.1-10+deb12u8  CVE-2026-3, CVE-2026-4
  libssl3, openssl  medium   3.0.14-1~deb12u2 → 3.0.15-1~deb12u1    CVE-2026-1, CVE-2026-2
  telnet            unrated  0.17 → removed                         CVE-2026-5

Kernel
  +  6.1.0-31-amd64
  -  6.1.0-30-amd64

System
  firmware             bios → both
  kernel command line  none → ro quiet
  partitions           1:ext4 4.0 GiB → 1:vfat 64 MiB, 2:ext4 3.9 GiB

Services that start
  +  nginx.service
  -  telnet.socket

Users with a shell
  +  ops (uid 1000, password none)

1 package added
  nginx  1.22.1-9

1 package removed
  telnet  0.17

3 packages upgraded
  curl     7.88.1-10+deb12u4 → 7.88.1-10+deb12u8
  libssl3  3.0.14-1~deb12u2 → 3.0.15-1~deb12u1
  openssl  3.0.14-1~deb12u2 → 3.0.15-1~deb12u1

1 package downgraded
  vim  9.1 → 9.0

Size
  image file        500 MiB → 533 MiB  (+33 MiB)
  used on the root  700 MiB → 733 MiB  (+33 MiB)

2 files differ: 1 added, 0 removed, 1 changed
  1  /etc
  1  /usr/share
  ~  /etc/motd   content
`

func TestText(t *testing.T) {
	r := compare(t)
	if err := r.CompareFiles(manifest(t, []catalog.File{{Path: "/etc/motd", SHA256: "1"}}), manifest(t, []catalog.File{{Path: "/etc/motd", SHA256: "2"}, {Path: "/usr/share/doc/nginx/x"}})); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(note, r.Text()); d != "" {
		t.Error(d)
	}
	if page := r.Markdown(); !strings.Contains(page, "### 5 CVEs fixed\n\n- `curl` high 7.88.1-10+deb12u4 → 7.88.1-10+deb12u8 CVE-2026-3, CVE-2026-4\n") {
		t.Error(page)
	}
}

// TestHostileWords: what a disk says of itself moves no cursor and is no markup.
func TestHostileWords(t *testing.T) {
	bad := fresh()
	facts := *bad.Image.Facts
	facts.Packages = append(slices.Clone(facts.Packages), p("x\x1b[2J\n## boo", "<script>alert(1)</script>`"))
	facts.Services = []string{"[a](http://evil.example)\u2028", "`ls`"}
	bad.Image.Facts = &facts
	r, err := diff.Compare(old(), bad, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{r.Text(), r.Markdown()} {
		if strings.ContainsAny(text, "\x1b\u2028") || strings.Contains(text, "\n## boo") {
			t.Errorf("%q", text)
		}
	}
	if page := r.Markdown(); strings.Contains(page, "<script>") {
		t.Error(page)
	}
}

// TestOtherKinds: what is a later version is for the packages' own rules to say.
func TestOtherKinds(t *testing.T) {
	side := func(kind, version, fixed string) diff.Input {
		return input(version, catalog.Facts{PackageKind: kind, Packages: []catalog.Package{p("lib", version), p("tool", fixed)}}, 1)
	}
	for _, way := range []struct{ kind, later, earlier string }{
		{"rpm", "1.0^git1-1.el9", "1.0-1.el9"}, {"rpm", "1:1.0-1", "2.0-1"}, {"apk", "1.0_p1-r0", "1.0-r3"}, {"apk", "1.0-r3", "1.0_rc1-r4"},
	} {
		lacks := []diff.Lack{{Package: "tool", Fixed: way.later, CVEs: []string{"CVE-2026-1"}}}
		r, err := diff.Compare(side(way.kind, way.later, way.earlier), side(way.kind, way.earlier, way.later), lacks)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Packages) != 2 || r.Packages[0].Change != diff.Downgraded || r.Packages[1].Change != diff.Upgraded {
			t.Errorf("%v: %+v", way, r.Packages)
		}
		if len(r.Fixed) != 1 {
			t.Errorf("%v: fixed %+v", way, r.Fixed)
		}
	}
}
