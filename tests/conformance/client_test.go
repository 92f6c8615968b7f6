package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// session is a user's token with the catalog that came with it.
type session struct {
	target    Target
	token     string
	userID    string
	projectID string
	catalog   map[string]string // service type to public URL, without a slash at the end
}

// login asks for a project-scoped token.
func login(t *testing.T, target Target, user, project string) *session {
	t.Helper()
	r := (&session{target: target, catalog: map[string]string{"identity": target.AuthURL}}).
		post(t, "identity", "/auth/tokens", passwordAuth(user, target.Password, project))
	r.want(t, http.StatusCreated)
	s := &session{target: target, token: r.header.Get("X-Subject-Token"), catalog: map[string]string{},
		userID: r.text("token.user.id"), projectID: r.text("token.project.id")}
	for _, service := range r.list("token.catalog") {
		for _, endpoint := range at(service, "endpoints").([]any) {
			if at(endpoint, "interface") == "public" {
				s.catalog[at(service, "type").(string)] = strings.TrimSuffix(at(endpoint, "url").(string), "/")
			}
		}
	}
	return s
}

// passwordAuth is the body of POST /v3/auth/tokens; unscoped with an empty project.
func passwordAuth(user, password, project string) map[string]any {
	auth := map[string]any{"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
		"user": map[string]any{"name": user, "password": password, "domain": map[string]string{"id": "default"}}}}}
	if project != "" {
		auth["scope"] = map[string]any{"project": map[string]any{"name": project, "domain": map[string]string{"id": "default"}}}
	}
	return map[string]any{"auth": auth}
}

// reply is an answer, read to its end.
type reply struct {
	what   string // method and path, for messages
	status int
	header http.Header
	raw    []byte
	body   any // decoded JSON; nil where it is none
}

// call sends a request. A body that is a string or bytes is sent as it is, anything else as JSON; headers are pairs.
func (s *session) call(t *testing.T, method, service, path string, body any, headers ...string) *reply {
	t.Helper()
	var reader io.Reader = http.NoBody
	media := "application/json"
	switch b := body.(type) {
	case nil:
		media = ""
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader, media = bytes.NewReader(b), "application/octet-stream"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	// Cleanups call as well, and the test's own context has ended by then; the client has a time-out.
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, s.catalog[service]+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	req.Header.Set("Accept", "application/json")
	if s.token != "" {
		req.Header.Set("X-Auth-Token", s.token)
	}
	for pair := range slices.Chunk(headers, 2) {
		if pair[1] == "" {
			req.Header.Del(pair[0])
		} else {
			req.Header.Set(pair[0], pair[1])
		}
	}
	noRedirect := *client
	noRedirect.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := noRedirect.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	r := &reply{what: method + " " + service + path, status: resp.StatusCode, header: resp.Header}
	if r.raw, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s: read the answer: %v", r.what, err)
	}
	if json.Unmarshal(r.raw, &r.body) != nil {
		r.body = nil
	}
	return r
}

func (s *session) get(t *testing.T, service, path string, headers ...string) *reply {
	t.Helper()
	return s.call(t, http.MethodGet, service, path, nil, headers...)
}

func (s *session) post(t *testing.T, service, path string, body any, headers ...string) *reply {
	t.Helper()
	return s.call(t, http.MethodPost, service, path, body, headers...)
}

func (s *session) put(t *testing.T, service, path string, body any, headers ...string) *reply {
	t.Helper()
	return s.call(t, http.MethodPut, service, path, body, headers...)
}

func (s *session) delete(t *testing.T, service, path string, headers ...string) *reply {
	t.Helper()
	return s.call(t, http.MethodDelete, service, path, nil, headers...)
}

// want fails the test where the status is another one.
func (r *reply) want(t *testing.T, status int) *reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: status %d, want %d: %s", r.what, r.status, status, short(r.raw))
	}
	return r
}

// wantHeader checks that a header has a value; with an empty one only that it is there.
func (r *reply) wantHeader(t *testing.T, name, value string) *reply {
	t.Helper()
	if got := r.header.Get(name); got == "" || value != "" && got != value {
		t.Errorf("%s: header %s is %q, want %q", r.what, name, got, value)
	}
	return r
}

// equal compares the value at a path with what it is to be; numbers as JSON writes them.
func (r *reply) equal(t *testing.T, path string, want any) *reply {
	t.Helper()
	if got := render(at(r.body, path)); got != render(want) {
		t.Errorf("%s: %s is %s, want %s", r.what, path, got, render(want))
	}
	return r
}

// keys checks that the object at a path has exactly these keys.
func (r *reply) keys(t *testing.T, path, want string) *reply {
	t.Helper()
	object, ok := at(r.body, path).(map[string]any)
	if !ok {
		t.Errorf("%s: %q is no object: %s", r.what, path, short(r.raw))
		return r
	}
	var got []string
	for key := range object {
		got = append(got, key)
	}
	slices.Sort(got)
	wanted := strings.Fields(want)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("%s: keys of %q are %v, want %v", r.what, path, got, wanted)
	}
	return r
}

// contains checks that the text at a path has a part.
func (r *reply) contains(t *testing.T, path, part string) *reply {
	t.Helper()
	if got := r.text(path); !strings.Contains(got, part) {
		t.Errorf("%s: %s is %q, want %q in it", r.what, path, got, part)
	}
	return r
}

func (r *reply) text(path string) string {
	v, _ := at(r.body, path).(string)
	return v
}

func (r *reply) number(path string) int64 {
	v, _ := at(r.body, path).(float64)
	return int64(v)
}

func (r *reply) list(path string) []any {
	v, _ := at(r.body, path).([]any)
	return v
}

// at walks into decoded JSON: "errors.0.code"; "" is the value itself. Keys that have dots cannot be reached.
func at(v any, path string) any {
	if path == "" {
		return v
	}
	for key := range strings.SplitSeq(path, ".") {
		switch node := v.(type) {
		case map[string]any:
			v = node[key]
		case []any:
			n, err := strconv.Atoi(key)
			if err != nil || n >= len(node) {
				return nil
			}
			v = node[n]
		default:
			return nil
		}
	}
	return v
}

func render(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

func short(raw []byte) string {
	if len(raw) > 600 {
		return string(raw[:600]) + "…"
	}
	return string(raw)
}

// values collects one key of all objects of a list; with "" the list has texts.
func values(list []any, key string) []string {
	var out []string
	for _, v := range list {
		if s, ok := at(v, key).(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// breakUpload sends the head of a PUT and a part of its body, and drops the connection.
func breakUpload(t *testing.T, s *session, path string) {
	t.Helper()
	u, err := url.Parse(s.catalog["image"] + path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	head := "PUT " + u.Path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nX-Auth-Token: " + s.token +
		"\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
	if _, err := conn.Write(append([]byte(head), make([]byte, 300000)...)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // so that the service has read some of it
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}
