package packer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/buildtest"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/build/packer"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, a package mirror, packer and QEMU")
	}
	b, base := builder(t), image(t)
	buildtest.Run(t, buildtest.Harness{
		Builder: b, Base: base, Kernel: "cloud-amd64", Settings: "builder: {name: packer, template: files/more.json, settings: {who: world}}\n",
		Cancel: "==> qemu: Waiting for SSH", Kill: []buildtest.Moment{{Line: "==> qemu: Waiting for SSH", Program: "qemu-system"}},
		Files: map[string]string{"files/more.json": `{"variables": {"who": "nobody"}, "provisioners": [
			{"type": "file", "source": "files/plain", "destination": "/etc/contract/uploaded"},
			{"type": "shell", "inline": ["echo hello {{user ` + "`who`" + `}} >/etc/contract/provisioned"]}]}`},
		Tree: map[string]string{"/etc/contract/uploaded": "it's plain\n", "/etc/contract/provisioned": "hello world\n"},
		Other: func(r build.Request) build.Request {
			other := *r.Base
			other.Digest = "sha256:" + strings.Repeat("0", 64)
			r.Base = &other
			return r
		},
	})
}

func builder(t *testing.T) *packer.Builder {
	t.Helper()
	mirrors, proxy := mirrorsOf(t)
	b, err := packer.New(packer.Config{Mirrors: mirrors, Proxy: proxy})
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

func mirrorsOf(t *testing.T) (deb.Mirrors, *mirror.Proxy) {
	t.Helper()
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	shared.Do(func() {
		proxy, errProxy = mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: filepath.Join(cacheDir(t), "build")})
	})
	if errProxy != nil {
		t.Fatal(errProxy)
	}
	return mirrors, proxy
}

func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "kiln-test")
}

const baseRecipe = "name: base\nfrom: {release: bookworm}\ndisk: {size: 2GiB}\n" +
	"packages: [cloud-init, cloud-guest-utils, ifupdown, isc-dhcp-client, openssh-server]\n"

// image is the base of all builds here, made by the native builder once and kept from run to run.
func image(t *testing.T) *build.Base {
	t.Helper()
	path := filepath.Join(cacheDir(t), "packer-base-1.qcow2")
	if _, err := os.Stat(path); err != nil {
		makeBase(t, path)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, info.Size(), "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	return &build.Base{Path: path, Format: "qcow2", Digest: "sha256:" + strings.Repeat("1", 64), Family: "base", Version: "20260101.1", Facts: facts}
}

func makeBase(t *testing.T, path string) {
	t.Helper()
	mirrors, proxy := mirrorsOf(t)
	b, err := native.New(native.Config{Mirrors: mirrors, Proxy: proxy, Layers: layer.Config{Dir: filepath.Join(t.TempDir(), "layers")}})
	if err != nil {
		t.Fatal(err)
	}
	// The output appears under its name when it is whole.
	if _, err := b.Build(t.Context(), build.Request{Recipe: buildtest.Parse(t, baseRecipe, nil), WorkDir: t.TempDir(), Output: path}); err != nil {
		t.Fatal(err)
	}
}

// What packer cannot do, or must not be told, is refused before anything boots, with its place. A template's
// provisioners run in the guest, and read nothing of the worker.
func TestRefusals(t *testing.T) {
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b, err := packer.New(packer.Config{Mirrors: deb.Mirrors{Main: "http://mirror.example.org/debian"}, Proxy: proxy})
	if err != nil {
		t.Fatal(err)
	}
	good := &catalog.Facts{OS: catalog.OSRelease{Codename: "bookworm"}, Packages: []catalog.Package{{Name: "cloud-init"}, {Name: "openssh-server"}}}
	for name, c := range map[string]struct {
		change      func(*recipe.Recipe, *build.Request)
		code, field string
	}{
		"no base":            {func(_ *recipe.Recipe, q *build.Request) { q.Base = nil }, packer.CodeRecipe, "from.family"},
		"a base without SSH": {func(_ *recipe.Recipe, q *build.Request) { q.Base.Facts = &catalog.Facts{OS: good.OS} }, packer.CodeBase, "from.family"},
		"a nameless base":    {func(_ *recipe.Recipe, q *build.Request) { q.Base.Facts = nil }, packer.CodeBase, "from.family"},
		"partitions":         {func(r *recipe.Recipe, _ *build.Request) { r.Disk.Partitions = []recipe.Partition{{Label: "srv"}} }, packer.CodeRecipe, "disk.partitions"},
		"loose settings":     {func(r *recipe.Recipe, _ *build.Request) { r.Builder.Settings = map[string]string{"a": "b"} }, packer.CodeRecipe, "builder.settings"},
		"a lock":             {func(_ *recipe.Recipe, q *build.Request) { q.Lock = &deb.Lock{} }, packer.CodeRecipe, "builder.name"},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(t, good)
			c.change(req.Recipe, &req)
			_, err := b.Build(t.Context(), req)
			refused(t, err, c.code, c.field, req.WorkDir)
			if _, err := b.Plan(t.Context(), req); err == nil {
				t.Error("it has a plan")
			}
		})
	}
}

