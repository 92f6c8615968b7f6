package lists_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/lists"
)

func shelf(t *testing.T, r *aptrepo.Repository) *lists.Shelf {
	t.Helper()
	dir := t.TempDir()
	client, err := deb.NewClient(deb.ClientConfig{Dir: dir, Keyring: r.Keyring, HTTP: &http.Client{Transport: r}})
	if err != nil {
		t.Fatal(err)
	}
	return lists.New(dir, client)
}

var suite = []upgrade.Suite{{Mirror: aptrepo.Base, Suite: "bookworm", Components: []string{"main"}}}

const (
	releaseFile = "mirror.example.org_debian_dists_bookworm_InRelease"
	listFile    = "mirror.example.org_debian_dists_bookworm_main_binary-amd64_Packages"
)

func TestOnlyWhatMayBeNeeded(t *testing.T) {
	r := aptrepo.New(t)
	for name, fields := range map[string]string{
		"installed": "Depends: library (>= 1) | other:any [amd64], virtual\nPre-Depends: first\nRecommends: nice\n",
		"library":   "Depends: deep\n", "other": "", "first": "", "deep": "", "nice": "", "stranger": "Depends: installed\n", "provider": "Provides: virtual (= 2), more\n",
	} {
		r.Add("bookworm", aptrepo.Package{Name: name, Version: "1", Fields: fields})
	}
	r.Add("bookworm", aptrepo.Package{Name: "installed", Version: "2"})
	r.Publish("bookworm", "")
	s := shelf(t, r)
	for range 2 {
		dir := t.TempDir()
		if err := s.Lay(t.Context(), suite, []string{"amd64"}, []string{"installed", "only-here"}, dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, listFile))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for line := range strings.SplitSeq(string(text), "\n") {
			if name, ok := strings.CutPrefix(line, "Package: "); ok {
				got[name]++
			}
		}
		for name, n := range map[string]int{"installed": 2, "library": 1, "other": 1, "first": 1, "deep": 1, "provider": 1, "nice": 0, "stranger": 0} {
			if got[name] != n {
				t.Errorf("%s is there %d times", name, got[name])
			}
		}
		whole := string(r.File("dists/bookworm/main/binary-amd64/Packages"))
		for stanza := range strings.SplitSeq(string(text), "\n\n") {
			if !strings.Contains(whole, stanza) {
				t.Errorf("not a stanza of the repository: %q", stanza)
			}
		}
		if signed, err := os.ReadFile(filepath.Join(dir, releaseFile)); err != nil || string(signed) != string(r.File("dists/bookworm/InRelease")) {
			t.Errorf("InRelease: %v", err)
		}
	}
	r.Add("bookworm", aptrepo.Package{Name: "installed", Version: "3"})
	r.Publish("bookworm", "")
	dir := t.TempDir()
	if err := s.Lay(t.Context(), suite, []string{"amd64"}, []string{"installed"}, dir); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, listFile)); !strings.Contains(string(text), "Version: 3") {
		t.Error("what was published meanwhile is missing")
	}
}

func TestWhatIsNotSignedIsNotLaid(t *testing.T) {
	for name, spoil := range map[string]func(*aptrepo.Repository){
		"another key": func(r *aptrepo.Repository) { r.NewKey(); r.Publish("bookworm", "") },
		"another list": func(r *aptrepo.Repository) {
			r.SetFile("dists/bookworm/main/binary-amd64/Packages", []byte("Package: installed\nVersion: 9\n\n"))
		},
		"expired": func(r *aptrepo.Repository) { r.Publish("bookworm", "Valid-Until: Thu, 01 Jan 2015 00:00:00 UTC\n") },
	} {
		t.Run(name, func(t *testing.T) {
			r := aptrepo.New(t)
			r.Add("bookworm", aptrepo.Package{Name: "installed", Version: "1"})
			r.Publish("bookworm", "")
			spoil(r)
			dir := t.TempDir()
			err := shelf(t, r).Lay(t.Context(), suite, []string{"amd64"}, []string{"installed"}, dir)
			if !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Unavailable) {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, listFile)); err == nil {
				t.Error("the list was laid")
			}
		})
	}
}
