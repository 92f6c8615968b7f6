package keystone_test

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity/keystone"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	client "github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func token(t *testing.T, c *openstack.Cloud) string {
	t.Helper()
	got, err := c.ForProject("").Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func validations(cloud *pocket.Cloud) int {
	n := 0
	for _, r := range cloud.Requests() {
		if r.Method == http.MethodGet && r.Path == "/v3/auth/tokens" {
			n++
		}
	}
	return n
}

func TestPocketAuthenticate(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{})
	authenticate(t, kiln, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}))
}

func TestRealAuthenticate(t *testing.T) {
	authenticate(t, cloudtest.Real(t, "kiln", "service"), cloudtest.Real(t, "demo", "demo"))
}

func authenticate(t *testing.T, kiln, demo *openstack.Cloud) {
	a := keystone.New(client.New(kiln), keystone.Config{})
	caller, err := a.Authenticate(t.Context(), token(t, demo), "")
	if err != nil {
		t.Fatal(err)
	}
	if caller.UserName != "demo" || caller.ProjectName != "demo" || caller.ProjectID == "" || caller.DomainID == "" ||
		!caller.HasRole("member") || caller.HasRole("admin") || caller.System || len(caller.ServiceRoles) != 0 ||
		time.Until(caller.Expires) <= 0 {
		t.Errorf("demo is %+v", caller)
	}
	caller, err = a.Authenticate(t.Context(), token(t, demo), token(t, kiln))
	if err != nil || !slices.Contains(caller.ServiceRoles, "service") {
		t.Errorf("with a service token: %+v, %v", caller, err)
	}
	for _, c := range []struct{ name, token, service, code string }{
		{"none", "", "", "kiln.identity.no_token"},
		{"forged", "gAAAAABforged", "", "kiln.identity.bad_token"},
		{"not a header", "a\r\nX-Evil: 1", "", "kiln.identity.bad_token"},
		{"forged service token", token(t, demo), "gAAAAABforged", "kiln.identity.bad_service_token"},
	} {
		_, err := a.Authenticate(t.Context(), c.token, c.service)
		if !errs.Is(err, errs.Unauthenticated) || errs.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAnswersAreKept(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{})
	demo := token(t, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}))
	now := time.Now()
	a := keystone.New(client.New(kiln), keystone.Config{Clock: func() time.Time { return now }})
	for name, subject := range map[string]string{"good": demo, "bad": "gAAAAABforged"} {
		fake.ResetRequests()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { _, _ = a.Authenticate(t.Context(), subject, "") })
		}
		all.Wait()
		if n := validations(fake); n != 1 {
			t.Errorf("a %s token was asked for %d times", name, n)
		}
	}
	caller, err := a.Authenticate(t.Context(), demo, "")
	if err != nil {
		t.Fatal(err)
	}
	caller.Roles[0] = "admin"
	if again, err := a.Authenticate(t.Context(), demo, ""); err != nil || again.HasRole("admin") {
		t.Errorf("a caller changed the cache: %+v, %v", again, err)
	}
	fake.ExpireTokens("demo")
	now = now.Add(4 * time.Minute)
	if _, err := a.Authenticate(t.Context(), demo, ""); err != nil {
		t.Errorf("inside the time that it is kept: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if _, err := a.Authenticate(t.Context(), demo, ""); errs.CodeOf(err) != "kiln.identity.bad_token" {
		t.Errorf("a revoked token after that: %v", err)
	}
}

func TestATokenEndsWhenItExpires(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{TokenLife: time.Hour})
	demo := token(t, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}))
	now := time.Now()
	a := keystone.New(client.New(kiln), keystone.Config{Keep: 3 * time.Hour, Clock: func() time.Time { return now }})
	if _, err := a.Authenticate(t.Context(), demo, ""); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour + time.Second)
	if _, err := a.Authenticate(t.Context(), demo, ""); errs.CodeOf(err) != "kiln.identity.bad_token" {
		t.Errorf("past its end: %v", err)
	}
}

