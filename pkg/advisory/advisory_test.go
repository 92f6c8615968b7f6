package advisory_test

import (
	"archive/zip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// tracker has the shape of https://security-tracker.debian.org/tracker/data/json.
const tracker = `{
"openssl": {
  "CVE-2026-1000": {"description": "d", "debianbug": 1, "scope": "remote", "releases": {
    "bookworm": {"status": "resolved", "repositories": {"bookworm": "3.0.17-1"}, "fixed_version": "3.0.17-1", "urgency": "high**"},
    "sid": {"status": "resolved", "fixed_version": "3.5.1-1", "urgency": "high"}}},
  "CVE-2026-1001": {"releases": {"bookworm": {"status": "open", "urgency": "unimportant"}}},
  "CVE-2026-1002": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "0", "urgency": "not yet assigned"}}},
  "CVE-2026-1003": {"releases": "none"},
  "TEMP-0000-1": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "9", "urgency": "low"}}}},
"nginx": 17,
"zlib": {"CVE-2026-1004": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "1:1.3", "urgency": "not yet assigned"}}}}
}`

func problems(f *advisory.Fixes) string {
	var out []string
	for _, err := range f.Problems {
		out = append(out, err.Error())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestTracker(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "data.json"), tracker)
	files := advisory.Files{Tracker: path}
	f := files.Read(advisory.Wanted{Releases: map[string]bool{"tracker:bookworm": true}})
	bookworm := []string{"tracker:bookworm"}
	equal(t, f.Of(bookworm, "openssl"), []advisory.Fix{{CVEs: []string{"CVE-2026-1000"}, Fixed: "3.0.17-1", Urgency: "high", Suite: advisory.SuiteTracker}})
	equal(t, len(f.Of([]string{"tracker:sid"}, "openssl")), 0)
	equal(t, f.Of(bookworm, "zlib")[0].Fixed, "1:1.3")
	equal(t, []string{f.Urgency("CVE-2026-1000"), f.Urgency("CVE-2026-1001"), f.Urgency("CVE-2026-1004")}, []string{"high", "low", ""})
	said := problems(f)
	for _, want := range []string{path + ": nginx: ", path + ": openssl.CVE-2026-1003: "} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	equal(t, len(f.Problems), 2)
	one := files.Read(advisory.Wanted{Packages: map[string]bool{"zlib": true}})
	equal(t, []int{len(one.Of(bookworm, "zlib")), len(one.Of(bookworm, "openssl")), len(one.Problems)}, []int{1, 0, 0})

	stamp := files.Stamp()
	cut := write(t, path, tracker[:strings.Index(tracker, `"zlib"`)+20])
	f = advisory.Files{Tracker: cut}.Read(advisory.Wanted{})
	if len(f.Of(bookworm, "openssl")) != 1 || !strings.Contains(problems(f), "breaks off in zlib") || files.Stamp() == stamp {
		t.Errorf("a file that breaks off: %s", problems(f))
	}
	for name, text := range map[string]string{"list": `[1]`, "empty": ``, "html": `<html>`} {
		f := advisory.Files{Tracker: write(t, filepath.Join(dir, name), text)}.Read(advisory.Wanted{})
		if len(f.Problems) != 1 || !strings.Contains(problems(f), name) {
			t.Errorf("%s: %s", name, problems(f))
		}
	}
	if f := (advisory.Files{Tracker: filepath.Join(dir, "none")}).Read(advisory.Wanted{}); len(f.Problems) != 1 {
		t.Error("a file that is not there is no problem")
	}
}

const osvRocky = `{"id": "RLSA-2026:1", "modified": "2026-01-01T00:00:00Z", "related": ["CVE-2026-2000", "CVE-2026-2001"],
"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
"affected": [{"package": {"ecosystem": "Rocky Linux:9", "name": "openssl"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1:3.0.7-27.el9"}]}]},
 {"package": {"ecosystem": "Rocky Linux:8", "name": "openssl"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1:1.1.1k-12.el8"}]}]}]}`

const osvDebian = `{"id": "DEBIAN-CVE-2026-2002", "upstream": ["CVE-2026-2002"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
"affected": [{"package": {"ecosystem": "Debian:12", "name": "zlib"}, "ecosystem_specific": {"urgency": "low"},
 "ranges": [{"type": "GIT", "events": [{"introduced": "0"}, {"fixed": "c0ffee"}]}, {"type": "ECOSYSTEM", "events": [{"introduced": "1:1.0"}, {"fixed": "1:1.1"}, {"introduced": "1:1.2"}, {"fixed": "1:1.3"}]}]},
 {"package": {"ecosystem": "npm", "name": "zlib"}}]}`

func TestOSV(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one.json"), osvRocky)
	write(t, filepath.Join(dir, "bad.json"), `{"id": 7}`)
	write(t, filepath.Join(dir, "noid.json"), `{}`)
	write(t, filepath.Join(dir, "gone.json"), strings.Replace(osvDebian, `"id"`, `"withdrawn": "2026-01-01T00:00:00Z", "id"`, 1))
	write(t, filepath.Join(dir, "README"), `not JSON`)
	packed, err := os.Create(filepath.Join(dir, "all.zip"))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(packed)
	for name, text := range map[string]string{"DEBIAN-CVE-2026-2002.json": osvDebian, "broken.json": `{`, "other.txt": `x`} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	f := advisory.Files{OSV: []string{dir}}.Read(advisory.Wanted{})
	equal(t, f.Of([]string{"Rocky Linux:9"}, "openssl"), []advisory.Fix{
		{CVEs: []string{"CVE-2026-2000", "CVE-2026-2001"}, Introduced: "0", Fixed: "1:3.0.7-27.el9", Urgency: "critical", Suite: advisory.SuiteOSV}})
	equal(t, f.Of([]string{"Debian:12"}, "zlib"), []advisory.Fix{
		{CVEs: []string{"CVE-2026-2002"}, Introduced: "1:1.0", Fixed: "1:1.1", Urgency: "low", Suite: advisory.SuiteOSV},
		{CVEs: []string{"CVE-2026-2002"}, Introduced: "1:1.2", Fixed: "1:1.3", Urgency: "low", Suite: advisory.SuiteOSV}})
	said := problems(f)
	for _, want := range []string{"bad.json: ", "noid.json: ", "all.zip: broken.json: "} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	equal(t, len(f.Problems), 3)
	write(t, filepath.Join(dir, "no.zip"), "no zip")
	if f := (advisory.Files{OSV: []string{filepath.Join(dir, "no.zip"), filepath.Join(dir, "one.json"), filepath.Join(dir, "none")}}).Read(advisory.Wanted{}); len(f.Problems) != 2 || len(f.Of([]string{"Rocky Linux:8"}, "openssl")) != 1 {
		t.Errorf("%s", problems(f))
	}
}

func TestReleases(t *testing.T) {
	for _, c := range []struct {
		system advisory.System
		want   []string
	}{
		{advisory.System{OS: "debian", Release: "bookworm", VersionID: "12"}, []string{"tracker:bookworm", "Debian:12"}},
		{advisory.System{OS: "ubuntu", Release: "jammy", VersionID: "22.04"}, []string{"Ubuntu:22.04"}},
		{advisory.System{OS: "rocky", VersionID: "9.4"}, []string{"Rocky Linux:9"}},
		{advisory.System{OS: "alpine", VersionID: "3.18.4"}, []string{"Alpine:v3.18"}},
		{advisory.System{OS: "slackware", VersionID: "1"}, nil}, {advisory.System{OS: "debian"}, nil},
	} {
		equal(t, c.system.Releases(), c.want)
	}
}

// The scores are those of FIRST's own examples (https://www.first.org/cvss/v3.1/examples).
func TestCVSS(t *testing.T) {
	for vector, want := range map[string]float64{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H": 9.8, "CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N": 6.1, "CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N": 6.4,
		"CVSS:3.1/AV:P/AC:L/PR:N/UI:N/S:U/C:N/I:L/A:N": 2.4, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N": 0, "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:H": 8.8,
		"CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:C/C:H/I:H/A:H/E:P": 9.1,
	} {
		if got, ok := advisory.CVSS(vector); !ok || got != want {
			t.Errorf("%s: %v, want %v", vector, got, want)
		}
	}
	for _, bad := range []string{"", "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", "CVSS:3.1/AV:N", "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "7.5"} {
		if _, ok := advisory.CVSS(bad); ok {
			t.Errorf("%q has a score", bad)
		}
	}
}

func TestUrgencies(t *testing.T) {
	for word, want := range map[string]string{"low**": "low", "Unimportant": "low", "moderate": "medium", "important": "high", "emergency": "critical", "not yet assigned": "", "end-of-life": "", "": ""} {
		equal(t, advisory.Urgency(word), want)
	}
	equal(t, []string{advisory.OfScore(0), advisory.OfScore(3.9), advisory.OfScore(4), advisory.OfScore(7), advisory.OfScore(9)}, []string{"", "low", "medium", "high", "critical"})
	equal(t, advisory.Weight(catalog.Urgencies{Critical: 1, High: 2, Medium: 3, Low: 4}), 159)
}

func TestGap(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "data.json"), tracker)
	files := advisory.Files{Tracker: path}.Read(advisory.Wanted{})
	fixes := files.Of([]string{"tracker:bookworm"}, "openssl")
	changes := []advisory.Change{
		{Source: "openssl", Version: "3.0.18-1", Urgency: "medium", CVEs: []string{"CVE-2026-1001"}},
		{Source: "openssl", Version: "3.0.17-1", Urgency: "high", CVEs: []string{"CVE-2026-1000", "CVE-2026-20000"}},
		{Source: "openssl", Version: "3.0.15-1", Urgency: "critical", CVEs: []string{"CVE-2020-1000"}},
	}
	span := advisory.Span{Kind: advisory.Deb, Source: "openssl", Version: "3.0.16-1", SourceVersion: "3.0.16-1", To: "3.0.18-1"}
	g := span.Gap(changes, fixes, files)
	equal(t, g, advisory.Gap{ID: span.ID(), Source: "openssl", From: "3.0.16-1", To: "3.0.18-1", Urgency: "high",
		CVEs: []advisory.CVE{{ID: "CVE-2026-1000", Urgency: "high"}, {ID: "CVE-2026-1001", Urgency: "low"}, {ID: "CVE-2026-20000"}}})
	// All CVEs are in the file: its word goes before the changelog's.
	g = span.Gap(changes[:1], nil, files)
	equal(t, []any{g.Urgency, len(g.CVEs)}, []any{"low", 1})
	// No changelog: the file alone.
	g = span.Gap(nil, fixes, files)
	equal(t, []any{g.Urgency, g.CVEs[0].ID}, []any{"high", "CVE-2026-1000"})
	// A signing source carries the entries of what was signed, which count as the binary package does.
	kernel := advisory.Span{Kind: advisory.Deb, Source: "linux-signed-amd64", Version: "6.1.1-1", SourceVersion: "6.1.1+1", To: "6.1.3+1"}
	g = kernel.Gap([]advisory.Change{
		{Source: "linux-signed-amd64", Version: "6.1.3+1", Urgency: "high"}, {Source: "linux", Version: "6.1.3-1", CVEs: []string{"CVE-2026-3"}}, {Source: "linux", Version: "6.1.1-1", CVEs: []string{"CVE-2026-1"}},
	}, nil, nil)
	equal(t, []any{g.Urgency, g.CVEs}, []any{"high", []advisory.CVE{{ID: "CVE-2026-3"}}})
	// A fix that no repository offers.
	behind := advisory.Span{Kind: advisory.Deb, Source: "openssl", Version: "3.0.16-1", SourceVersion: "3.0.16-1"}
	version, suite := behind.Beyond(fixes)
	equal(t, []string{version, suite}, []string{"3.0.17-1", advisory.SuiteTracker})
	version, _ = span.Beyond(fixes)
	equal(t, version, "")
}

