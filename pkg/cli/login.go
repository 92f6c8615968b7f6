package cli

import (
	"errors"
	"os"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
)

// credentials are those of OS_CLOUD and clouds.yaml, or of the OS_ variables.
func credentials() (gophercloud.AuthOptions, gophercloud.EndpointOpts, error) {
	if os.Getenv("OS_CLOUD") != "" {
		opts, endpoint, _, err := clouds.Parse()
		return opts, endpoint, err
	}
	opts, err := variables(os.Getenv)
	return opts, gophercloud.EndpointOpts{Region: os.Getenv("OS_REGION_NAME")}, err
}

var errNoLogin = errors.New("no login: set OS_CLOUD, or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME")

// variables reads the variables of an openrc file as the openstack command does. gophercloud's own reader knows
// neither OS_USER_DOMAIN_NAME nor OS_PROJECT_DOMAIN_NAME, which every openrc file has
// (https://docs.openstack.org/python-openstackclient/zed/cli/man/openstack.html).
func variables(get func(string) string) (gophercloud.AuthOptions, error) {
	o := gophercloud.AuthOptions{IdentityEndpoint: get("OS_AUTH_URL")}
	if o.IdentityEndpoint == "" {
		return o, errNoLogin
	}
	if id, secret := get("OS_APPLICATION_CREDENTIAL_ID"), get("OS_APPLICATION_CREDENTIAL_SECRET"); id != "" && secret != "" {
		o.ApplicationCredentialID, o.ApplicationCredentialSecret = id, secret
		return o, nil // it names user and project by itself
	}
	o.Scope = scope(get)
	if o.TokenID = get("OS_TOKEN"); o.TokenID != "" {
		return o, nil
	}
	o.UserID, o.Username, o.Password = get("OS_USER_ID"), get("OS_USERNAME"), get("OS_PASSWORD")
	if o.UserID == "" && o.Username == "" || o.Password == "" || o.Scope == nil {
		return o, errNoLogin
	}
	if o.UserID != "" {
		o.Username = ""
		return o, nil
	}
	o.DomainID, o.DomainName = domain(get, "OS_USER_DOMAIN", "OS_DOMAIN", "OS_DEFAULT_DOMAIN")
	return o, nil
}

// scope is the project, or the whole system; nil where neither is named.
func scope(get func(string) string) *gophercloud.AuthScope {
	id, name := get("OS_PROJECT_ID"), get("OS_PROJECT_NAME")
	switch {
	case get("OS_SYSTEM_SCOPE") == "all":
		return &gophercloud.AuthScope{System: true}
	case id != "":
		return &gophercloud.AuthScope{ProjectID: id}
	case name != "":
		s := &gophercloud.AuthScope{ProjectName: name}
		s.DomainID, s.DomainName = domain(get, "OS_PROJECT_DOMAIN", "OS_DOMAIN", "OS_DEFAULT_DOMAIN")
		return s
	}
	return nil
}

// domain is the first that is set of the variables <prefix>_ID and <prefix>_NAME; the id "default" where none is.
func domain(get func(string) string, prefixes ...string) (id, name string) {
	for _, p := range prefixes {
		if id = get(p + "_ID"); id != "" {
			return id, ""
		}
		if name = get(p + "_NAME"); name != "" {
			return "", name
		}
	}
	return "default", ""
}
