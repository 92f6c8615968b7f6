package baddays

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// answer is a response without its body.
type answer struct {
	StatusCode int
	Status     string
	Header     http.Header
}

// ask makes one request.
func (w *world) ask(method, path, token string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.api+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Status, resp.Header}
}

// refused expects a 401 that says where tokens are made.
func (w *world) refused(what, token string) {
	w.t.Helper()
	resp := w.ask(http.MethodGet, "/v1/sources", token)
	if want := `Keystone uri="` + w.cloud.AuthURL() + `"`; resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") != want {
		w.t.Errorf("%s: %s, WWW-Authenticate %q", what, resp.Status, resp.Header.Get("WWW-Authenticate"))
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.startAPI()
	token := func(user, project string) string {
		conn, _ := w.login(user, project)
		text, err := conn.ForProject("").Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good, unused, other := token("demo", "demo"), token("demo", "demo"), token("other", "other")
	var made build.Source
	if err := w.member.Post(t.Context(), "/v1/sources", build.NewSource{Name: "main", URL: "https://git.example.test/recipes.git"}, &made); err != nil {
		t.Fatal(err)
	}
	if resp := w.ask(http.MethodGet, "/v1/sources/"+made.ID, good); resp.StatusCode != http.StatusOK {
		t.Errorf("a good token: %s", resp.Status)
	}
	w.refused("no token", "")
	w.refused("a forged token", "gAAAAABforged"+good[min(len(good), 13):])
	w.refused("a token with a byte more", good+"x")
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if resp := w.ask(method, "/v1/sources/"+made.ID, other); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s by another project: %s", method, resp.Status)
		}
	}

	w.cloud.ExpireTokens("demo")
	w.refused("an expired token that was never seen before", unused)
	eventually(t, 10*time.Second, func() error { // a validated one is believed for token_cache_time, 1 s here
		if resp := w.ask(http.MethodGet, "/v1/sources", good); resp.StatusCode == http.StatusOK {
			return errors.New("it is still taken")
		}
		return nil
	})
	w.refused("an expired token", good)
	if resp := w.ask(http.MethodGet, "/v1/sources", token("demo", "demo")); resp.StatusCode != http.StatusOK {
		t.Errorf("a fresh token of the same user: %s", resp.Status)
	}
}
