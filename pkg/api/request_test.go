package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/api"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func TestDocumentsNeedNoToken(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/", "/v1", "/v1/"} {
		a := w.want(http.StatusOK, "", http.MethodGet, path, nil)
		if !strings.Contains(string(a.body), `"max_version":"1.1"`) || !strings.Contains(string(a.body), `"href":"http://example.com/v1/"`) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	a := w.want(http.StatusOK, "", http.MethodGet, "/v1/openapi.yaml", nil)
	if string(a.body) != string(api.Specification) {
		t.Error("the specification that is served is another one")
	}
	public := newWorld(t, func(d *api.Deps) { d.PublicURL = "https://kiln.example.org/" })
	if a := public.do("", http.MethodGet, "/", nil); !strings.Contains(string(a.body), `"href":"https://kiln.example.org/v1/"`) {
		t.Errorf("links do not take the public address: %s", a.body)
	}
}

func TestMicroversions(t *testing.T) {
	w := newWorld(t)
	for header, want := range map[string]int{
		"":                                 200,
		"provisioning 1.1":                 200,
		"provisioning latest":              200,
		"compute 2.90, provisioning 1.1":   200,
		"compute 2.90":                     200,
		"provisioning 1.2":                 406,
		"provisioning 0.9":                 406,
		"provisioning 2.0":                 406,
		"provisioning one":                 400,
		"provisioning 1.-1":                400,
		"provisioning":                     400,
		"provisioning 1.1 1.1":             400,
		"provisioning 99999999999999999.1": 400,
	} {
		a := w.do("reader@p", http.MethodGet, "/v1/builds", nil, "OpenStack-API-Version", header)
		if a.status != want || a.header.Get("OpenStack-API-Version") != "provisioning 1.1" || !strings.Contains(a.header.Get("Vary"), "OpenStack-API-Version") {
			t.Errorf("%q: %d %v, want %d", header, a.status, a.header, want)
		}
		if want != 406 {
			continue
		}
		var f faults
		a.into(t, &f)
		if f.Errors[0].MinVersion != "1.1" || f.Errors[0].MaxVersion != "1.1" {
			t.Errorf("%q: 406 does not name the versions: %s", header, a.body)
		}
	}
}

func TestBadRequestsNameThePlace(t *testing.T) {
	w := newWorld(t)
	w.seed()
	big := `{"name":"` + strings.Repeat("x", api.MaxBody) + `"}`
	for name, c := range map[string]struct {
		token, method, path string
		body                any
		status              int
		code, field         string
	}{
		"no token":         {"", "GET", "/v1/builds", nil, 401, "kiln.auth.token_missing", ""},
		"forged token":     {"forged", "GET", "/v1/builds", nil, 401, "kiln.auth.token_invalid", ""},
		"keystone away":    {"away", "GET", "/v1/builds", nil, 503, "kiln.keystone.away", ""},
		"no path":          {"", "GET", "/v1/nothing", nil, 404, "kiln.request.path", ""},
		"no method":        {"", "PUT", "/v1/builds", nil, 405, "kiln.request.method", ""},
		"unknown query":    {"reader@p", "GET", "/v1/builds?colour=red", nil, 400, "kiln.request.unknown_query", "colour"},
		"query on a show":  {"reader@p", "GET", "/v1/builds/build-1?limit=1", nil, 400, "kiln.request.unknown_query", "limit"},
		"query twice":      {"reader@p", "GET", "/v1/builds?state=a&state=b", nil, 400, "kiln.request.query", "state"},
		"query broken":     {"reader@p", "GET", "/v1/builds?state=%zz", nil, 400, "kiln.request.query", ""},
		"limit zero":       {"reader@p", "GET", "/v1/builds?limit=0", nil, 400, "kiln.request.query", "limit"},
		"limit text":       {"reader@p", "GET", "/v1/builds?limit=ten", nil, 400, "kiln.request.query", "limit"},
		"sort field":       {"reader@p", "GET", "/v1/builds?sort=colour", nil, 400, "kiln.request.sort", "sort"},
		"sort way":         {"reader@p", "GET", "/v1/builds?sort=state:up", nil, 400, "kiln.request.sort", "sort"},
		"marker":           {"reader@p", "GET", "/v1/builds?marker=nosuch", nil, 400, "kiln.query.marker", "marker"},
		"all_projects":     {"admin@p", "GET", "/v1/builds?all_projects=yes", nil, 400, "kiln.request.query", "all_projects"},
		"too large":        {"member@p", "POST", "/v1/sources", big, 413, "kiln.request.too_large", ""},
		"unknown field":    {"member@p", "POST", "/v1/sources", `{"name":"a","colour":"red"}`, 400, "kiln.request.unknown_field", "colour"},
		"wrong type":       {"member@p", "POST", "/v1/builds", `{"recipe_id":"x","force":"yes"}`, 400, "kiln.request.type", "force"},
		"nested type":      {"admin@p", "POST", "/v1/clusters", `{"name":"a","stores":[{"name":7}]}`, 400, "kiln.request.type", "stores.name"},
		"nodes":            {"member@p", "POST", "/v1/copies", `{"image_id":"image-1","cluster":"rack-1","nodes":"some"}`, 400, "kiln.request.type", "nodes"},
		"no JSON":          {"member@p", "POST", "/v1/sources", "{\n\"name\": oops}", 400, "kiln.request.body", ""},
		"half JSON":        {"member@p", "POST", "/v1/sources", `{"name":`, 400, "kiln.request.body", ""},
		"two objects":      {"member@p", "POST", "/v1/sources", `{"name":"a"} {}`, 400, "kiln.request.body", ""},
		"a list":           {"member@p", "POST", "/v1/sources", `[]`, 400, "kiln.request.body", ""},
		"null":             {"member@p", "POST", "/v1/sources", `null`, 400, "kiln.request.body", ""},
		"empty":            {"member@p", "POST", "/v1/sources", nil, 400, "kiln.request.body", ""},
		"body on a show":   {"reader@p", "GET", "/v1/builds/build-1", `{"a":1}`, 400, "kiln.request.unknown_field", "a"},
		"system creates":   {"system", "POST", "/v1/sources", `{}`, 403, "kiln.policy.scope", ""},
		"a panic":          {"panic", "GET", "/v1/builds", nil, 500, "kiln.internal", ""},
		"an unknown fault": {"broken", "GET", "/v1/builds", nil, 500, "kiln.internal", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.do(c.token, c.method, c.path, c.body)
			var f faults
			a.into(t, &f)
			e := f.Errors[0]
			if a.status != c.status || e.Status != c.status || e.Code != c.code || e.Where.Field != c.field || e.Title == "" || e.Detail == "" {
				t.Fatalf("%d %s, want %d %s at %q", a.status, a.body, c.status, c.code, c.field)
			}
			if e.RequestID != a.header.Get("X-Openstack-Request-Id") || !regexp.MustCompile(`^req-[0-9a-f-]{36}$`).MatchString(e.RequestID) {
				t.Errorf("request id %q, header %q", e.RequestID, a.header.Get("X-Openstack-Request-Id"))
			}
			switch c.status {
			case 401:
				if a.header.Get("WWW-Authenticate") != `Keystone uri="http://keystone.example.org/v3"` {
					t.Errorf("WWW-Authenticate: %q", a.header.Get("WWW-Authenticate"))
				}
			case 405:
				if !strings.Contains(a.header.Get("Allow"), "POST") {
					t.Errorf("Allow: %q", a.header.Get("Allow"))
				}
			case 503:
				if a.header.Get("Retry-After") != "7" {
					t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
				}
			}
		})
	}
}

