package functional

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/testkit/docker"
)

// factoryRecipes are a base, and a web server on it.
var factoryRecipes = map[string]string{
	"base": `name: base
description: Debian 12 with cloud-init
from: {release: bookworm}
builder: {needs: [factory]}
packages: [cloud-init, openssh-server, ca-certificates, sudo]
cloud_init: {datasources: [NoCloud, ConfigDrive]}
disk: {size: 3GiB}
tests:
  - {name: host keys, run: "ls /etc/ssh/ssh_host_*_key"}
`,
	"web": `name: web
description: A web server on the base
from: {recipe: base}
packages: [nginx-light]
files:
  - {path: /var/www/html/index.html, content: "made by kiln\n"}
services: {enable: [nginx.service]}
output: {also: [docker]}
tests:
  - {name: page, run: "systemctl is-active nginx && grep kiln /var/www/html/index.html"}
`,
}

// otherBuilders are images of the same kinds by the two foreign tools.
var otherBuilders = map[string]string{
	"packed": `name: packed
description: A web server on the base, by packer
from: {family: ground, channel: candidate}
builder: {name: packer, needs: [factory]}
packages: [nginx-light]
files:
  - {path: /var/www/html/index.html, content: "made by kiln\n"}
services: {enable: [nginx.service]}
triggers: {no_push: true, base: true}
tests:
  - {name: page, run: "systemctl is-active nginx && grep kiln /var/www/html/index.html"}
`,
	"element": `name: element
description: Debian 12 by diskimage-builder
from: {release: bookworm}
builder: {name: diskimage-builder, elements: [cloud-init], needs: [factory]}
packages: [cloud-init, openssh-server, ca-certificates, sudo]
cloud_init: {datasources: [NoCloud, ConfigDrive]}
disk: {size: 3GiB}
tests:
  - {name: host keys, run: "ls /etc/ssh/ssh_host_*_key"}
`,
}

// factory is the stand with a worker that boots what it builds, and a repository that Kiln hosts.
type factory struct {
	*stand
	t      *testing.T
	member *client.Client
	dir    string // of the repository
	remote string // address with a token
	source string // id
}

