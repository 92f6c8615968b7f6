package worker_test

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// published is a repository for each release, and the changelogs of what is in it.
type published struct {
	mu         sync.Mutex
	offers     map[string][]deb.Candidate // by suite
	wrong      map[string]error
	date       time.Time
	changelogs map[string]string // by package file
	read       []string
}

func (p *published) Fetch(_ context.Context, s deb.Suite) (*deb.Index, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.wrong[s.Suite]; err != nil {
		return nil, err
	}
	ix := deb.NewIndex(s, p.offers[s.Suite])
	ix.Date = p.date
	return ix, nil
}

func (p *published) Changelog(_ context.Context, _ string, c deb.Candidate) ([]deb.Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = append(p.read, c.Filename)
	text, ok := p.changelogs[c.Filename]
	if !ok {
		return nil, errs.New(errs.NotFound, "kiln.test.missing", "%s has none", c.Filename)
	}
	return deb.ParseChangelog(strings.NewReader(text))
}

func change(version, urgency, text string) string {
	return fmt.Sprintf("openssl (%s) bookworm; urgency=%s\n\n  * %s\n\n -- A <a@example.org>  Sun, 01 Mar 2026 12:00:00 +0000\n\n", version, urgency, text)
}

func newPublished() *published {
	return &published{
		date: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), wrong: map[string]error{},
		offers: map[string][]deb.Candidate{"bookworm-security": {
			{Name: "libssl3", Version: "3.0.4", Architecture: "amd64", Source: "openssl", SourceVersion: "3.0.4", Filename: "libssl3.deb", Size: 10},
			{Name: "openssl", Version: "3.0.4", Architecture: "amd64", Source: "openssl", SourceVersion: "3.0.4", Filename: "openssl.deb", Size: 20},
		}},
		changelogs: map[string]string{"openssl.deb": change("3.0.4", "high", "CVE-2026-1004") + change("3.0.3", "medium", "CVE-2026-1003") + change("3.0.2", "low", "CVE-2026-1002")},
	}
}