func TestTheCauseOfA5xxIsInTheLogAlone(t *testing.T) {
	w := newWorld(t)
	for token, secret := range map[string]string{"panic": "secret of the stack", "broken": "hunter2", "away": "unexpected EOF"} {
		a := w.do(token, http.MethodGet, "/v1/builds", nil)
		if strings.Contains(string(a.body), secret) {
			t.Errorf("%s: the user reads the cause: %s", token, a.body)
		}
		found := false
		for line := range strings.SplitSeq(w.log.String(), "\n") {
			found = found || strings.Contains(line, secret) && strings.Contains(line, a.header.Get("X-Openstack-Request-Id"))
		}
		if !found {
			t.Errorf("%s: the log does not have the cause with the request id:\n%s", token, w.log)
		}
	}
}

func TestRequestIDsAreInTheLog(t *testing.T) {
	w := newWorld(t)
	global := "req-11111111-2222-3333-4444-555555555555"
	a := w.do("reader@p", http.MethodGet, "/v1/builds", nil, "X-Openstack-Request-Id", global)
	own := a.header.Get("X-Openstack-Request-Id")
	var line map[string]any
	if err := json.Unmarshal([]byte(w.log.String()), &line); err != nil {
		t.Fatal(err)
	}
	if own == global || line["request_id"] != own || line["global_request_id"] != global || line["user_id"] != "user-reader" || line["project_id"] != "p" || line["status"] != 200.0 {
		t.Errorf("%s: %v", own, line)
	}
	w.do("reader@p", http.MethodGet, "/v1/builds", nil, "X-Openstack-Request-Id", "req-forged\nline")
	if strings.Contains(w.log.String(), "forged") {
		t.Error("an id that is none came into the log")
	}
}

