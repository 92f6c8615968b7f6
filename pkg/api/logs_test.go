package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

type logPage struct {
	Logs  []job.LogHit
	Links []struct{ Href string } `json:"logs_links"`
}

func (w *world) logs(token, query string) logPage {
	w.t.Helper()
	var p logPage
	w.must(json.Unmarshal(w.want(http.StatusOK, token, http.MethodGet, "/v1/logs"+query, nil).body, &p))
	return p
}

func TestLogsAreSearched(t *testing.T) {
	w := newWorld(t)
	w.seed()
	ctx := t.Context()
	w.must(w.db.AddJob(ctx, job.Job{ID: "job-other", Kind: job.Build, Queue: job.WorkerQueue, ProjectID: "q", Payload: []byte("{}"), Resource: "builds/q", CreatedAt: noon, UpdatedAt: noon}))
	w.must(w.db.AddJob(ctx, job.Job{ID: "job-new", Kind: job.SyncSource, Queue: job.WorkerQueue, ProjectID: "p", Payload: []byte("{}"), Resource: "sources/s", CreatedAt: noon, UpdatedAt: noon}))
	var lines []job.LogLine
	for i := range 5 {
		lines = append(lines, job.LogLine{Seq: int64(i + 1), At: noon.Add(time.Duration(i) * time.Minute), Level: "info", Text: fmt.Sprintf("Unpacking NGINX_%d 100%%", i)})
	}
	w.must(w.db.AppendJobLog(ctx, "job-old", lines))
	w.must(w.db.AppendJobLog(ctx, "job-other", lines))
	w.must(w.db.AppendJobLog(ctx, "job-new", []job.LogLine{{Seq: 1, At: noon.Add(150 * time.Second), Level: "warning", Text: "nginx.yaml is faulty"}}))
	seqs := func(p logPage) string {
		var out []string
		for _, h := range p.Logs {
			out = append(out, fmt.Sprintf("%s:%d", h.JobID, h.Seq))
		}
		return strings.Join(out, " ")
	}
	for query, want := range map[string]string{
		"?text=nginx":                               "job-old:5 job-old:4 job-new:1 job-old:3 job-old:2 job-old:1",
		"?text=nginx_3":                             "job-old:4", // an underline is one, and not any character
		"?text=100%25":                              "job-old:5 job-old:4 job-old:3 job-old:2 job-old:1",
		"?text=nginx&build_id=build-1&limit=2":      "job-old:5 job-old:4",
		"?job_id=job-new":                           "job-new:1",
		"?job_id=job-other":                         "",
		"?text=nothing":                             "",
		"?text=nginx&since=" + at(3*time.Minute):    "job-old:5 job-old:4",
		"?until=" + at(time.Minute):                 "job-old:1",
		"?since=" + at(-time.Hour) + "&text=faulty": "job-new:1",
	} {
		if got := seqs(w.logs("member@p", query)); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if hit := w.logs("member@p", "?text=faulty").Logs[0]; hit.Kind != job.SyncSource || hit.Resource != "sources/s" || hit.Level != "warning" || hit.Text != "nginx.yaml is faulty" {
		t.Errorf("hit %+v", hit)
	}
	if got := seqs(w.logs("admin@p", "?text=nginx_0&all_projects=true")); got != "job-other:1 job-old:1" {
		t.Errorf("of all projects: %q", got)
	}
	// Page by page, each line once.
	var all []string
	for query := "?text=nginx&limit=4"; query != ""; {
		p := w.logs("member@p", query)
		all = append(all, seqs(p))
		query = ""
		for _, l := range p.Links {
			u, err := url.Parse(l.Href)
			w.must(err)
			query = "?" + u.RawQuery
		}
	}
	if got := strings.Join(all, " | "); got != "job-old:5 job-old:4 job-new:1 job-old:3 | job-old:2 job-old:1" {
		t.Errorf("pages %q", got)
	}
	w.now.Add(int64(30 * 24 * time.Hour))
	if got := seqs(w.logs("member@p", "?text=nginx")); got != "" {
		t.Errorf("a month later without a time: %q", got)
	}
	if got := seqs(w.logs("member@p", "?text=nginx_1&build_id=build-1")); got != "job-old:2" {
		t.Errorf("a month later in one build: %q", got)
	}
	for query, field := range map[string]string{"?since=yesterday": "since", "?build_id=nobody": "build_id", "?marker=x": "marker",
		"?text=" + strings.Repeat("x", 201): "text", "?build_id=build-1&job_id=job-new": "job_id"} {
		a := w.want(http.StatusBadRequest, "member@p", http.MethodGet, "/v1/logs"+query, nil)
		if !strings.Contains(string(a.body), `"Field":"`+field) && !strings.Contains(string(a.body), `"field":"`+field) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	w.want(http.StatusBadRequest, "member@q", http.MethodGet, "/v1/logs?build_id=build-1", nil) // as if it were not there
}

func at(d time.Duration) string { return url.QueryEscape(noon.Add(d).Format(time.RFC3339)) }

// The log of a build is that of its job, and grows while the job runs.
func TestBuildLogGrows(t *testing.T) {
	w := newWorld(t)
	w.seed()
	read := func(after int64) (lines []job.LogLine, last int64, state job.State) {
		var got struct {
			Log     []job.LogLine
			LastSeq int64 `json:"last_seq"`
			State   job.State
		}
		w.must(json.Unmarshal(w.want(http.StatusOK, "reader@p", http.MethodGet, fmt.Sprintf("/v1/builds/build-1/log?after_seq=%d", after), nil).body, &got))
		return got.Log, got.LastSeq, got.State
	}
	if lines, last, state := read(0); len(lines) != 0 || last != 0 || state != job.Pending {
		t.Errorf("before it runs: %v, %d, %s", lines, last, state)
	}
	j, err := w.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "w1", noon, noon.Add(time.Minute))
	w.must(err)
	w.must(w.db.AppendJobLog(t.Context(), j.ID, []job.LogLine{{Seq: 7, At: noon, Level: "info", Text: "one"}}))
	lines, last, state := read(0)
	if len(lines) != 1 || last != 7 || state != job.Running {
		t.Errorf("while it runs: %v, %d, %s", lines, last, state)
	}
	w.must(w.db.AppendJobLog(t.Context(), j.ID, []job.LogLine{{Seq: 8, At: noon, Level: "info", Text: "two"}}))
	if lines, _, _ := read(last); len(lines) != 1 || lines[0].Text != "two" {
		t.Errorf("what came since: %v", lines)
	}
	w.want(http.StatusNotFound, "reader@q", http.MethodGet, "/v1/builds/build-1/log", nil)
}

func TestPlanAndSchema(t *testing.T) {
	w := newWorld(t)
	w.seed()
	since := w.since()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/recipes/recipe-1/plan", nil)
	var j job.Job
	w.must(json.Unmarshal(a.body, &j))
	if j.Kind != job.Plan || j.Resource != "recipes/recipe-1" || strings.Join(j.Needs, " ") != "builder=native" || !strings.HasSuffix(a.header.Get("Location"), "/v1/jobs/"+j.ID) {
		t.Errorf("job %+v at %s", j, a.header.Get("Location"))
	}
	if got := since(); strings.Contains(got, "build.") {
		t.Errorf("a plan built: %s", got)
	}
	w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/recipes/recipe-bad/plan", nil)
	w.want(http.StatusForbidden, "reader@p", http.MethodPost, "/v1/recipes/recipe-1/plan", nil)
	var got, want any
	schema, err := recipe.Schema()
	w.must(err)
	w.must(json.Unmarshal(schema, &want))
	w.must(json.Unmarshal(w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/recipes/schema", nil).body, &got))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("schema %v", got)
	}
}

func TestBuildsAreListedByWhatLedToThem(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/builds", map[string]any{"recipe_id": "recipe-1"})
	var b struct {
		ID, Commit, Trigger, Builder, Reason string
		UserID                               string `json:"user_id"`
		Needs                                []string
	}
	w.must(json.Unmarshal(a.body, &b))
	if b.Trigger != "person" || b.UserID == "" || b.Builder != "native" || b.Reason == "" || strings.Join(b.Needs, " ") != "builder=native" {
		t.Errorf("build %+v", b)
	}
	for query, want := range map[string]int{
		"trigger=person": 1, "trigger=push": 0, "user_id=" + b.UserID: 1, "user_id=nobody": 0, "commit=" + b.Commit: 1, "builder=native": 1, "builder=packer": 0, "worker=w9": 0,
	} {
		var page struct{ Builds []struct{ ID string } }
		w.must(json.Unmarshal(w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/builds?"+query, nil).body, &page))
		if len(page.Builds) != want || want == 1 && page.Builds[0].ID != b.ID {
			t.Errorf("%s: %+v", query, page.Builds)
		}
	}
}
