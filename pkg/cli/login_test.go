package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
)

func TestVariables(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want gophercloud.AuthOptions
	}{
		"an openrc file": {
			map[string]string{"OS_USERNAME": "demo", "OS_PASSWORD": "x", "OS_PROJECT_NAME": "demo", "OS_USER_DOMAIN_NAME": "Users", "OS_PROJECT_DOMAIN_NAME": "Default"},
			gophercloud.AuthOptions{Username: "demo", Password: "x", DomainName: "Users", Scope: &gophercloud.AuthScope{ProjectName: "demo", DomainName: "Default"}},
		},
		"domains by id": {
			map[string]string{"OS_USERNAME": "demo", "OS_PASSWORD": "x", "OS_PROJECT_NAME": "demo", "OS_USER_DOMAIN_ID": "u", "OS_PROJECT_DOMAIN_ID": "p"},
			gophercloud.AuthOptions{Username: "demo", Password: "x", DomainID: "u", Scope: &gophercloud.AuthScope{ProjectName: "demo", DomainID: "p"}},
		},
		"no domains": {
			map[string]string{"OS_USERNAME": "demo", "OS_PASSWORD": "x", "OS_PROJECT_NAME": "demo"},
			gophercloud.AuthOptions{Username: "demo", Password: "x", DomainID: "default", Scope: &gophercloud.AuthScope{ProjectName: "demo", DomainID: "default"}},
		},
		"project by id": {
			map[string]string{"OS_USERNAME": "demo", "OS_PASSWORD": "x", "OS_PROJECT_ID": "1", "OS_PROJECT_NAME": "demo", "OS_DOMAIN_NAME": "d"},
			gophercloud.AuthOptions{Username: "demo", Password: "x", DomainName: "d", Scope: &gophercloud.AuthScope{ProjectID: "1"}},
		},
		"system": {
			map[string]string{"OS_USER_ID": "1", "OS_PASSWORD": "x", "OS_SYSTEM_SCOPE": "all"},
			gophercloud.AuthOptions{UserID: "1", Password: "x", Scope: &gophercloud.AuthScope{System: true}},
		},
		"application credential": {
			map[string]string{"OS_APPLICATION_CREDENTIAL_ID": "a", "OS_APPLICATION_CREDENTIAL_SECRET": "s", "OS_PROJECT_NAME": "demo"},
			gophercloud.AuthOptions{ApplicationCredentialID: "a", ApplicationCredentialSecret: "s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.env["OS_AUTH_URL"], c.want.IdentityEndpoint = "http://keystone.example.test/v3", "http://keystone.example.test/v3"
			got, err := variables(func(k string) string { return c.env[k] })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := variables(func(string) string { return "" }); err == nil {
		t.Error("no variables at all are a login")
	}
}
