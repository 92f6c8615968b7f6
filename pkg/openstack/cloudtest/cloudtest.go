// Package cloudtest connects the tests of the OpenStack clients to a pocket cloud and to the real one.
package cloudtest

import (
	"context"
	"os"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// Pocket starts a pocket cloud that ends with the test, and connects to it as Kiln's own user.
func Pocket(t *testing.T, cfg pocket.Config) (*pocket.Cloud, *openstack.Cloud) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cloud, err := pocket.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	return cloud, As(t, openstack.Config{AuthURL: cloud.AuthURL()})
}

// As connects with the configuration; the user is kiln in the project service, the password "kiln", where they are empty.
func As(t *testing.T, cfg openstack.Config) *openstack.Cloud {
	t.Helper()
	if cfg.Username == "" {
		cfg.Username, cfg.ProjectName = "kiln", "service"
	}
	if cfg.Password == "" {
		cfg.Password = "kiln"
	}
	c, err := openstack.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Real connects to the cloud of `tools/cloud up` as the user in the project, and says which of its services the
// test uses (Keystone always). Short tests skip it; the others fail
// where it is not up.
func Real(t *testing.T, user, project string, services ...string) *openstack.Cloud {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the real cloud: tools/cloud up, then run without -short")
	}
	url, password := os.Getenv("KILN_TEST_AUTH_URL"), os.Getenv("KILN_TEST_PASSWORD")
	if url == "" || password == "" {
		t.Fatal(`KILN_TEST_AUTH_URL and KILN_TEST_PASSWORD are not set: run tools/cloud up and eval "$(tools/cloud env)"`)
	}
	real.Uses(t, append(services, real.Keystone)...)
	return As(t, openstack.Config{AuthURL: url, Password: password, Username: user, ProjectName: project, Interface: "public"})
}