func newFactory(t *testing.T) *factory {
	t.Helper()
	s := kiln(t)
	key := filepath.Join(s.dir, "proof")
	if _, err := os.Stat(key); err != nil { // one for all tests of the run: what one signed, another verifies
		if out, err := command(t.Context(), nil, filepath.Join(s.bin, "kiln-manage"), "proof", "key", key); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	text := fmt.Sprintf("[worker]\nwork_dir = %s\nlabels = factory\nbuilders = native, packer, diskimage-builder\nparallel = 2\n[build]\ntest_boot = qemu\nboot_timeout = 1200\nsigning_key = %s\n", s.workDir("factory"), key)
	if err := os.WriteFile(s.conf("factory"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.start("factory", "kiln-worker", "--config-file="+s.conf("kiln"), "--config-file="+s.conf("factory")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the other tests know two workers
		if err := s.stop("factory"); err != nil {
			t.Error(err)
		}
	})
	f := &factory{stand: s, t: t, member: s.as(t, "member"), dir: filepath.Join(t.TempDir(), "repository")}
	var src build.Source
	if err := f.member.Post(t.Context(), "/v1/sources", build.NewSource{Name: "factory", Hosted: true}, &src); err != nil {
		t.Fatal(err)
	}
	f.source = src.ID
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 30*time.Second) // the test's own has ended
		defer stop()
		if err := f.member.Delete(ctx, "/v1/sources/"+src.ID, nil); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(src.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("token", token(t, s.login(t, "member")))
	f.remote = u.String()
	if err := os.MkdirAll(filepath.Join(f.dir, "recipes"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.git("init", "-q", "-b", "main")
	return f
}

func (f *factory) git(args ...string) string {
	f.t.Helper()
	out, err := command(f.t.Context(), []string{"GIT_TERMINAL_PROMPT=0"}, "git",
		append([]string{"-C", f.dir, "-c", "user.name=kiln", "-c", "user.email=kiln@example.test"}, args...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// push commits the recipes and pushes them; the answer is what the user's terminal shows.
func (f *factory) push(recipes map[string]string) string {
	f.t.Helper()
	for name, text := range recipes {
		if err := os.WriteFile(filepath.Join(f.dir, "recipes", name+".yaml"), []byte(text), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	f.git("add", "-A")
	f.git("commit", "-q", "-m", "recipes")
	return f.git("push", f.remote, "main")
}

// kiln runs the command line as the member.
func (f *factory) kiln(args ...string) (string, error) {
	return command(f.t.Context(), []string{
		"OS_AUTH_URL=" + os.Getenv("KILN_TEST_AUTH_URL"), "OS_USERNAME=" + name(f.id, "member"), "OS_PASSWORD=" + secret(),
		"OS_PROJECT_NAME=" + name(f.id, "project"), "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
		"OS_USER_DOMAIN_ID=", "OS_PROJECT_DOMAIN_ID=", "OS_CLOUD=", "OS_REGION_NAME=" + os.Getenv("KILN_TEST_REGION"), "KILN_ENDPOINT=" + f.api,
	}, filepath.Join(f.bin, "kiln"), args...)
}

// version waits for the newest build of a recipe to end well and gives what it published.
func (f *factory) version(t *testing.T, recipe string, limit time.Duration) catalog.Version {
	t.Helper()
	var b build.Build
	err := until(t.Context(), limit, "a build of "+recipe, func(ctx context.Context) (bool, error) {
		all, err := client.List[build.Build](ctx, f.member, "builds", url.Values{"source_id": {f.source}, "family": {recipe}, "sort": {"created_at:desc"}})
		if err != nil || len(all) == 0 {
			return false, err
		}
		b = all[0]
		return b.State != build.Queued && b.State != build.Running, nil
	})
	if err != nil || b.State != build.Succeeded {
		log, _ := f.kiln("build", "log", b.ID)
		t.Fatalf("build of %s: %v, %s %s\n%s", recipe, err, b.State, b.Error, log[max(0, len(log)-6000):])
	}
	var v catalog.Version
	if err := f.member.Get(t.Context(), "/v1/families/"+recipe+"/versions/"+b.VersionName, &v); err != nil {
		t.Fatal(err)
	}
	steps, _ := json.Marshal(b.Steps)
	t.Logf("%s %s: image %s by %s on %s, steps %s", recipe, v.Name, v.ImageID, b.Builder, b.Worker, steps)
	return v
}

// TestRealFactory: a git push ends with tested, published families, a container image that runs in Docker, bills of
// materials, a statement that holds until a byte changes, and a diff that reads like a release note.
func TestRealFactory(t *testing.T) {
	f := newFactory(t)
	said := f.push(factoryRecipes)
	for _, want := range []string{"remote: build of base (family base): " + f.api + "/v1/builds/", "remote: build of web (family web): "} {
		if !strings.Contains(said, want) {
			t.Errorf("the push did not say %q:\n%s", want, said)
		}
	}
	base := f.version(t, "base", 25*time.Minute)
	web := f.version(t, "web", 25*time.Minute)
	t.Run("published", func(t *testing.T) {
		f.published(t, base, web)
	})
	t.Run("container", func(t *testing.T) { f.container(t, web) })
	t.Run("proof", func(t *testing.T) { f.proof(t, web) })
	t.Run("diff", func(t *testing.T) {
		f.push(map[string]string{"web": strings.Replace(factoryRecipes["web"], "nginx-light]", "nginx-light, jq]", 1)})
		second := f.version(t, "web", 25*time.Minute)
		out, err := f.kiln("image", "diff", "web", web.Name, second.Name)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(out)
		for _, want := range []string{web.Name, second.Name, "jq", "libjq1"} {
			if !strings.Contains(out, want) {
				t.Errorf("the diff says nothing of %s", want)
			}
		}
	})
}

// TestRealFactoryOfOtherTools: the same push, with the images made by packer and by diskimage-builder. The one that packer
// makes waits for its base, whose new version starts it.
func TestRealFactoryOfOtherTools(t *testing.T) {
	f := newFactory(t)
	f.push(map[string]string{"ground": strings.Replace(factoryRecipes["base"], "name: base", "name: ground", 1), "packed": otherBuilders["packed"], "element": otherBuilders["element"]})
	versions := []catalog.Version{f.version(t, "ground", 25*time.Minute), f.version(t, "element", 35*time.Minute), f.version(t, "packed", 35*time.Minute)}
	f.published(t, versions...)
	if packed := versions[2]; packed.Base != versions[0].Label() {
		t.Errorf("packer's image stands on %q, not on %s", packed.Base, versions[0].Label())
	}
}

// published: the images are whole and carry what was found out about them, and their tests' results are in the log.
func (f *factory) published(t *testing.T, versions ...catalog.Version) {
	for _, v := range versions {
		g, err := f.glance.Image(t.Context(), v.ImageID)
		if err != nil || g.Status != "active" || g.Hidden {
			t.Errorf("image %+v, %v", g, err)
		}
		for _, property := range []string{"os_distro", "image_build_date", catalog.PropVersion, catalog.PropSBOM, catalog.PropProvenance} {
			if g.Properties[property] == "" {
				t.Errorf("%s has no property %s", v.Label(), property)
			}
		}
		log, err := f.kiln("build", "log", v.OriginID)
		if err != nil || !strings.Contains(log, "passed in") || !strings.Contains(log, "GRUB loading") {
			t.Errorf("the log of %s has no test and no console, %v", v.Label(), err)
		}
	}
}

// container loads the artifact into a Docker and runs it.
func (f *factory) container(t *testing.T, v catalog.Version) {
	id, err := v.ContainerImage()
	if err != nil {
		t.Fatal(err)
	}
	path := f.download(t, id)
	run := docker.Start(t)
	_, image, ok := strings.Cut(strings.TrimSpace(run("load", "-i", path)), "Loaded image: ")
	if !ok {
		t.Fatal("docker load names no image")
	}
	if out := run("run", "--rm", "--network", "none", image, "/bin/sh", "-c", "nginx -v 2>&1; cat /var/www/html/index.html; ls -A /boot"); !strings.Contains(out, "nginx version") || !strings.HasSuffix(out, "made by kiln\n") {
		t.Errorf("the container said:\n%s", out)
	}
}

func (f *factory) download(t *testing.T, image string) string {
	t.Helper()
	body, err := f.glance.Download(t.Context(), image, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	path := filepath.Join(t.TempDir(), "image")
	out, err := os.Create(path)
	if err == nil {
		_, err = io.Copy(out, body)
	}
	if err != nil || out.Close() != nil {
		t.Fatal(err)
	}
	return path
}

// proof: the statement holds for what Glance gives out, and for nothing else.
func (f *factory) proof(t *testing.T, v catalog.Version) {
	key := filepath.Join(f.dir, "..", "trusted.pub")
	public, err := os.ReadFile(filepath.Join(f.stand.dir, "proof.pub"))
	if err == nil {
		err = os.WriteFile(key, public, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := f.kiln("image", "verify", "web/"+v.Name, "--key", key); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	path := f.download(t, v.ImageID)
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := disk.ReadAt(one, 1<<20); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := disk.WriteAt(one, 1<<20); err != nil || disk.Close() != nil {
		t.Fatal(err)
	}
	if out, err := f.kiln("image", "verify", "web/"+v.Name, "--key", key, "--file", path); err == nil {
		t.Errorf("a disk with another bit was taken for the image:\n%s", out)
	}
	for _, format := range []string{"cyclonedx", "spdx"} {
		out, err := f.kiln("image", "sbom", v.ImageID, "--format", format)
		if err != nil || !json.Valid(bytes.TrimSpace([]byte(out))) || !strings.Contains(out, "pkg:deb/debian/nginx") {
			t.Errorf("the %s document: %v", format, err)
		}
	}
}
