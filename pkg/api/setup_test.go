package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/api"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// world is one API with a real store, a fake Keystone, a fake clock, and every request and answer held against
// openapi.yaml.
type world struct {
	t    *testing.T
	db   *store.DB
	http http.Handler
	log  *lines
	deps api.Deps
	now  *atomic.Int64
}

var noon = time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, change ...func(*api.Deps)) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kiln.db")
	fresh, err := migrated()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := policy.New()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, log: &lines{}, now: &atomic.Int64{}}
	w.now.Store(noon.UnixNano())
	log := logrus.New()
	log.SetOutput(w.log)
	log.SetFormatter(&logrus.JSONFormatter{})
	var ids atomic.Int64
	w.deps = api.Deps{
		Store: db, Auth: keystone{}, Policy: e, AuthURI: "http://keystone.example.org/v3", Log: log, Glance: glance{},
		Now:   func() time.Time { return time.Unix(0, w.now.Add(int64(time.Millisecond))).UTC() },
		NewID: func() string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", ids.Add(1)) },
		Poll:  5 * time.Millisecond, Heartbeat: 20 * time.Millisecond,
	}
	for _, c := range change {
		c(&w.deps)
	}
	w.http = api.New(w.deps)
	return w
}

// migrated is the file of an empty database, made once: migrating for each test takes most of its time.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "kiln-api-test")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path := filepath.Join(dir, "kiln.db")
	db, err := store.Open(ctx, store.Config{Driver: store.SQLite, DSN: path})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(db.Migrate(ctx), db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// lines is a log that many goroutines may write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// keystone knows tokens that are written "<role>@<project>", and some that are not well.
type keystone struct{}

func (keystone) Authenticate(ctx context.Context, token, _ string) (*identity.Caller, error) {
	switch token {
	case "forged":
		return nil, errs.New(errs.Unauthenticated, "kiln.auth.token_invalid", "the token is not valid")
	case "away":
		return nil, errs.Wrap(io.ErrUnexpectedEOF, errs.Unavailable, "kiln.keystone.away", "Keystone is away").After(7 * time.Second)
	case "panic":
		panic("secret of the stack")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "broken":
		return nil, fmt.Errorf("password=hunter2: %w", io.ErrNoProgress)
	case "system":
		return &identity.Caller{UserID: "root", System: true, Roles: []string{"admin"}}, nil
	case "short":
		return &identity.Caller{UserID: "u", ProjectID: "p", Roles: []string{"reader"}, Expires: noon.Add(150 * time.Millisecond)}, nil
	}
	role, project, _ := strings.Cut(token, "@")
	return &identity.Caller{UserID: "user-" + role, ProjectID: project, Roles: []string{role}}, nil
}

// glance knows one image that Kiln does not, and one that it does.
type glance struct{}

func (glance) Image(_ context.Context, id string) (catalog.GlanceImage, error) {
	if id != "in-glance" && id != "image-1" {
		return catalog.GlanceImage{}, errs.New(errs.NotFound, "kiln.glance.not_found", "no image")
	}
	return catalog.GlanceImage{ID: id, Name: "old", Owner: "p", Status: "active", DiskFormat: "qcow2", ContainerFormat: "bare", Visibility: "private",
		HashAlgo: "sha512", HashValue: "ab", Size: 7, CreatedAt: noon}, nil
}

func (g glance) Images(ctx context.Context, _ map[string]string) ([]catalog.GlanceImage, error) {
	var out []catalog.GlanceImage
	for _, id := range []string{"image-1", "in-glance"} {
		i, err := g.Image(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into reads the body.
func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

func (a answer) get(t *testing.T, key string) string {
	t.Helper()
	m := map[string]any{}
	a.into(t, &m)
	return fmt.Sprint(m[key])
}

type faults struct {
	Errors []struct {
		RequestID  string `json:"request_id"`
		Code       string `json:"code"`
		Status     int    `json:"status"`
		Title      string `json:"title"`
		Detail     string `json:"detail"`
		Where      errs.Where
		MinVersion string `json:"min_version"`
		MaxVersion string `json:"max_version"`
	} `json:"errors"`
}

// do sends a request. body is nil, a string (sent as it is) or a value (sent as JSON).
func (w *world) do(token, method, path string, body any, headers ...string) answer {
	w.t.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			w.t.Fatal(err)
		}
	}
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, bytes.NewReader(data))
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	if len(data) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.http.ServeHTTP(rec, r)
	a := answer{rec.Code, rec.Header(), rec.Body.Bytes()}
	r.Body = io.NopCloser(bytes.NewReader(data))
	w.hold(r, a)
	return a
}

// want sends a request and insists on the status.
func (w *world) want(status int, token, method, path string, body any) answer {
	w.t.Helper()
	a := w.do(token, method, path, body)
	if a.status != status {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

var specification = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.Specification)
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

// hold compares the request (where it was accepted) and the answer with openapi.yaml.
func (w *world) hold(r *http.Request, a answer) {
	w.t.Helper()
	router, err := specification()
	if err != nil {
		w.t.Fatal(err)
	}
	plain := r.Clone(r.Context())
	plain.URL.Path = r.URL.EscapedPath() // an id with %2F is one part of a path
	found, params, err := router.FindRoute(plain)
	if err != nil {
		if a.status < 400 {
			w.t.Errorf("%s %s was answered with %d and is not in openapi.yaml: %v", r.Method, r.URL, a.status, err)
		}
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, ExcludeResponseBody: a.header.Get("Content-Type") == "text/event-stream"}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: found, Options: options}
	if a.status < 400 {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			w.t.Errorf("%s %s was accepted, and openapi.yaml says: %v", r.Method, r.URL, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), Options: options,
	}
	if err := openapi3filter.ValidateResponse(r.Context(), out); err != nil {
		w.t.Errorf("%s %s → %d: %v", r.Method, r.URL, a.status, err)
	}
}

// events are the types of all events of a project since the id, with the resource that each is about.
func (w *world) events(project string, after int64) []event.Event {
	w.t.Helper()
	es, err := w.db.After(w.t.Context(), after, project, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return es
}

// since returns a function that gives the types of the events from now on.
func (w *world) since() func() string {
	last, err := w.db.LastID(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return func() string {
		w.t.Helper()
		var types []string
		for _, e := range w.events("", last) {
			types = append(types, e.Type)
		}
		return strings.Join(types, " ")
	}
}

// must stops the test at an error of its own preparation.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// follow opens a stream on a real server and gives its lines.
func follow(t *testing.T, server *httptest.Server, token, query string, headers ...string) (<-chan string, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", token)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %s", res.Status, res.Header)
	}
	out := make(chan string, 1000)
	go func() {
		defer close(out)
		s := bufio.NewScanner(res.Body)
		for s.Scan() {
			out <- s.Text()
		}
	}()
	return out, cancel
}
