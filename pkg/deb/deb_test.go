package deb_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const status = `Package: openssl
Essential: no
Status: install ok installed
Installed-Size: 2300
Architecture: amd64
Version: 3.0.15-1~deb12u1
Conffiles:
 /etc/ssl/openssl.cnf 6cb27fd5cb9bb2ed0c7ef6a1ba1bff7f
Description: Secure Sockets Layer toolkit
 Two lines.
 .
 More: text that looks like a field

Package: linux-image-6.1.0-1-cloud-amd64
Status: install ok installed
Architecture: amd64
Source: linux-signed-amd64 (6.1.5+1)
Version: 6.1.5-1

Package: held
Status: hold ok installed
Architecture: all
Version: 1.0

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Essential: yes
Version: 2.0`

func parse(t *testing.T, text string) []deb.Package {
	t.Helper()
	got, err := deb.ParseStatus(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestParseStatus(t *testing.T) {
	want := []deb.Package{
		{Name: "openssl", Version: "3.0.15-1~deb12u1", Architecture: "amd64", Status: "install ok installed",
			Source: "openssl", SourceVersion: "3.0.15-1~deb12u1", InstalledSize: 2300},
		{Name: "linux-image-6.1.0-1-cloud-amd64", Version: "6.1.5-1", Architecture: "amd64", Status: "install ok installed",
			Source: "linux-signed-amd64", SourceVersion: "6.1.5+1"},
		{Name: "held", Version: "1.0", Architecture: "all", Status: "hold ok installed", Source: "held", SourceVersion: "1.0"},
		{Name: "gone", Version: "2.0", Architecture: "amd64", Status: "deinstall ok config-files", Essential: true,
			Source: "gone", SourceVersion: "2.0"},
	}
	for name, text := range map[string]string{"unix": status, "crlf": strings.ReplaceAll(status, "\n", "\r\n"), "gaps": "\n\n# note\n" + status + "\n\n\n"} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, parse(t, text)); diff != "" {
				t.Error(diff)
			}
		})
	}
	installed := []bool{true, true, true, false}
	for i, p := range parse(t, status) {
		if p.Installed() != installed[i] || p.Held() != (p.Name == "held") {
			t.Errorf("%s: installed %v, held %v", p.Name, p.Installed(), p.Held())
		}
	}
}

