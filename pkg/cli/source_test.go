package cli_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// One made with the command line is pushed to with credentials of the pocket Keystone, through all that the daemon wires.
func TestHostedSource(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		if testing.Short() {
			t.Skip("needs the program git")
		}
		t.Fatal(err)
	}
	k := start(t)
	var src map[string]any
	k.json(&src, "source", "create", "images", "--hosted")
	address, _ := src["url"].(string)
	if src["state"] != "new" || src["hosted"] != true || !strings.Contains(address, "/v1/git/") || src["secret"] != nil {
		t.Fatalf("%v", src)
	}
	dir := t.TempDir()
	git := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir, "-c", "user.name=Ada", "-c", "user.email=ada@example.test"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if err := os.MkdirAll(filepath.Join(dir, "recipes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "recipes", "web.yaml"), []byte("name: web\nfrom: {release: bookworm}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "one"}} {
		if out, err := git(args...); err != nil {
			t.Fatal(err, out)
		}
	}
	id, secret := k.applicationCredential()
	with := func(user, password string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(user, password)
		return u.String()
	}
	if out, err := git("push", with(id, "wrong"), "main"); err == nil || strings.Contains(out, "build of") {
		t.Errorf("a wrong secret pushed: %s", out)
	}
	if out, err := git("push", with(id, secret), "main"); err != nil || !strings.Contains(out, "remote: build of web") {
		t.Errorf("%v: %s", err, out)
	}
	k.json(&src, "source", "show", src["id"].(string))
	if src["state"] != "ready" || src["ref"] != "main" {
		t.Errorf("%v", src)
	}
	var remote map[string]any
	k.json(&remote, "source", "create", "--name", "remote", "--url", "https://git.example.test/r", "--interval", "15m", "--no-wait")
	if remote["secret"] == nil || remote["interval"] != "15m" || !strings.HasSuffix(remote["webhook_url"].(string), "/v1/webhooks/"+remote["id"].(string)) {
		t.Errorf("%v", remote)
	}
	var renewed map[string]any
	if k.json(&renewed, "source", "secret", remote["id"].(string)); renewed["secret"] == nil || renewed["secret"] == remote["secret"] {
		t.Errorf("%v", renewed)
	}
}

// json runs a command and reads what it shows.
func (k kiln) json(into any, args ...string) {
	k.t.Helper()
	out := k.run(append([]string{"--format", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		k.t.Fatalf("%v: %s", err, out)
	}
}

func (k kiln) applicationCredential() (id, secret string) {
	k.t.Helper()
	cloud, err := openstack.Connect(k.t.Context(), openstack.Config{
		AuthURL: os.Getenv("OS_AUTH_URL"), Username: os.Getenv("OS_USERNAME"), Password: os.Getenv("OS_PASSWORD"), ProjectName: os.Getenv("OS_PROJECT_NAME"), Interface: "public",
	})
	if err != nil {
		k.t.Fatal(err)
	}
	identity := cloud.Service(openstack.Description{Name: "keystone", Types: []string{"identity"}})
	token, err := cloud.ForProject("").Token(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	var who struct {
		Token struct{ User struct{ ID string } }
	}
	if err := identity.Do(k.t.Context(), openstack.Call{Operation: "whoami", Method: http.MethodGet, Path: "auth/tokens", Header: map[string]string{"X-Subject-Token": token}, Out: &who}); err != nil {
		k.t.Fatal(err)
	}
	var made struct {
		Credential struct{ ID, Secret string } `json:"application_credential"`
	}
	err = identity.Do(k.t.Context(), openstack.Call{Operation: "create_credential", Method: http.MethodPost, Path: "users/" + who.Token.User.ID + "/application_credentials",
		Body: map[string]any{"application_credential": map[string]any{"name": "git"}}, Out: &made})
	if err != nil {
		k.t.Fatal(err)
	}
	return made.Credential.ID, made.Credential.Secret
}