// A template brings provisioners that run in the guest, and files of the repository: nothing of the worker.
func TestTemplateRefusals(t *testing.T) {
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b, err := packer.New(packer.Config{Mirrors: deb.Mirrors{Main: "http://mirror.example.org/debian"}, Proxy: proxy})
	if err != nil {
		t.Fatal(err)
	}
	one := func(provisioner string) string {
		return `{"provisioners": [{"type": "shell", "inline": ["true"]}, ` + provisioner + `]}`
	}
	for name, c := range map[string]struct{ text, field string }{
		"no JSON":                {"variables: {}", ""},
		"a builder":              {`{"builders": [{"type": "qemu"}]}`, "builders"},
		"a post-processor":       {`{"post-processors": []}`, "post-processors"},
		"sensitive variables":    {`{"sensitive-variables": ["a"]}`, "sensitive-variables"},
		"variables of numbers":   {`{"variables": {"a": 1}}`, "variables"},
		"a shell on the worker":  {one(`{"type": "shell-local", "inline": ["id"]}`), "provisioners[1]"},
		"no type":                {one(`{"inline": ["id"]}`), "provisioners[1]"},
		"ansible on the worker":  {one(`{"type": "ansible", "playbook_file": "p"}`), "provisioners[1]"},
		"a download":             {one(`{"type": "file", "direction": "download", "source": "/etc/a", "destination": "b"}`), "provisioners[1]"},
		"a file of the worker":   {one(`{"type": "file", "source": "/etc/shadow", "destination": "/b"}`), "provisioners[1]"},
		"a way out":              {one(`{"type": "file", "source": "../../etc/shadow", "destination": "/b"}`), "provisioners[1]"},
		"several files":          {one(`{"type": "file", "sources": ["here", "/etc/shadow"], "destination": "/b"}`), "provisioners[1]"},
		"a script of the worker": {one(`{"type": "shell", "script": "/root/x"}`), "provisioners[1]"},
		"a path as a template":   {one(`{"type": "shell", "scripts": ["{{user ` + "`a`" + `}}"]}`), "provisioners[1]"},
		"a link":                 {one(`{"type": "shell", "script": "link"}`), "provisioners[1]"},
		"a file that is missing": {one(`{"type": "shell", "script": "nowhere"}`), "provisioners[1]"},
		"a list as a name":       {one(`{"type": "shell", "script": {"a": "b"}}`), "provisioners[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(t, &catalog.Facts{OS: catalog.OSRelease{Codename: "bookworm"}, Packages: []catalog.Package{{Name: "cloud-init"}, {Name: "openssh-server"}}})
			req.Recipe.Builder.Template = "more.json"
			req.Files = fstest.MapFS{"more.json": {Data: []byte(c.text)}, "here": {Data: []byte("x")}, "link": {Data: []byte("/etc/shadow"), Mode: os.ModeSymlink}}
			_, err := b.Build(t.Context(), req)
			refused(t, err, packer.CodeTemplate, c.field, req.WorkDir)
		})
	}
	req := request(t, &catalog.Facts{OS: catalog.OSRelease{Codename: "bookworm"}, Packages: []catalog.Package{{Name: "cloud-init"}, {Name: "openssh-server"}}})
	req.Recipe.Builder = recipe.Builder{Template: "more.json", Settings: map[string]string{"unknown": "x"}}
	req.Files = fstest.MapFS{"more.json": {Data: []byte(`{"variables": {"known": ""}}`)}}
	_, err = b.Build(t.Context(), req)
	refused(t, err, packer.CodeTemplate, "builder.settings.unknown", req.WorkDir)
}

func request(t *testing.T, facts *catalog.Facts) build.Request {
	t.Helper()
	dir := t.TempDir()
	return build.Request{Recipe: &recipe.Recipe{Path: "r.yaml"}, WorkDir: dir, Output: filepath.Join(dir, "out"), Files: fstest.MapFS{},
		Base: &build.Base{Path: filepath.Join(dir, "none"), Format: "qcow2", Digest: "sha256:1", Facts: facts}}
}

func refused(t *testing.T, err error, code, field, dir string) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Code != code || e.Where.Field != field {
		t.Errorf("want %s at %s, not %v", code, field, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