func TestADeadlineEndsARequest(t *testing.T) {
	w := newWorld(t, func(d *api.Deps) { d.Timeout = 10 * time.Millisecond })
	a := w.do("slow", http.MethodGet, "/v1/builds", nil)
	var f faults
	a.into(t, &f)
	if a.status != http.StatusGatewayTimeout || f.Errors[0].Code != "kiln.timeout" || f.Errors[0].Detail == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAClientThatGoesAwayIs499(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/builds", nil)
	r.Header.Set("X-Auth-Token", "slow")
	w.http.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(w.log.String(), `"status":499`) || strings.Contains(w.log.String(), `"level":"error"`) {
		t.Errorf("the log: %s", w.log)
	}
}

func TestHealth(t *testing.T) {
	well := api.Check{Name: "database", Run: func(context.Context) error { return nil }}
	ill := api.Check{Name: "bus", Run: func(context.Context) error {
		return errs.Wrap(context.Canceled, errs.Unavailable, "kiln.bus.away", "RabbitMQ is away")
	}}
	green := newWorld(t, func(d *api.Deps) { d.Checks = []api.Check{well} })
	red := newWorld(t, func(d *api.Deps) { d.Checks = []api.Check{well, ill} })
	if a := green.want(http.StatusOK, "", http.MethodGet, "/healthcheck", nil); !strings.Contains(string(a.body), `"class":"database"`) {
		t.Errorf("%s", a.body)
	}
	if a := green.do("", http.MethodGet, "/healthcheck", nil, "Accept", "text/plain"); string(a.body) != "OK\n" {
		t.Errorf("%q", a.body)
	}
	a := red.want(http.StatusServiceUnavailable, "", http.MethodGet, "/healthcheck", nil)
	if !strings.Contains(string(a.body), "RabbitMQ is away") || strings.Contains(string(a.body), "canceled") || a.header.Get("Retry-After") == "" {
		t.Errorf("%s", a.body)
	}
	red.want(http.StatusServiceUnavailable, "", http.MethodHead, "/healthcheck", nil)
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.do("reader@p", http.MethodGet, "/v1/builds/build-1", nil)
	w.do("reader@p", http.MethodGet, "/v1/some/strange/path", nil)
	text := string(w.want(http.StatusOK, "", http.MethodGet, "/metrics", nil).body)
	for _, line := range []string{
		`kiln_api_requests_total{method="GET",route="/v1/builds/:id",status="200"} 1`,
		`kiln_api_requests_total{method="GET",route="none",status="404"} 1`,
		`kiln_api_request_seconds_count{method="GET",route="/v1/builds/:id"} 1`,
		`kiln_jobs_open{kind="build",state="pending"} 1`,
		`kiln_jobs_oldest_pending_timestamp_seconds 1.772712e+09`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("/metrics lacks %s:\n%s", line, text)
		}
	}
	api.New(w.deps) // a second one in the process has metrics of its own, and no panic
}

func TestListsArePaged(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"e", "a", "d", "b", "c"} {
		w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/families", map[string]any{"name": name})
	}
	var names []string
	next := "/v1/families?limit=2&sort=name:desc"
	for pages := 0; next != ""; pages++ {
		var p struct {
			Families []struct{ Name string }
			Links    []struct{ Rel, Href string } `json:"families_links"`
		}
		w.want(http.StatusOK, "reader@p", http.MethodGet, next, nil).into(t, &p)
		for _, f := range p.Families {
			names = append(names, f.Name)
		}
		next = ""
		if len(p.Links) > 0 {
			if p.Links[0].Rel != "next" || !strings.HasPrefix(p.Links[0].Href, "http://example.com/v1/families?") {
				t.Fatalf("%+v", p.Links)
			}
			next = strings.TrimPrefix(p.Links[0].Href, "http://example.com")
		}
		if pages > 5 {
			t.Fatal("the pages do not end")
		}
	}
	if strings.Join(names, "") != "edcba" {
		t.Errorf("%v", names)
	}
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/families?limit=5", nil)
	if !strings.Contains(string(a.body), `"families_links":[]`) {
		t.Errorf("a full last page promises another one: %s", a.body)
	}
}

// Every filter and every sort key that openapi.yaml promises is one that the store answers.
func TestEveryKeyOfEveryList(t *testing.T) {
	w := newWorld(t)
	ids := w.seed()
	router, err := specification()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, rule := range []string{"sources", "recipes", "builds", "families", "families/{name}/versions", "images", "advisories", "upgrades", "upgrades/plans", "clusters", "copies", "nodes", "workloads", "ledger", "jobs"} {
		path := ids.fill("/v1/" + rule)
		token := "admin@p"
		found, _, err := router.FindRoute(httptest.NewRequest(http.MethodGet, path, nil))
		if err != nil {
			t.Fatal(err)
		}
		all := "?"
		if strings.HasPrefix(rule, "copies") {
			all = "?all_projects=true&"
		}
		for _, p := range found.Operation.Parameters {
			switch name := p.Value.Name; {
			case p.Value.In != "query" || name == "marker" || name == "all_projects" || name == "limit":
			case name == "sort":
				_, keys, _ := strings.Cut(p.Value.Description, ": ")
				for key := range strings.SplitSeq(keys, ", ") {
					w.want(http.StatusOK, token, http.MethodGet, path+all+"sort="+key+":desc", nil)
					asked++
				}
			default:
				value := "no-such-value"
				if p.Value.Schema.Value.Type.Is("boolean") {
					value = "true" // of which there is none, too
				}
				a := w.want(http.StatusOK, token, http.MethodGet, path+all+name+"="+value, nil)
				if strings.Contains(string(a.body), `"id"`) {
					t.Errorf("%s: the filter %s does nothing: %s", path, name, a.body)
				}
				asked++
			}
		}
	}
	if asked < 60 {
		t.Errorf("only %d questions were asked", asked)
	}
}