// put inspects an image of Debian with these packages of the source openssl.
func (s *shop) put(id, release, version string, names ...string) {
	s.t.Helper()
	facts := &catalog.Facts{OS: catalog.OSRelease{ID: "debian", VersionID: "12", Codename: release}, Architecture: "amd64"}
	for _, name := range names {
		facts.Packages = append(facts.Packages, catalog.Package{Name: name, Version: version, Architecture: "amd64", Source: "openssl"})
	}
	err := s.db.PutImage(s.t.Context(), catalog.Image{ID: id, ProjectID: s.project, Name: id, State: catalog.Inspected, Facts: facts, CreatedAt: time.Now(), UpdatedAt: time.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
}

// refresh runs a job that reads what is published.
func (s *shop) refresh() job.Job {
	s.t.Helper()
	return s.refreshWithin(20 * time.Second)
}

func (s *shop) refreshWithin(limit time.Duration) job.Job {
	s.t.Helper()
	j := job.Job{ID: uuid.NewString(), Kind: job.Advisories, Resource: "advisories", Queue: job.WorkerQueue, State: job.Pending, MaxAttempts: 1,
		RunAfter: time.Now(), CreatedAt: time.Now(), UpdatedAt: time.Now(), Payload: []byte("{}")}
	if err := s.db.AddJob(s.t.Context(), j); err != nil {
		s.t.Fatal(err)
	}
	s.drainWithin(limit)
	j, err := s.db.FindJob(s.t.Context(), j.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

func (s *shop) image(id string) catalog.Image {
	s.t.Helper()
	i, err := s.db.FindImage(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// told are the payloads of the events of a kind.
func (s *shop) told(kind string) []event.Event {
	s.t.Helper()
	all, err := s.db.After(s.t.Context(), 0, "", 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []event.Event
	for _, e := range all {
		if e.Type == kind {
			out = append(out, e)
		}
	}
	return out
}

func (s *shop) publishedEvents() []advisory.Published {
	s.t.Helper()
	var out []advisory.Published
	for _, e := range s.told(advisory.EventPublished) {
		var p advisory.Published
		if err := json.Unmarshal(e.Payload, &p); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func (s *shop) lacks(cve string) string {
	s.t.Helper()
	hs, err := s.db.Holdings(s.t.Context(), advisory.Question{CVE: cve, Limit: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, h := range hs {
		out = append(out, h.ImageID+"/"+h.Package)
	}
	return strings.Join(out, " ")
}

func TestRefreshKnowsWhatFixesAreAbout(t *testing.T) {
	s := newShop(t)
	p := newPublished()
	s.deps.Indexes, s.deps.Changelogs = p, p
	s.put("older", "bookworm", "3.0.1", "openssl", "libssl3")
	s.put("newer", "bookworm", "3.0.3", "openssl")
	s.put("fixed", "bookworm", "3.0.4", "openssl")
	if j := s.refresh(); j.State != job.Succeeded || !strings.Contains(string(j.Result), `"compared":3`) || !strings.Contains(string(j.Result), `"changelogs":1`) {
		t.Fatalf("%+v %s", j, j.Result)
	}
	for cve, want := range map[string]string{"CVE-2026-1004": "newer/openssl older/libssl3 older/openssl", "CVE-2026-1002": "older/libssl3 older/openssl", "CVE-2026-1": ""} {
		if advisory.CheckCVE(cve) == nil && s.lacks(cve) != want {
			t.Errorf("%s: %s", cve, s.lacks(cve))
		}
	}
	// A source counts once, whatever number of its packages an image has.
	if i := s.image("older"); i.PendingUpdates != 2 || i.Lacks != (catalog.Urgencies{High: 1}) || i.Weight != 20 || i.PendingSince == nil {
		t.Errorf("%+v", i)
	}
	if i := s.image("fixed"); i.PendingUpdates != 0 || i.Rank != 0 || i.PendingSince != nil {
		t.Errorf("%+v", i)
	}
	a, err := s.db.FindAdvisory(t.Context(), "bookworm-security/openssl/3.0.4/amd64")
	if err != nil || a.Urgency != "high" || strings.Join(a.CVEs, " ") != "CVE-2026-1002 CVE-2026-1003 CVE-2026-1004" {
		t.Errorf("%+v, %v", a, err)
	}
	events := s.publishedEvents()
	if len(events) != 1 || events[0].Urgency != "high" || strings.Join(events[0].Packages, " ") != "libssl3 openssl" || len(events[0].Images) != 2 || len(events[0].CVEs) != 3 {
		t.Errorf("%+v", events)
	}
	// The smallest package has only a link; the changelog was read once for three packages of two images.
	if got := strings.Join(p.read, " "); got != "libssl3.deb openssl.deb" {
		t.Errorf("read %s", got)
	}
	compared := len(s.told("image.compared"))
	if j := s.refresh(); !strings.Contains(string(j.Result), `"compared":0`) || len(p.read) != 2 || len(s.told("image.compared")) != compared || len(s.publishedEvents()) != 1 {
		t.Errorf("nothing changed: %s, %v", j.Result, p.read)
	}
	s.put("newer", "bookworm", "3.0.4", "openssl")
	p.date = p.date.Add(time.Hour)
	if s.refresh(); s.lacks("CVE-2026-1004") != "older/libssl3 older/openssl" || len(p.read) != 2 {
		t.Errorf("%s, read %v", s.lacks("CVE-2026-1004"), p.read)
	}
}

// A repository that cannot be trusted or reached leaves what is known, and does not hold up the other releases.
func TestOldKnowledgeStays(t *testing.T) {
	s := newShop(t)
	p := newPublished()
	p.offers["trixie-security"] = p.offers["bookworm-security"]
	s.deps.Indexes, s.deps.Changelogs = p, p
	s.put("a", "bookworm", "3.0.1", "openssl")
	s.put("b", "trixie", "3.0.4", "openssl")
	s.refresh()
	s.put("b", "trixie", "3.0.1", "openssl")
	p.date = p.date.Add(time.Hour)
	p.offers["bookworm-security"] = nil
	p.wrong["bookworm-security"] = errs.New(errs.Invalid, "kiln.advisory.release_unsigned", "the release of bookworm-security is signed by nobody who is trusted")
	j := s.refresh()
	if j.State != job.Failed || j.Error == nil || j.Error.Code != "kiln.advisory.release_unsigned" || !strings.Contains(j.Error.Detail, "bookworm/amd64") {
		t.Errorf("%+v", j)
	}
	if got := s.lacks("CVE-2026-1004"); got != "a/openssl b/openssl" || s.image("a").PendingUpdates != 1 {
		t.Errorf("%s, %+v", got, s.image("a"))
	}
}

func TestFilesOfTheOperator(t *testing.T) {
	s := newShop(t)
	p := newPublished()
	dir := t.TempDir()
	tracker, osv := filepath.Join(dir, "data.json"), filepath.Join(dir, "osv.zip")
	write := func(urgency string) {
		text := `{"openssl": {"CVE-2026-1004": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "3.0.4", "urgency": "` + urgency + `"}}},
 "CVE-2026-1009": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "3.0.9", "urgency": "low"}}}, "CVE-2026-1010": 7}}`
		if err := os.WriteFile(tracker, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("not yet assigned")
	f, err := os.Create(osv)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	w, err := z.Create("RLSA-2026:1.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(`{"id": "RLSA-2026:1", "upstream": ["CVE-2026-2000"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}], "affected":
 [{"package": {"ecosystem": "Rocky Linux:9", "name": "bash"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "5.1.8-9.el9"}]}]}]}`)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.deps.Indexes, s.deps.Files = p, advisory.Files{Tracker: tracker, OSV: []string{osv}}
	s.put("debian", "bookworm", "3.0.1", "openssl")
	facts := &catalog.Facts{OS: catalog.OSRelease{ID: "rocky", VersionID: "9.4"}, Architecture: "x86_64", Packages: []catalog.Package{{Name: "bash", Version: "5.1.8-6.el9", Architecture: "x86_64"}}}
	if err := s.db.PutImage(t.Context(), catalog.Image{ID: "rocky", ProjectID: s.project, State: catalog.Inspected, Facts: facts, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	j := s.refresh()
	if j.State != job.Succeeded || !strings.Contains(string(j.Result), `"problems":1`) {
		t.Fatalf("%+v %s", j, j.Result)
	}
	lines, err := s.db.JobLog(t.Context(), j.ID, 0, 100)
	if err != nil || !strings.Contains(fmt.Sprint(lines), tracker+": openssl.CVE-2026-1010: ") {
		t.Errorf("the log does not name the bad entry: %v, %v", lines, err)
	}
	if s.lacks("CVE-2026-1004") != "debian/openssl" || s.lacks("CVE-2026-2000") != "rocky/bash" || s.image("rocky").Lacks.Critical != 1 {
		t.Errorf("%s, %s, %+v", s.lacks("CVE-2026-1004"), s.lacks("CVE-2026-2000"), s.image("rocky").Lacks)
	}
	// A fix that the tracker knows and no repository has yet.
	hs, err := s.db.Holdings(t.Context(), advisory.Question{CVE: "CVE-2026-1009", Limit: 9})
	if err != nil || len(hs) != 1 || hs[0].Fixed != "3.0.9" || hs[0].Suite != advisory.SuiteTracker {
		t.Errorf("%+v, %v", hs, err)
	}
	// What is more urgent than was known is told again.
	write("high")
	s.refresh()
	var told []string
	for _, p := range s.publishedEvents() {
		if p.Suite == "bookworm-security" {
			told = append(told, p.Was+">"+p.Urgency)
		}
	}
	if strings.Join(told, " ") != "> >high" {
		t.Errorf("told %q", told)
	}
}