func TestParseStatusNamesTheLine(t *testing.T) {
	for text, line := range map[string]int{
		"Package: a\nnonsense\n":                           2,
		" continued\n":                                     1,
		"Package: a\nVersion: 1\n\nVersion: 2\n":           4,
		"Package: a\n: x\n":                                2,
		"Package: a\nX: " + strings.Repeat("y", 2<<20):     2,
		"Package: a\n\n\n\nStatus: install ok installed\n": 5,
	} {
		_, err := deb.ParseStatus(strings.NewReader(text))
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Where.Line != line {
			t.Errorf("%.40q: %v, want line %d", text, err, line)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(status)
	f.Add("Package:")
	f.Add(" \n:\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := deb.ParseStatus(strings.NewReader(text))
		if err != nil && all != nil {
			t.Error("packages beside an error")
		}
		for _, p := range all {
			if p.Name == "" || p.InstalledSize < 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}

func FuzzParseChangelog(f *testing.F) {
	f.Add(changelog)
	f.Fuzz(func(_ *testing.T, text string) {
		entries, err := deb.ParseChangelog(strings.NewReader(text))
		if err == nil {
			deb.CVEs(deb.Since(entries, "1.0-1"))
			deb.Urgency(entries)
		}
	})
}

var versions = []string{
	"1.0", "1.0-1", "1.0~rc1-1", "1:0.1", "2.36-9+deb12u10", "2.36-9+deb12u9", "6.1.0", "6.1.115-1", "6.1.99-1",
	"1.0+b1", "1.0a", "20241115123456789012345678901-1", "20241115123456789012345678902-1", "0~", "0",
}

func TestCompareLikeDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Fatal("dpkg is needed: ", err)
	}
	for i, a := range versions {
		for _, b := range versions[i:] {
			got, err := deb.Compare(a, b)
			if err != nil {
				t.Fatal(err)
			}
			op := "eq"
			if got < 0 {
				op = "lt"
			} else if got > 0 {
				op = "gt"
			}
			if err := exec.CommandContext(t.Context(), dpkg, "--compare-versions", a, op, b).Run(); err != nil {
				t.Errorf("dpkg does not say that %s %s %s", a, op, b)
			}
		}
	}
	for _, bad := range []string{"", "a b", "x1", "-1:2", "1_0"} {
		if _, err := deb.Compare("1", bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPending(t *testing.T) {
	ix := func(suite string, c ...deb.Candidate) *deb.Index { return deb.NewIndex(deb.Suite{Suite: suite}, c) }
	installed := parse(t, status)
	indexes := []*deb.Index{
		ix("bookworm-updates",
			deb.Candidate{Name: "openssl", Version: "3.0.16-1", Architecture: "amd64", Source: "openssl"},
			deb.Candidate{Name: "openssl", Version: "4.0", Architecture: "arm64"},
			deb.Candidate{Name: "held", Version: "2.0", Architecture: "all"},
			deb.Candidate{Name: "gone", Version: "3.0", Architecture: "amd64"},
			deb.Candidate{Name: "linux-image-6.1.0-1-cloud-amd64", Version: "6.1.4-1", Architecture: "amd64"}),
		ix("bookworm-security",
			deb.Candidate{Name: "openssl", Version: "3.0.17-1~deb12u2", Architecture: "amd64", Source: "openssl", Filename: "pool/o.deb", Size: 7},
			deb.Candidate{Name: "openssl", Version: "not a version", Architecture: "amd64"}),
	}
	want := []deb.Update{{Package: "openssl", Architecture: "amd64", From: "3.0.15-1~deb12u1", To: "3.0.17-1~deb12u2",
		Suite: "bookworm-security", Source: "openssl", Filename: "pool/o.deb", Size: 7}}
	if diff := cmp.Diff(want, deb.Pending(installed, indexes)); diff != "" {
		t.Error(diff)
	}
}

const changelog = `openssl (3.0.17-1~deb12u2) bookworm-security; urgency=high

  * CVE-2025-9230: Fix incorrect check (and CVE-2025-10230).
  * Again CVE-2025-9230

 -- A Person <a@example.org>  Sat, 27 Sep 2025 19:42:49 +0200

openssl (3.0.16-1~deb12u1) bookworm; urgency=medium,binary-only=yes

  * Fixes CVE-2024-13176.

 -- A Person <a@example.org>  Sun,  2 Feb 2025 09:00:00 +0000

openssl (3.0.15-1~deb12u1) bookworm; urgency=medium

  * Old news: CVE-2023-0001

 -- A Person <a@example.org>  broken date

Local variables:
`

func TestChangelog(t *testing.T) {
	entries, err := deb.ParseChangelog(strings.NewReader(changelog))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 || entries[0].Date.Unix() != 1758994969 || entries[1].Date.IsZero() || !entries[2].Date.IsZero() || entries[0].Distribution != "bookworm-security" {
		t.Errorf("%+v", entries)
	}
	since := deb.Since(entries, "3.0.15-1~deb12u1")
	if diff := cmp.Diff([]string{"CVE-2024-13176", "CVE-2025-9230", "CVE-2025-10230"}, deb.CVEs(since)); diff != "" {
		t.Error(diff)
	}
	if u := deb.Urgency(since); u != "high" {
		t.Errorf("urgency %q", u)
	}
	if since := deb.Since(entries, ""); len(since) != 1 {
		t.Errorf("a new package brings %d entries", len(since))
	}
	if _, err := deb.ParseChangelog(strings.NewReader("nothing\n")); !errs.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

func TestReadMirrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := deb.ReadMirrors(dir, "bookworm"); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	write("sources.list", "# deb http://comment.example.org/ bookworm main\ndeb-src http://src.example.org bookworm main\n"+
		"deb file:/media/cd bookworm main\n")
	write("sources.list.d/a.sources", "Types: deb\nEnabled: no\nURIs: http://off.example.org\nSuites: bookworm\nComponents: main\n\n"+
		"Types: deb deb-src\nURIs: http://deb.example.org/debian/\nSuites: bookworm\n bookworm-updates\nComponents: contrib main\n")
	write("sources.list.d/b.list", "deb [arch=amd64 signed-by=/x] http://sec.example.org/s bookworm-security main # last\n")
	write("sources.list.d/c.disabled", "deb http://x.example.org bookworm main\n")
	got, err := deb.ReadMirrors(dir, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	want := deb.Mirrors{Main: "http://deb.example.org/debian", Security: "http://sec.example.org/s"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func BenchmarkParseStatus(b *testing.B) {
	var text strings.Builder
	for i := range 400 {
		text.WriteString(strings.Replace(status, "openssl", "openssl"+strconv.Itoa(i), 1) + "\n\n")
	}
	for b.Loop() {
		if _, err := deb.ParseStatus(strings.NewReader(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseConffiles(t *testing.T) {
	got, err := deb.ParseConffiles(strings.NewReader("Package: a\nStatus: install ok installed\nConffiles:\n /etc/a 0123 \n /etc/old 4567 obsolete\n nonsense\n /etc/new newconffile\nDescription: x\n /etc/none 1\n\nPackage: b\n"))
	want := []deb.Conffile{{Package: "a", Path: "/etc/a", MD5: "0123"}, {Package: "a", Path: "/etc/old", MD5: "4567", Obsolete: true}, {Package: "a", Path: "/etc/new", MD5: "newconffile"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