func TestKeystoneAwayIsNot401(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{})
	demo := token(t, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}))
	a := keystone.New(client.New(kiln), keystone.Config{})
	fake.Fail(wire.Match{Service: pocket.Identity}, wire.Fault{Status: http.StatusServiceUnavailable}, -1)
	if _, err := a.Authenticate(t.Context(), demo, ""); !errs.Is(err, errs.Unavailable) {
		t.Errorf("away: %v", err)
	}
	fake.ClearFaults()
	if _, err := a.Authenticate(t.Context(), demo, ""); err != nil {
		t.Errorf("back again: %v", err)
	}
}

// validator is a Keystone in the hand of the test.
type validator struct {
	asked  atomic.Int32
	answer func(subject string, allowExpired bool) (client.Token, error)
}

func (v *validator) Validate(_ context.Context, subject string, allowExpired bool) (client.Token, error) {
	v.asked.Add(1)
	return v.answer(subject, allowExpired)
}

func project(roles ...string) client.Token {
	t := client.Token{User: client.Scoped{Ref: client.Ref{ID: "u", Name: "user"}, Domain: client.Ref{ID: "ud"}}, ExpiresAt: time.Now().Add(time.Hour),
		Project: &client.Scoped{Ref: client.Ref{ID: "p", Name: "project"}}}
	for _, r := range roles {
		t.Roles = append(t.Roles, client.Ref{ID: r, Name: r})
	}
	return t
}

func TestServiceTokenLetsAnExpiredTokenPass(t *testing.T) {
	v := &validator{answer: func(subject string, allowExpired bool) (client.Token, error) {
		switch {
		case subject == "service":
			return project("service"), nil
		case subject == "plain":
			return project("member"), nil
		case allowExpired:
			expired := project("member")
			expired.ExpiresAt = time.Now().Add(-time.Minute)
			return expired, nil
		}
		return client.Token{}, errs.New(errs.NotFound, "kiln.keystone.not_found", "no token")
	}}
	a := keystone.New(v, keystone.Config{})
	if _, err := a.Authenticate(t.Context(), "expired", ""); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("alone: %v", err)
	}
	if _, err := a.Authenticate(t.Context(), "expired", "plain"); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("beside a token without the role service: %v", err)
	}
	for range 2 {
		caller, err := a.Authenticate(t.Context(), "expired", "service")
		if err != nil || !caller.HasRole("member") {
			t.Errorf("beside a service token: %+v, %v", caller, err)
		}
	}
	if n := v.asked.Load(); n != 4 {
		t.Errorf("keystone was asked %d times", n)
	}
}

func TestScopes(t *testing.T) {
	tokens := map[string]client.Token{"unscoped": {User: client.Scoped{Ref: client.Ref{ID: "u"}}, ExpiresAt: time.Now().Add(time.Hour)}}
	system, domain := tokens["unscoped"], tokens["unscoped"]
	system.System = map[string]bool{"all": true}
	domain.Domain = &client.Ref{ID: "d"}
	tokens["system"], tokens["domain"] = system, domain
	a := keystone.New(&validator{answer: func(subject string, _ bool) (client.Token, error) { return tokens[subject], nil }}, keystone.Config{})
	if _, err := a.Authenticate(t.Context(), "unscoped", ""); errs.CodeOf(err) != "kiln.identity.unscoped" || !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("unscoped: %v", err)
	}
	if c, err := a.Authenticate(t.Context(), "system", ""); err != nil || !c.System || c.ProjectID != "" {
		t.Errorf("system: %+v, %v", c, err)
	}
	if c, err := a.Authenticate(t.Context(), "domain", ""); err != nil || c.DomainID != "d" {
		t.Errorf("domain: %+v, %v", c, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	v := &validator{answer: func(subject string, _ bool) (client.Token, error) {
		if subject == "good" {
			return project("member"), nil
		}
		return client.Token{}, errs.New(errs.NotFound, "kiln.keystone.not_found", "no token")
	}}
	a := keystone.New(v, keystone.Config{Entries: 20})
	if _, err := a.Authenticate(t.Context(), "good", ""); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		_, _ = a.Authenticate(t.Context(), "guess"+string(rune('a'+i%26))+string(rune('a'+i/26)), "")
	}
	v.asked.Store(0)
	if _, err := a.Authenticate(t.Context(), "good", ""); err != nil || v.asked.Load() != 0 {
		t.Errorf("guessing pushed a good token out: asked %d times, %v", v.asked.Load(), err)
	}
}
