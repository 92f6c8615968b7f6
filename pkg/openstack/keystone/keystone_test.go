package keystone_test

import (
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/pocket"
)

func TestPocketValidate(t *testing.T) {
	fake, kiln := cloudtest.Pocket(t, pocket.Config{})
	validate(t, kiln, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "demo", ProjectName: "demo"}))
}

func TestRealValidate(t *testing.T) {
	validate(t, cloudtest.Real(t, "kiln", "service"), cloudtest.Real(t, "demo", "demo"))
}

func validate(t *testing.T, kiln, demo *openstack.Cloud) {
	subject, err := demo.ForProject("").Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := keystone.New(kiln)
	token, err := c.Validate(t.Context(), subject, true)
	if err != nil {
		t.Fatal(err)
	}
	if token.User.Name != "demo" || token.Project == nil || token.Project.Name != "demo" || token.User.Domain.ID == "" ||
		len(token.Roles) == 0 || token.ExpiresAt.IsZero() || token.System["all"] {
		t.Errorf("demo's token: %+v", token)
	}
	for _, forged := range []string{"gAAAAABforged", subject[:len(subject)-4] + "AAAA"} {
		if _, err := c.Validate(t.Context(), forged, false); !errs.Is(err, errs.NotFound) {
			t.Errorf("forged: %v", err)
		}
	}
}

func TestPocketBootstrap(t *testing.T) {
	fake, _ := cloudtest.Pocket(t, pocket.Config{})
	bootstrap(t, cloudtest.As(t, openstack.Config{AuthURL: fake.AuthURL(), Username: "admin", ProjectName: "admin"}), fake.AuthURL())
}

// bootstrap registers a user of its own, so that it can run on a cloud that is in use.
func bootstrap(t *testing.T, admin *openstack.Cloud, authURL string) {
	c := keystone.New(admin)
	r := keystone.Registration{User: "kiln-test", Password: "first", Project: "kiln-test", Region: "Test", Public: "http://kiln.example.test:9090"}
	changed, err := c.Bootstrap(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(changed, "\n")
	for _, want := range []string{
		"project kiln-test", "user kiln-test", "role service", "all projects of the domain Default", "endpoint public", "endpoint internal",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in what changed: %s", want, text)
		}
	}
	if changed, err = c.Bootstrap(t.Context(), r); err != nil || len(changed) != 0 {
		t.Errorf("the second time: %q, %v", changed, err)
	}
	r.Password, r.Public = "second", "http://kiln.example.test:9999"
	if changed, err = c.Bootstrap(t.Context(), r); err != nil || len(changed) != 4 {
		t.Errorf("another password and URL: %q, %v", changed, err)
	}
	user := cloudtest.As(t, openstack.Config{AuthURL: authURL, Username: "kiln-test", Password: "second", ProjectName: "kiln-test"})
	demo := cloudtest.As(t, openstack.Config{AuthURL: authURL, Username: "demo", ProjectName: "demo"})
	project, err := demo.ForProject("").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.ForProject(project).Token(t.Context()); err != nil {
		t.Errorf("the new user has no role in a tenant's project: %v", err)
	}
	if _, err := c.Bootstrap(t.Context(), keystone.Registration{Password: "x"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("no URL: %v", err)
	}
}
