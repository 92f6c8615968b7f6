package recipe_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func aLock() *deb.Lock {
	sum := strings.Repeat("0123456789abcdef", 4)
	return &deb.Lock{
		Release: "bookworm", Architecture: "amd64", Time: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC),
		Suites: []deb.LockedSuite{{Suite: "bookworm", SHA256: sum}},
		Packages: []deb.LockedPackage{
			{Name: "apt", Version: "2.6", Architecture: "amd64", Filename: "pool/main/a/apt/apt_2.6_amd64.deb", Size: 10, SHA256: sum},
			{Name: "libc6", Version: "1:2.36-9+deb12u1~1", Architecture: "amd64", Filename: "pool/main/g/glibc/libc6_2.36_amd64.deb", Size: 20, SHA256: strings.Repeat("1", 64)},
		},
	}
}

func TestALockIsReadAsItWasWritten(t *testing.T) {
	text, err := aLock().Text()
	if err != nil {
		t.Fatal(err)
	}
	set, err := recipe.Load(fstest.MapFS{
		"recipes/web.yaml": {Data: []byte("name: web\nfrom: {release: bookworm}\n")},
		"recipes/web.lock": {Data: []byte(text)},
		"recipes/db.yml":   {Data: []byte("name: db\nfrom: {release: bookworm}\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.Lock("web")
	if err != nil || got.Digest() != aLock().Digest() {
		t.Errorf("read back as %v, %v from\n%s", got, err, text)
	}
	if got, err := set.Lock("db"); got != nil || err != nil {
		t.Errorf("a recipe without a lock: %v %v", got, err)
	}
	if _, err := set.Lock("none"); err == nil {
		t.Error("a recipe that is not there has a lock")
	}
	other := aLock()
	other.Packages[1].SHA256 = strings.Repeat("2", 64)
	if other.Digest() == aLock().Digest() {
		t.Error("another package, the same digest")
	}
}

func TestFaultsOfALockNameThePlace(t *testing.T) {
	whole, err := aLock().Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		old, new, field string
		line            int
	}{
		"unknown field":  {"release: bookworm", "release: bookworm\nrelaese: x", "relaese", 3},
		"short hash":     {strings.Repeat("1", 64), strings.Repeat("1", 63), "packages[1].sha256", 20},
		"path outside":   {"pool/main/g/glibc/libc6_2.36_amd64.deb", "../../etc/x.deb", "packages[1].filename", 18},
		"size as text":   {"size: 10", "size: ten", "packages[0].size", 13},
		"no size":        {"    size: 10\n", "", "packages[0].size", 9},
		"locked twice":   {"name: libc6", "name: apt", "packages[1].name", 15},
		"no time":        {"time: 2026-05-01T10:00:00Z\n", "", "time", 2},
		"not a version":  {"1:2.36-9+deb12u1~1", "1 2", "packages[1].version", 16},
		"several faults": {"release: bookworm", "release: Bookworm 12", "release", 2},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(whole, c.old, c.new, 1)
			if text == whole {
				t.Fatalf("%q is not in the lock:\n%s", c.old, whole)
			}
			_, err := recipe.ParseLock("recipes/web.lock", []byte(text))
			var faults recipe.ParseErrors
			if !errors.As(err, &faults) {
				t.Fatalf("%v", err)
			}
			if w := faults[0].Where; w.File != "recipes/web.lock" || w.Field != c.field || w.Line != c.line {
				t.Errorf("%s: %v\n%s", name, faults[0], text)
			}
		})
	}
	if _, err := recipe.ParseLock("x.lock", nil); err == nil {
		t.Error("an empty lock is a lock")
	}
}
