package functional

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// answer is what the API said.
type answer struct {
	status    int
	header    http.Header
	requestID string
	codes     []string
}

func (s *stand) ask(t *testing.T, token, method, path, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.api+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header}
	var doc struct {
		Errors []struct {
			RequestID string `json:"request_id"`
			Code      string `json:"code"`
		}
	}
	if json.Unmarshal(data, &doc) == nil {
		for _, e := range doc.Errors {
			a.codes, a.requestID = append(a.codes, e.Code), e.RequestID
		}
	}
	return a
}

// unauthorized wants what keystonemiddleware answers to a token that is none.
func unauthorized(t *testing.T, what string, a answer) {
	t.Helper()
	if a.status != http.StatusUnauthorized || !strings.Contains(a.header.Get("WWW-Authenticate"), "Keystone uri=") || len(a.codes) != 1 {
		t.Errorf("%s: status %d, WWW-Authenticate %q, codes %v", what, a.status, a.header.Get("WWW-Authenticate"), a.codes)
	}
	if a.requestID == "" || a.requestID != a.header.Get("X-Openstack-Request-Id") {
		t.Errorf("%s: request id %q in the body, %q in the header", what, a.requestID, a.header.Get("X-Openstack-Request-Id"))
	}
}

func token(t *testing.T, c *openstack.Cloud) string {
	t.Helper()
	v, err := c.ForProject("").Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRealTokens(t *testing.T) {
	s := kiln(t)
	good := token(t, s.login(t, "member"))
	if a := s.ask(t, good, http.MethodGet, "/v1/images", ""); a.status != http.StatusOK {
		t.Fatalf("a good token: status %d %v", a.status, a.codes)
	}
	unauthorized(t, "no token", s.ask(t, "", http.MethodGet, "/v1/images", ""))
	unauthorized(t, "a word", s.ask(t, "admin", http.MethodGet, "/v1/images", ""))
	// A Fernet token with another last character has a wrong signature.
	forged := good[:len(good)-2] + strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return 'A'
	}, good[len(good)-2:])
	unauthorized(t, "a forged token", s.ask(t, forged, http.MethodGet, "/v1/images", ""))

	t.Run("expired", func(t *testing.T) {
		brief := s.briefToken(t, 5*time.Second)
		if a := s.ask(t, brief, http.MethodGet, "/v1/images", ""); a.status != http.StatusOK {
			t.Fatalf("before its end: status %d %v", a.status, a.codes)
		}
		// Whatever is kept of an earlier answer of Keystone must not outlive the token.
		time.Sleep(6 * time.Second)
		unauthorized(t, "an expired token", s.ask(t, brief, http.MethodGet, "/v1/images", ""))
	})
	t.Run("revoked", func(t *testing.T) {
		revoked := token(t, s.login(t, "member"))
		if a := s.ask(t, revoked, http.MethodGet, "/v1/images", ""); a.status != http.StatusOK {
			t.Fatalf("before: status %d", a.status)
		}
		err := s.identity.Do(t.Context(), openstack.Call{
			Operation: "revoke", Method: http.MethodDelete, Path: "auth/tokens", Header: map[string]string{"X-Subject-Token": revoked},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second) // token_cache_time is 3
		unauthorized(t, "a revoked token", s.ask(t, revoked, http.MethodGet, "/v1/images", ""))
	})
	t.Run("project", func(t *testing.T) {
		src := s.source(t)
		foreign, reader := token(t, s.login(t, "other")), token(t, s.login(t, "reader"))
		for _, ask := range []struct {
			who, token, method, path, body string
			want                           int
		}{
			{"another project", foreign, http.MethodGet, "/v1/sources/" + src.ID, "", http.StatusNotFound},
			{"another project", foreign, http.MethodDelete, "/v1/sources/" + src.ID, "", http.StatusNotFound},
			{"another project", foreign, http.MethodPost, "/v1/sources/" + src.ID + "/sync", "", http.StatusNotFound},
			{"another project", foreign, http.MethodGet, "/v1/jobs/" + src.JobID, "", http.StatusNotFound},
			{"another project", foreign, http.MethodGet, "/v1/images?all_projects=true", "", http.StatusForbidden},
			{"a reader", reader, http.MethodGet, "/v1/sources/" + src.ID, "", http.StatusOK},
			{"a reader", reader, http.MethodPost, "/v1/sources", `{"name":"x","url":"https://git.example.test/x"}`, http.StatusForbidden},
			{"a reader", reader, http.MethodPost, "/v1/workloads", `{"name":"x","kind":"vm"}`, http.StatusForbidden},
			{"a reader", reader, http.MethodDelete, "/v1/sources/" + src.ID, "", http.StatusForbidden},
			{"a member", good, http.MethodPost, "/v1/clusters", `{"name":"x","nodes":[]}`, http.StatusForbidden},
		} {
			if a := s.ask(t, ask.token, ask.method, ask.path, ask.body); a.status != ask.want {
				t.Errorf("%s, %s %s: status %d %v, want %d", ask.who, ask.method, ask.path, a.status, a.codes, ask.want)
			}
		}
		var still build.Source
		if err := s.as(t, "member").Get(t.Context(), "/v1/sources/"+src.ID, &still); err != nil {
			t.Errorf("the source after all that: %v", err)
		}
	})
}

// briefToken is a token of the member that ends soon: that of an application credential ends with it.
func (s *stand) briefToken(t *testing.T, life time.Duration) string {
	t.Helper()
	member := s.login(t, "member").Service(openstack.Description{Name: "keystone", Types: []string{"identity"}})
	users, err := s.find(t.Context(), "users", map[string][]string{"name": {name(s.id, "member")}})
	if err != nil || len(users) != 1 {
		t.Fatal(users, err)
	}
	var made struct {
		Credential struct{ ID, Secret string } `json:"application_credential"`
	}
	err = member.Do(t.Context(), openstack.Call{
		Operation: "create", Method: http.MethodPost, Path: "users/" + users[0]["id"].(string) + "/application_credentials", Out: &made,
		Body: doc{"application_credential": doc{"name": time.Now().String(), "expires_at": time.Now().Add(life).UTC().Format("2006-01-02T15:04:05")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(doc{"auth": doc{"identity": doc{
		"methods": []string{"application_credential"}, "application_credential": doc{"id": made.Credential.ID, "secret": made.Credential.Secret},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, os.Getenv("KILN_TEST_AUTH_URL")+"/auth/tokens", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("Keystone gives no token for the application credential: %s", res.Status)
	}
	return res.Header.Get("X-Subject-Token")
}