func TestVersionQuestions(t *testing.T) {
	for text, want := range map[string][]string{"lt:3.0": {"lt", "3.0"}, "1:2.3": {"eq", "1:2.3"}, "lt:1:2.3": {"lt", "1:2.3"}, "3.0": {"eq", "3.0"}} {
		op, v, err := advisory.ParseVersion(text)
		if err != nil || string(op) != want[0] || v != want[1] {
			t.Errorf("%s: %s %s, %v", text, op, v, err)
		}
	}
	for _, bad := range []string{"", "lt:", "like:3", "a/b", "lt:1 2"} {
		if _, _, err := advisory.ParseVersion(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for kind, later := range map[string][2]string{advisory.Deb: {"1.0", "1.0~rc1"}, advisory.RPM: {"1.0^git", "1.0"}, advisory.APK: {"1.0", "1.0_rc1"}} {
		if c, err := advisory.Compare(kind, later[0], later[1]); err != nil || c <= 0 {
			t.Errorf("%s: %d, %v", kind, c, err)
		}
	}
	if _, err := advisory.Compare("flatpak", "1", "2"); err == nil {
		t.Error("an unknown kind is compared")
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(tracker)
	f.Add(osvDebian)
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		path := write(t, filepath.Join(dir, "x.json"), text)
		files := advisory.Files{Tracker: path, OSV: []string{path}}.Read(advisory.Wanted{})
		span := advisory.Span{Kind: advisory.Deb, Source: "zlib", SourceVersion: "1:1.2", Version: "1:1.2"}
		fixes := files.Of([]string{"tracker:bookworm", "Debian:12"}, "zlib")
		span.To, _ = span.Beyond(fixes)
		span.Gap(nil, fixes, files)
	})
}

// TestKindOfFacts: the database that was found counts more than the name of a system that nobody knows.
func TestKindOfFacts(t *testing.T) {
	for _, way := range []struct{ kind, os, want string }{
		{"rpm", "made-up", advisory.RPM}, {"apk", "made-up", advisory.APK}, {"deb", "made-up", advisory.Deb}, {"", "fedora", advisory.RPM}, {"", "debian", advisory.Deb},
	} {
		facts := &catalog.Facts{PackageKind: way.kind, OS: catalog.OSRelease{ID: way.os}}
		if got := advisory.SystemOf(catalog.Image{Facts: facts}).Kind; got != way.want {
			t.Errorf("%v: %s", way, got)
		}
	}
}
