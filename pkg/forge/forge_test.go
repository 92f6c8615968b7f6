package forge_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/forge"
)

// double is a server made from the API documents: it knows a few paths, checks what is sent, and notes the writes.
type double struct {
	t      *testing.T
	writes []string
	routes map[string]func(w http.ResponseWriter, r *http.Request, body []byte)
	check  func(r *http.Request) bool // credentials
}

func (d *double) start() *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			d.t.Error(err)
		}
		path := r.URL.EscapedPath()
		if !d.check(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method != http.MethodGet {
			d.writes = append(d.writes, r.Method+" "+path)
		}
		serve, ok := d.routes[r.Method+" "+path]
		if !ok {
			http.Error(w, `{"message":"404 Not Found"}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		serve(w, r, body)
	}))
	d.t.Cleanup(s.Close)
	return s
}

// kiln keeps one source, as the API would.
type kiln struct {
	source  *forge.Source
	renewed int
}

func (k *kiln) FindSource(_ context.Context, name string) (*forge.Source, error) {
	if k.source == nil || k.source.Name != name {
		return nil, nil
	}
	s := *k.source
	s.Secret = ""
	return &s, nil
}

func (k *kiln) CreateSource(_ context.Context, n build.NewSource) (forge.Source, error) {
	k.source = &forge.Source{Source: build.Source{ID: "s1", Name: n.Name, URL: n.URL, Ref: n.Ref}, WebhookURL: "https://kiln.example.test/v1/webhooks/s1", Secret: "whsec_1"}
	return *k.source, nil
}

func (k *kiln) RenewSecret(context.Context, string) (forge.Source, error) {
	k.renewed++
	s := *k.source
	s.Secret = "whsec_2"
	return s, nil
}

// gitlab is a GitLab with the group team and, after it was made, the project team/images.
type gitlab struct {
	double
	project map[string]any
	files   map[string]string
	keys    []map[string]any
	hooks   []map[string]any
}

func newGitLab(t *testing.T) *gitlab {
	g := &gitlab{files: map[string]string{}}
	answer := func(w http.ResponseWriter, status int, v any) {
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	decode := func(body []byte) map[string]any {
		var m map[string]any
		if err := json.Unmarshal(body, &m); err != nil {
			t.Errorf("%v: %s", err, body)
		}
		return m
	}
	missing := func(w http.ResponseWriter) {
		answer(w, http.StatusNotFound, map[string]string{"message": "404 Not Found"})
	}
	g.double = double{t: t, check: func(r *http.Request) bool { return r.Header.Get("PRIVATE-TOKEN") == "glpat-1" }}
	type handler = func(w http.ResponseWriter, r *http.Request, body []byte)
	g.routes = map[string]handler{
		"GET /api/v4/user": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			answer(w, 200, map[string]any{"id": 1, "username": "ada"})
		},
		"GET /api/v4/namespaces/team": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			answer(w, 200, map[string]any{"id": 42, "path": "team", "kind": "group"})
		},
		"GET /api/v4/projects/team%2Fimages": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			if g.project == nil {
				missing(w)
				return
			}
			answer(w, 200, g.project)
		},
		"POST /api/v4/projects": func(w http.ResponseWriter, _ *http.Request, body []byte) {
			in := decode(body)
			if in["path"] != "images" || in["namespace_id"] != 42.0 || in["default_branch"] != "main" {
				t.Errorf("the project is asked for as %s", body)
			}
			g.project = map[string]any{"id": 7, "path": "images", "path_with_namespace": "team/images", "visibility": in["visibility"], "default_branch": nil,
				"http_url_to_repo": "https://gitlab.example.test/team/images.git", "ssh_url_to_repo": "git@gitlab.example.test:team/images.git"}
			answer(w, 201, g.project)
		},
		"GET /api/v4/projects/7/repository/tree": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			if len(g.files) == 0 {
				answer(w, 404, map[string]string{"message": "404 Tree Not Found"})
				return
			}
			answer(w, 200, []map[string]string{{"name": "recipes", "type": "tree", "path": "recipes"}})
		},
		"POST /api/v4/projects/7/repository/commits": func(w http.ResponseWriter, _ *http.Request, body []byte) {
			var in struct {
				Branch  string `json:"branch"`
				Message string `json:"commit_message"`
				Actions []struct{ Action, FilePath, Encoding, Content string }
			}
			var raw struct {
				Actions []map[string]string `json:"actions"`
			}
			if json.Unmarshal(body, &in) != nil || json.Unmarshal(body, &raw) != nil || in.Branch != "main" || in.Message == "" {
				t.Errorf("the commit is asked for as %s", body)
			}
			for _, a := range raw.Actions {
				data, err := base64.StdEncoding.DecodeString(a["content"])
				if a["action"] != "create" || a["encoding"] != "base64" || err != nil {
					t.Errorf("an action is %v", a)
				}
				g.files[a["file_path"]] = string(data)
			}
			answer(w, 201, map[string]string{"id": "c1"})
		},
		"GET /api/v4/projects/7/deploy_keys": func(w http.ResponseWriter, _ *http.Request, _ []byte) { answer(w, 200, g.keys) },
		"POST /api/v4/projects/7/deploy_keys": func(w http.ResponseWriter, _ *http.Request, body []byte) {
			in := decode(body)
			if in["can_push"] != false || in["title"] == "" {
				t.Errorf("the key is added as %s", body)
			}
			g.keys = append(g.keys, in)
			answer(w, 201, in)
		},
		"GET /api/v4/projects/7/hooks": func(w http.ResponseWriter, _ *http.Request, _ []byte) { answer(w, 200, g.hooks) },
		"POST /api/v4/projects/7/hooks": func(w http.ResponseWriter, _ *http.Request, body []byte) {
			in := decode(body)
			if in["push_events"] != true || in["enable_ssl_verification"] != true {
				t.Errorf("the hook is asked for as %s", body)
			}
			g.hooks = append(g.hooks, in)
			answer(w, 201, map[string]any{"id": 9, "url": in["url"]})
		},
	}
	return g
}

func TestGitLabIsSetUpOnce(t *testing.T) {
	g, k := newGitLab(t), &kiln{}
	server := g.start()
	run := forge.GitLab{URL: server.URL, Token: "glpat-1", Project: "team/images", Kiln: k, Starter: fstest.MapFS{
		"recipes/base.yaml": {Data: []byte("name: base\n")}, "files/motd": {Data: []byte{0, 255}},
	}}
	done, err := run.Bootstrap(t.Context())
	if err != nil || len(done) != 4 || g.project["visibility"] != "public" {
		t.Fatalf("%q %v", done, err)
	}
	if g.files["recipes/base.yaml"] != "name: base\n" || g.files["files/motd"] != "\x00\xff" || len(g.hooks) != 1 || g.hooks[0]["token"] != "whsec_1" || g.hooks[0]["url"] != k.source.WebhookURL {
		t.Errorf("%q %v", g.files, g.hooks)
	}
	if k.source.Name != "images" || k.source.URL != "https://gitlab.example.test/team/images.git" || k.source.Ref != "main" {
		t.Errorf("%+v", k.source)
	}
	writes := len(g.writes)
	if done, err = run.Bootstrap(t.Context()); err != nil || len(done) != 0 || len(g.writes) != writes {
		t.Errorf("the second run did %q %v: %v", done, g.writes[writes:], err)
	}
	// The webhook was removed by hand: it comes back with a new secret, and nothing else is touched.
	g.hooks = nil
	if done, err = run.Bootstrap(t.Context()); err != nil || len(done) != 2 || k.renewed != 1 || g.hooks[0]["token"] != "whsec_2" {
		t.Errorf("%q %v", done, err)
	}
}

func TestGitLabPrivateProject(t *testing.T) {
	g, k := newGitLab(t), &kiln{}
	run := forge.GitLab{URL: g.start().URL, Token: "glpat-1", Project: "team/images", Kiln: k, DeployKey: "ssh-ed25519 AAAA worker@kiln\n", Starter: fstest.MapFS{"a": {Data: []byte("b")}}}
	for n := range 2 {
		if _, err := run.Bootstrap(t.Context()); err != nil || len(g.keys) != 1 || g.project["visibility"] != "private" || k.source.URL != "git@gitlab.example.test:team/images.git" {
			t.Fatalf("run %d: %v %v %+v", n, err, g.keys, k.source)
		}
	}
}

func TestGitLabRefusals(t *testing.T) {
	full := fstest.MapFS{"a": {Data: []byte("b")}}
	for name, c := range map[string]struct {
		run  forge.GitLab
		code string
	}{
		"a wrong token": {forge.GitLab{Token: "other", Project: "team/images", Kiln: &kiln{}, Starter: full}, "kiln.gitlab.refused"},
		"no group":      {forge.GitLab{Token: "glpat-1", Project: "images", Kiln: &kiln{}, Starter: full}, "kiln.gitlab.project"},
		"no recipes":    {forge.GitLab{Token: "glpat-1", Project: "team/images", Kiln: &kiln{}, Starter: fstest.MapFS{}}, "kiln.gitlab.starter"},
		"another's source": {forge.GitLab{Token: "glpat-1", Project: "team/images", Starter: full,
			Kiln: &kiln{source: &forge.Source{Source: build.Source{Name: "images", URL: "https://else.example.test"}}}}, "kiln.gitlab.source"},
	} {
		c.run.URL = newGitLab(t).start().URL
		if _, err := c.run.Bootstrap(t.Context()); errs.CodeOf(err) != c.code || strings.Contains(err.Error(), "glpat") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJenkinsJob(t *testing.T) {
	var config string
	d := &double{t: t, check: func(r *http.Request) bool {
		user, token, _ := r.BasicAuth()
		return user == "ada" && token == "11aa"
	}}
	write := func(w http.ResponseWriter, r *http.Request, body []byte) {
		session, err := r.Cookie("JSESSIONID")
		if r.Header.Get("Jenkins-Crumb") != "c0ffee" || err != nil || session.Value != "one" {
			w.WriteHeader(http.StatusForbidden) // "No valid crumb was included in the request"
			return
		}
		if r.Header.Get("Content-Type") != "application/xml" || xml.Unmarshal(body, new(struct{ XMLName xml.Name })) != nil {
			t.Errorf("%s: %s", r.Header, body)
		}
		config = string(body)
	}
	d.routes = map[string]func(http.ResponseWriter, *http.Request, []byte){
		"GET /crumbIssuer/api/json": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "one", Path: "/"})
			_, _ = io.WriteString(w, `{"crumb":"c0ffee","crumbRequestField":"Jenkins-Crumb"}`)
		},
		"GET /job/kiln-images/config.xml": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			if config == "" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = io.WriteString(w, config)
		},
		"POST /createItem": func(w http.ResponseWriter, r *http.Request, body []byte) {
			if r.URL.Query().Get("name") != "kiln-images" {
				t.Errorf("%s", r.URL)
			}
			write(w, r, body)
		},
		"POST /job/kiln-images/config.xml": write,
	}
	run := forge.Jenkins{URL: d.start().URL + "/", User: "ada", Token: "11aa", Kiln: "https://kiln.example.test", Auth: "https://keystone.example.test/v3"}
	done, err := run.Bootstrap(t.Context())
	if err != nil || len(done) != 1 || len(d.writes) != 1 {
		t.Fatalf("%q %v %v", done, d.writes, err)
	}
	for _, part := range []string{"CpsFlowDefinition", "kiln --format json build create --source", "KILN_ENDPOINT = &#39;https://kiln.example.test&#39;", "<name>RECIPE</name>", "<defaultValue>images</defaultValue>"} {
		if !strings.Contains(config, part) {
			t.Errorf("the job has no %s:\n%s", part, config)
		}
	}
	if done, err = run.Bootstrap(t.Context()); err != nil || len(done) != 0 || len(d.writes) != 1 {
		t.Errorf("the second run did %q %v: %v", done, d.writes, err)
	}
	run.Kiln = "https://other.example.test"
	if done, err = run.Bootstrap(t.Context()); err != nil || len(done) != 1 || !strings.Contains(config, "other.example.test") {
		t.Errorf("a change: %q %v", done, err)
	}
	config = "<project>somebody else's</project>"
	if _, err = run.Bootstrap(t.Context()); errs.CodeOf(err) != "kiln.jenkins.job" {
		t.Errorf("a job of others: %v", err)
	}
	run.Token = "wrong"
	if _, err = run.Bootstrap(t.Context()); errs.CodeOf(err) != "kiln.jenkins.refused" {
		t.Errorf("a wrong token: %v", err)
	}
}
