package dib_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/buildtest"
	"github.com/kiln-cloud/kiln/pkg/build/dib"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// settings name the builder.
const settings = "builder: {name: diskimage-builder, elements: [contract], settings: {DIB_GRUB_TIMEOUT: \"1\"}}\n"

func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, a package mirror and diskimage-builder")
	}
	buildtest.Run(t, buildtest.Harness{
		Builder: builder(t), Kernel: "cloud-amd64", Settings: settings,
		Files:  map[string]string{"elements/contract/install.d/50-contract": "#!/bin/sh\nmkdir -p /etc/contract\necho \"$DIB_GRUB_TIMEOUT $http_proxy\" >/etc/contract/element\n"},
		Tree:   map[string]string{"/etc/contract/element": "1 http://127.0.0.1:3142\n", "/etc/default/grub": "GRUB_TIMEOUT=1\n"},
		Cancel: "dib-run-parts Running /tmp/in_target.d/install.d/01-package-installs",
		Kill:   []buildtest.Moment{{Line: "== disk", Program: "sleep"}}, // the disk is on loop devices then
		Other: func(r build.Request) build.Request {
			other := *r.Recipe
			other.From.Release = "trixie"
			r.Recipe = &other
			return r
		},
	})
}

func builder(t *testing.T) *dib.Builder {
	t.Helper()
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	shared.Do(func() {
		proxy, errProxy = mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: filepath.Join(cache, "kiln-test", "build")})
	})
	if errProxy != nil {
		t.Fatal(errProxy)
	}
	b, err := dib.New(dib.Config{Mirrors: mirrors, Proxy: proxy, CacheDir: filepath.Join(cache, "kiln-test", "bases")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// One proxy for all tests of the process: a second one on its folder would sweep away what the first one fetches.
var (
	shared   sync.Once
	proxy    *mirror.Proxy
	errProxy error
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What diskimage-builder cannot do, or must not be told, is refused before anything runs, with its place.
func TestRefusals(t *testing.T) {
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b, err := dib.New(dib.Config{Mirrors: deb.Mirrors{Main: "http://mirror.example.org/debian"}, Proxy: proxy,
		Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(r.URL.Path)), Request: r}, nil
		})}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change      func(*recipe.Recipe, *build.Request)
		code, field string
		tool        bool // found out with the tool at hand
	}{
		"a base":          {func(r *recipe.Recipe, _ *build.Request) { r.From = recipe.From{Family: "base"} }, dib.CodeRecipe, "from.family", false},
		"partitions":      {func(r *recipe.Recipe, _ *build.Request) { r.Disk.Partitions = []recipe.Partition{{Label: "srv"}} }, dib.CodeRecipe, "disk.partitions", false},
		"no DIB_ setting": {func(r *recipe.Recipe, _ *build.Request) { r.Builder.Settings = map[string]string{"LD_PRELOAD": "x"} }, dib.CodeRecipe, "builder.settings", false},
		"Kiln's own setting": {func(r *recipe.Recipe, _ *build.Request) {
			r.Builder.Settings = map[string]string{"DIB_PYTHON_EXEC": "x"}
		}, dib.CodeRecipe, "builder.settings", false},
		"no element's name":  {func(r *recipe.Recipe, _ *build.Request) { r.Builder.Elements = []string{"../../root"} }, dib.CodeRecipe, "builder.elements", false},
		"an option":          {func(r *recipe.Recipe, _ *build.Request) { r.Builder.Elements = []string{"-x"} }, dib.CodeRecipe, "builder.elements", false},
		"a lock":             {func(_ *recipe.Recipe, q *build.Request) { q.Lock = &deb.Lock{} }, dib.CodeRecipe, "builder.name", false},
		"an unknown element": {func(r *recipe.Recipe, _ *build.Request) { r.Builder.Elements = []string{"vm", "no-such"} }, dib.CodeElements, "builder.elements[1]", true},
		"a link as a element": {func(_ *recipe.Recipe, q *build.Request) {
			q.Files = fstest.MapFS{"elements/x/install.d/1": {Mode: os.ModeSymlink}}
		}, dib.CodeElements, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.tool && testing.Short() {
				t.Skip("needs diskimage-builder")
			}
			dir := t.TempDir()
			req := build.Request{Recipe: &recipe.Recipe{Path: "r.yaml", From: recipe.From{Release: "bookworm"}}, WorkDir: dir, Output: filepath.Join(dir, "out"), Files: fstest.MapFS{}}
			c.change(req.Recipe, &req)
			_, err := b.Build(t.Context(), req)
			var e *errs.Error
			if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Code != c.code || e.Where.Field != c.field {
				t.Errorf("%v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}
