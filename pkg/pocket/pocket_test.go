package pocket_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func start(t *testing.T, cfg pocket.Config) *pocket.Cloud {
	t.Helper()
	cfg.Dir = t.TempDir()
	cloud, err := pocket.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	return cloud
}

func login(t *testing.T, cloud *pocket.Cloud, user, project string) string {
	t.Helper()
	body := `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"` + user +
		`","domain":{"id":"default"},"password":"kiln"}}},"scope":{"project":{"name":"` + project + `","domain":{"id":"default"}}}}}`
	resp := do(t, http.MethodPost, cloud.AuthURL()+"/auth/tokens", "", body)
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("login: %s", resp.Status)
	}
	return resp.Header.Get("X-Subject-Token")
}

// reply is an answer that was read to its end.
type reply struct {
	StatusCode int
	Status     string
	Header     http.Header
	body       []byte
	cut        error // why the body ended early
}

func exchange(req *http.Request) (reply, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Status, resp.Header, raw, err}, nil
}

func do(t *testing.T, method, url, token, body string) reply {
	t.Helper()
	resp, err := try(t, method, url, token, body)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func try(t *testing.T, method, url, token, body string) (reply, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	return exchange(req)
}

func TestFaultsAndLog(t *testing.T) {
	cloud := start(t, pocket.Config{})
	token := login(t, cloud, "demo", "demo")
	projects := cloud.AuthURL() + "/auth/projects"
	cloud.ResetRequests()

	cloud.Fail(wire.Match{Service: pocket.Identity, PathSuffix: "/projects"}, wire.Fault{Status: http.StatusServiceUnavailable}, 1)
	if got := do(t, http.MethodGet, projects, token, ""); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("armed fault: %s", got.Status)
	}
	if got := do(t, http.MethodGet, projects, token, ""); got.StatusCode != http.StatusOK {
		t.Errorf("after the fault: %s", got.Status)
	}
	cloud.Fail(wire.Match{Method: http.MethodDelete}, wire.Fault{AfterServing: true}, 1)
	if resp, err := try(t, http.MethodDelete, cloud.AuthURL()+"/users/none", token, ""); err == nil {
		t.Errorf("the answer was to be lost: %s", resp.Status)
	}
	log := cloud.Requests()
	if len(log) != 3 {
		t.Fatalf("log has %d entries: %v", len(log), log)
	}
	if log[1].Path != "/v3/auth/projects" || log[1].Status != http.StatusOK || log[1].Service != pocket.Identity ||
		!strings.HasPrefix(log[1].RequestID, "req-") || log[2].Status != 0 {
		t.Errorf("log: %+v", log[1:])
	}
}

func TestTokensExpire(t *testing.T) {
	cloud := start(t, pocket.Config{})
	token := login(t, cloud, "demo", "demo")
	cloud.ExpireTokens("demo")
	if got := do(t, http.MethodGet, cloud.AuthURL()+"/auth/projects", token, ""); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("expired token: %s", got.Status)
	}
}
