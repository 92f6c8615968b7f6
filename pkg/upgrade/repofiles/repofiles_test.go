package repofiles_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/repofiles"
)

func folder(t *testing.T, text string) (dir, keys string) {
	t.Helper()
	dir = t.TempDir()
	keys = filepath.Join(dir, "keys.asc")
	text = strings.ReplaceAll(text, "KEYS", "file://"+keys)
	for name, data := range map[string]string{keys: "key", filepath.Join(dir, "almalinux-9.repo"): text, filepath.Join(dir, "README"): "no file of ours"} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, keys
}

func TestRead(t *testing.T) {
	dir, keys := folder(t, "# of the operator\n[baseos]\nname=Base\nbaseurl=https://mirror.example.org/alma/$releasever/BaseOS/$basearch/os/\ngpgkey=KEYS\ngpgcheck=1\n\n"+
		"[extra]\nbaseurl = http://extra.example.org/9\ngpgkey = KEYS\nrepo_gpgcheck=0\n[off]\nenabled=0\n")
	set, err := repofiles.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []upgrade.Repository{
		{ID: "baseos", BaseURL: "https://mirror.example.org/alma/9/BaseOS/x86_64/os", Keys: keys}, {ID: "extra", BaseURL: "http://extra.example.org/9", Keys: keys, Unsigned: true},
	}
	facts := func(id, version string) *catalog.Facts {
		return &catalog.Facts{Architecture: "amd64", OS: catalog.OSRelease{ID: id, VersionID: version}}
	}
	for _, version := range []string{"9", "9.4"} {
		if diff := cmp.Diff(want, set.For(facts("almalinux", version))); diff != "" {
			t.Error(diff)
		}
	}
	if got := append(set.For(facts("almalinux", "8.9")), set.For(facts("fedora", "9"))...); len(got) > 0 {
		t.Errorf("of other releases: %v", got)
	}
	if diff := cmp.Diff([]string{"http://extra.example.org/9", "https://mirror.example.org/alma"}, set.Upstreams()); diff != "" {
		t.Error(diff)
	}
	if none, err := repofiles.Read(filepath.Join(dir, "missing")); err != nil || len(none) > 0 || len(none.Upstreams()) > 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func TestRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"[a]\nbaseurl=http://a.example.org/a\ngpgkey=KEYS\ngpgcheck=0\n":                                       ":4: gpgcheck is always 1",
		"[a]\nbaseurl=http://a.example.org/a\ngpgkey=https://a.example.org/key\n":                              ":3: gpgkey",
		"[a]\nmetalink=http://a.example.org/a\ngpgkey=KEYS\n":                                                  ":2: metalink",
		"[a]\nbaseurl=http://a.example.org/a\n":                                                                ":1: the repository a has no file of keys",
		"[a]\ngpgkey=KEYS\n":                                                                                   ":1: \"\" is no http address",
		"[a]\nbaseurl=http://a.example.org/$b\ngpgkey=KEYS\n":                                                  ":1:",
		"[a]\nbaseurl=http://a.example.org/a\ngpgkey=KEYS.not\n":                                               "missing",
		"baseurl=http://a.example.org/a\n":                                                                     ":1:",
		"[main]\nbaseurl=http://a.example.org/a\ngpgkey=KEYS\n":                                                "main",
		"[a]\nbaseurl=http://a.example.org/a\ngpgkey=KEYS\n[a]\nbaseurl=http://a.example.org/a\ngpgkey=KEYS\n": ":4: the repository a is there twice",
	} {
		dir, _ := folder(t, text)
		if _, err := repofiles.Read(dir); errs.CodeOf(err) != repofiles.CodeMalformed || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
