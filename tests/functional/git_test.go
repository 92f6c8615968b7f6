package functional

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
)

// waiting is a recipe whose builds wait for a worker that there is none of: the push is what is tested here.
const waiting = "name: %s\nfrom: {release: bookworm}\nbuilder: {needs: [no-such-worker]}\n"

// applicationCredential makes one of the member's, as a user of git would.
func (s *stand) applicationCredential(t *testing.T, c *openstack.Cloud) (id, secret string) {
	t.Helper()
	who, err := keystone.New(c).Validate(t.Context(), token(t, c), false)
	if err != nil {
		t.Fatal(err)
	}
	identity := c.Service(openstack.Description{Name: "keystone", Types: []string{"identity"}})
	path := "users/" + who.User.ID + "/application_credentials"
	var made struct {
		Credential struct{ ID, Secret string } `json:"application_credential"`
	}
	err = identity.Do(t.Context(), openstack.Call{Operation: "create_credential", Method: http.MethodPost, Path: path,
		Body: map[string]any{"application_credential": map[string]any{"name": name(s.id, "git")}}, Out: &made})
	if err != nil {
		t.Fatal(err)
	}
	return made.Credential.ID, made.Credential.Secret
}

// TestRealGitPush pushes with the real git program and real credentials of Keystone to a running kiln-api; a running
// worker reads the repository out of MariaDB.
func TestRealGitPush(t *testing.T) {
	s := kiln(t)
	cloud, member := s.login(t, "member"), s.as(t, "member")
	var src struct {
		build.Source
		WebhookURL string `json:"webhook_url"`
	}
	if err := member.Post(t.Context(), "/v1/sources", map[string]any{"name": "pushed", "hosted": true}, &src); err != nil {
		t.Fatal(err)
	}
	if src.URL != fmt.Sprintf("%s/v1/git/%s/pushed", s.api, s.project) {
		t.Fatalf("the address is %s", src.URL)
	}
	dir := filepath.Join(t.TempDir(), "recipes")
	git := func(args ...string) (string, error) {
		return command(t.Context(), []string{"GIT_TERMINAL_PROMPT=0"}, "git", append([]string{"-C", dir, "-c", "user.name=kiln", "-c", "user.email=kiln@example.test"}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := git(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		must("add", "-A")
		must("commit", "-q", "-m", file)
	}
	if err := os.MkdirAll(filepath.Join(dir, "recipes"), 0o755); err != nil {
		t.Fatal(err)
	}
	must("init", "-q", "-b", "main")
	with := func(user, password string) string {
		u, err := url.Parse(src.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(user, password)
		return u.String()
	}

	write("recipes/base.yaml", fmt.Sprintf(waiting, "base"))
	out := must("push", with("token", token(t, cloud)), "main")
	if !strings.Contains(out, "remote: build of base (family base): "+s.api+"/v1/builds/") {
		t.Errorf("with a token git showed:\n%s", out)
	}
	id, secret := s.applicationCredential(t, cloud)
	write("recipes/web.yaml", fmt.Sprintf(waiting, "web"))
	if out = must("push", with(id, secret), "main"); !strings.Contains(out, "remote: build of web") || !strings.Contains(out, "no build of base: it did not change") {
		t.Errorf("with an application credential git showed:\n%s", out)
	}
	write("recipes/web.yaml", "name: web\nfrom: {release: bookworm}\npackages: nginx\n")
	if out, err := git("push", with(id, secret), "main"); err == nil || !strings.Contains(out, "remote: recipes/web.yaml:3: packages: ") {
		t.Errorf("a faulty recipe: %v\n%s", err, out)
	}
	for who, address := range map[string]string{
		"a wrong secret": with(id, "wrong"), "a forged token": with("token", "gAAAAABforged"), "another project": with("token", token(t, s.login(t, "other"))),
		"a reader": with("token", token(t, s.login(t, "reader"))),
	} {
		if out, err := git("push", address, "main"); err == nil {
			t.Errorf("%s may push:\n%s", who, out)
		}
	}
	if out, err := git("ls-remote", with("token", token(t, s.login(t, "reader")))); err != nil || !strings.Contains(out, "refs/heads/main") {
		t.Errorf("a reader may not fetch: %v\n%s", err, out)
	}

	builds, err := client.List[build.Build](t.Context(), member, "builds", map[string][]string{"source_id": {src.ID}})
	if err != nil || len(builds) != 2 {
		t.Fatalf("%d builds, %v", len(builds), err)
	}
	for _, b := range builds {
		if b.Trigger != build.ByPush || b.UserID == "" || b.State != build.Queued {
			t.Errorf("%+v", b)
		}
		if err := member.Post(t.Context(), "/v1/jobs/"+b.JobID+"/cancel", nil, nil); err != nil {
			t.Error(err)
		}
	}
	// A worker finds the same in the database.
	var synced build.Source
	if err := member.Post(t.Context(), "/v1/sources/"+src.ID+"/sync", nil, &synced); err != nil {
		t.Fatal(err)
	}
	if j := finished(t, member, synced.JobID); !strings.Contains(string(j.Result), `"recipes":2`) || !strings.Contains(string(j.Result), `"faulty":0`) {
		t.Errorf("%s", j.Result)
	}
	if err := member.Delete(t.Context(), "/v1/sources/"+src.ID, nil); err != nil {
		t.Error(err)
	}
}
