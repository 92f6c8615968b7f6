package manage_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket"
)

// doubles are a Kiln API, a GitLab and a Jenkins of a few paths each; pkg/forge tests what is said to the latter two.
func doubles(t *testing.T) (kiln, gitlab, jenkins string) {
	t.Helper()
	var sources, hooks []map[string]any
	job := ""
	serve := func(routes map[string]func(body []byte) (int, any)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			route, ok := routes[r.Method+" "+r.URL.EscapedPath()]
			if !ok {
				http.Error(w, "{}", http.StatusNotFound)
				return
			}
			if strings.HasPrefix(r.URL.Path, "/v1/sources") && len(r.Header.Get("X-Auth-Token")) < 10 {
				t.Errorf("%s without a token", r.URL)
			}
			status, answer := route(body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if text, ok := answer.(string); ok {
				_, _ = io.WriteString(w, text)
				return
			}
			_ = json.NewEncoder(w).Encode(answer)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	kiln = serve(map[string]func([]byte) (int, any){
		"GET /v1/sources": func([]byte) (int, any) { return 200, map[string]any{"sources": sources, "sources_links": []any{}} },
		"POST /v1/sources": func(body []byte) (int, any) {
			var n map[string]any
			if err := json.Unmarshal(body, &n); err != nil {
				t.Error(err)
			}
			made := map[string]any{"id": "s1", "name": n["name"], "url": n["url"], "webhook_url": "https://kiln.example.test/v1/webhooks/s1"}
			sources = append(sources, made)
			shown := map[string]any{"secret": "whsec_hush"}
			maps.Copy(shown, made)
			return 202, shown
		},
	})
	gitlab = serve(map[string]func([]byte) (int, any){
		"GET /api/v4/projects/team%2Fimages": func([]byte) (int, any) {
			return 200, map[string]any{"id": 7, "path": "images", "default_branch": "main", "http_url_to_repo": "https://gitlab.example.test/team/images.git"}
		},
		"GET /api/v4/projects/7/repository/tree": func([]byte) (int, any) { return 200, []map[string]string{{"name": "recipes"}} },
		"GET /api/v4/projects/7/hooks":           func([]byte) (int, any) { return 200, hooks },
		"POST /api/v4/projects/7/hooks": func(body []byte) (int, any) {
			var h map[string]any
			if err := json.Unmarshal(body, &h); err != nil || h["token"] != "whsec_hush" {
				t.Errorf("%s", body)
			}
			hooks = append(hooks, h)
			return 201, h
		},
	})
	jenkins = serve(map[string]func([]byte) (int, any){
		"GET /job/kiln-images/config.xml": func([]byte) (int, any) {
			if job == "" {
				return 404, ""
			}
			return 200, job
		},
		"POST /createItem": func(body []byte) (int, any) { job = string(body); return 200, "" },
	})
	return kiln, gitlab, jenkins
}

func TestBootstrapOfGitLabAndJenkins(t *testing.T) {
	cloud, err := pocket.Start(context.WithoutCancel(t.Context()), pocket.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	for name, value := range map[string]string{"OS_AUTH_URL": cloud.AuthURL(), "OS_USERNAME": "admin", "OS_PASSWORD": "kiln", "OS_PROJECT_NAME": "admin", "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kiln, gitlab, jenkins := doubles(t)
	args := []string{"--config-file", write("kiln.conf", ""), "bootstrap", "--endpoint", kiln + "/v1", "--starter", dir,
		"--gitlab", gitlab, "--gitlab-token-file", write("gitlab", "glpat-hush\n"), "--gitlab-project", "team/images",
		"--jenkins", jenkins, "--jenkins-user", "ada", "--jenkins-token-file", write("jenkins", "11hush\n")}
	out, err := run(t, args...)
	if err != nil || out != "made the source images\nmade the webhook to https://kiln.example.test/v1/webhooks/s1\nmade the pipeline job kiln-images\n" {
		t.Fatalf("%q %v", out, err)
	}
	if out, err = run(t, args...); err != nil || out != "nothing to do\nnothing to do\n" {
		t.Errorf("again: %q %v", out, err)
	}
	if _, err = run(t, append(args, "--gitlab-token-file", write("empty", " \n"))...); err == nil || !strings.Contains(err.Error(), "gitlab-token-file") {
		t.Errorf("an empty token: %v", err)
	}
}
