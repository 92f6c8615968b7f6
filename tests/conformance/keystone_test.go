package conformance

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

const tokenKeys = "methods user audit_ids expires_at issued_at"

func testKeystone(t *testing.T, target Target) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, target Target)
	}{
		{"versions", keystoneVersions}, {"scopes", keystoneScopes}, {"refusals", keystoneRefusals},
		{"validation", keystoneValidation}, {"revocation", keystoneRevocation}, {"people", keystonePeople},
		{"roles", keystoneRoles}, {"application credentials", keystoneAppCreds}, {"expiring application credentials", keystoneExpiringAppCreds}, {"catalog", keystoneCatalog},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, target) })
	}
}

// anonymous has no token.
func anonymous(target Target) *session {
	return &session{target: target, catalog: map[string]string{"identity": target.AuthURL}}
}

// keystoneError checks Keystone's error body.
func keystoneError(t *testing.T, r *reply, status int, title string) *reply {
	t.Helper()
	r.want(t, status)
	return r.keys(t, "", "error").keys(t, "error", "code message title").equal(t, "error.code", status).equal(t, "error.title", title)
}

func keystoneVersions(t *testing.T, target Target) {
	s := anonymous(target)
	s.catalog["root"] = strings.TrimSuffix(target.AuthURL, "/v3")
	r := s.get(t, "root", "/").want(t, http.StatusMultipleChoices)
	r.wantHeader(t, "Location", target.AuthURL+"/").keys(t, "versions", "values")
	r.keys(t, "versions.values.0", "id status updated links media-types").equal(t, "versions.values.0.status", "stable")
	r = s.get(t, "identity", "").want(t, http.StatusOK)
	r.equal(t, "version.id", "v3.14").equal(t, "version.links.0.rel", "self").wantHeader(t, "X-Openstack-Request-Id", "")
}

func keystoneScopes(t *testing.T, target Target) {
	s := anonymous(target)
	r := s.post(t, "identity", "/auth/tokens", passwordAuth("demo", target.Password, "demo")).want(t, http.StatusCreated)
	r.wantHeader(t, "X-Subject-Token", "").wantHeader(t, "Content-Type", "application/json").wantHeader(t, "Vary", "X-Auth-Token")
	r.keys(t, "token", tokenKeys+" project is_domain roles catalog")
	r.keys(t, "token.user", "id name domain password_expires_at").keys(t, "token.project", "id name domain")
	r.equal(t, "token.user.domain", map[string]string{"id": "default", "name": "Default"}).equal(t, "token.is_domain", false)
	r.equal(t, "token.methods", []string{"password"}).keys(t, "token.roles.0", "id name").keys(t, "token.catalog.0", "id type name endpoints")
	r.keys(t, "token.catalog.0.endpoints.0", "id interface region region_id url")
	if roles := sortedValues(r.list("token.roles"), "name"); !slices.Equal(roles, []string{"member", "reader"}) {
		t.Errorf("a member's roles are %v: implied ones are part of a token", roles)
	}
	if len(r.text("token.expires_at")) != len("2026-11-21T22:31:33.000000Z") || len(r.text("token.user.id")) != 32 {
		t.Errorf("expires_at %q, user id %q", r.text("token.expires_at"), r.text("token.user.id"))
	}
	for user, want := range map[string][]string{"demo-reader": {"reader"}, "demo-manager": {"manager", "member", "reader"}} {
		r := s.post(t, "identity", "/auth/tokens", passwordAuth(user, target.Password, "demo")).want(t, http.StatusCreated)
		if roles := sortedValues(r.list("token.roles"), "name"); !slices.Equal(roles, want) {
			t.Errorf("the roles of %s are %v, want %v", user, roles, want)
		}
	}

	unscoped := s.post(t, "identity", "/auth/tokens", passwordAuth("demo", target.Password, "")).want(t, http.StatusCreated)
	unscoped.keys(t, "token", tokenKeys)
	rescoped := s.post(t, "identity", "/auth/tokens", map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"token"}, "token": map[string]string{"id": unscoped.header.Get("X-Subject-Token")}},
		"scope":    map[string]any{"project": map[string]string{"id": r.text("token.project.id")}},
	}}).want(t, http.StatusCreated)
	rescoped.keys(t, "token", tokenKeys+" project is_domain roles catalog").equal(t, "token.expires_at", unscoped.text("token.expires_at"))
	if methods := sortedValues(rescoped.list("token.methods"), ""); !slices.Equal(methods, []string{"password", "token"}) {
		t.Errorf("methods of a rescoped token: %v", methods)
	}
	if len(rescoped.list("token.audit_ids")) != 2 {
		t.Errorf("a rescoped token has its parent's audit id as well: %v", rescoped.list("token.audit_ids"))
	}

	system := passwordAuth("admin", target.Password, "")
	system["auth"].(map[string]any)["scope"] = map[string]any{"system": map[string]bool{"all": true}}
	s.post(t, "identity", "/auth/tokens", system).want(t, http.StatusCreated).
		keys(t, "token", tokenKeys+" system roles catalog").equal(t, "token.system", map[string]bool{"all": true})

	s.post(t, "identity", "/auth/tokens?nocatalog", passwordAuth("demo", target.Password, "demo")).want(t, http.StatusCreated).
		keys(t, "token", tokenKeys+" project is_domain roles")
}

func sortedValues(list []any, key string) []string {
	out := values(list, key)
	slices.Sort(out)
	return out
}

func keystoneRefusals(t *testing.T, target Target) {
	s := anonymous(target)
	const unauthorized = "The request you have made requires authentication."
	for name, body := range map[string]any{
		"wrong password":  passwordAuth("demo", "not it", "demo"),
		"unknown user":    passwordAuth("nobody", target.Password, "demo"),
		"foreign project": passwordAuth("demo", target.Password, "other"),
		"unknown project": passwordAuth("demo", target.Password, "no-such-project"),
		"no system role":  map[string]any{"auth": map[string]any{"identity": passwordAuth("demo", target.Password, "")["auth"].(map[string]any)["identity"], "scope": map[string]any{"system": map[string]bool{"all": true}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := keystoneError(t, s.post(t, "identity", "/auth/tokens", body), http.StatusUnauthorized, "Unauthorized")
			r.equal(t, "error.message", unauthorized)
			r.wantHeader(t, "WWW-Authenticate", `Keystone uri="`+target.AuthURL+`"`)
		})
	}
	for name, body := range map[string]any{
		"no identity":       map[string]any{"auth": map[string]any{}},
		"user without name": map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{"user": map[string]any{"password": "x"}}}}},
		"method is missing": map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"password"}}}},
		"empty":             map[string]any{},
	} {
		t.Run(name, func(t *testing.T) {
			keystoneError(t, s.post(t, "identity", "/auth/tokens", body), http.StatusBadRequest, "Bad Request")
		})
	}
	forged := map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"token"}, "token": map[string]string{"id": "gAAAAABforged"}}}}
	keystoneError(t, s.post(t, "identity", "/auth/tokens", forged), http.StatusNotFound, "Not Found")
	magic := map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"magic"}, "magic": map[string]any{}}}}
	s.post(t, "identity", "/auth/tokens", magic).want(t, http.StatusUnauthorized).keys(t, "error", "code message title identity").
		equal(t, "error.message", "Attempted to authenticate with an unsupported method.").keys(t, "error.identity", "methods")
	keystoneError(t, s.get(t, "identity", "/projects"), http.StatusUnauthorized, "Unauthorized").
		wantHeader(t, "WWW-Authenticate", `Keystone uri="`+target.AuthURL+`"`)
	keystoneError(t, s.get(t, "identity", "/projects", "X-Auth-Token", "gAAAAABforged"), http.StatusUnauthorized, "Unauthorized")
}

func keystoneValidation(t *testing.T, target Target) {
	demo, reader, kiln := login(t, target, "demo", "demo"), login(t, target, "demo-reader", "demo"), login(t, target, "kiln", "service")
	r := kiln.get(t, "identity", "/auth/tokens", "X-Subject-Token", demo.token).want(t, http.StatusOK)
	r.keys(t, "token", tokenKeys+" project is_domain roles catalog").equal(t, "token.user.name", "demo").wantHeader(t, "X-Subject-Token", demo.token)
	kiln.get(t, "identity", "/auth/tokens?nocatalog", "X-Subject-Token", demo.token).want(t, http.StatusOK).
		keys(t, "token", tokenKeys+" project is_domain roles")
	if r := kiln.call(t, http.MethodHead, "identity", "/auth/tokens", nil, "X-Subject-Token", demo.token); r.status != http.StatusOK || len(r.raw) > 0 {
		t.Errorf("HEAD: %d with %d bytes", r.status, len(r.raw))
	}
	demo.get(t, "identity", "/auth/tokens", "X-Subject-Token", demo.token).want(t, http.StatusOK)
	keystoneError(t, demo.get(t, "identity", "/auth/tokens", "X-Subject-Token", reader.token), http.StatusForbidden, "Forbidden").
		equal(t, "error.message", "You are not authorized to perform the requested action: identity:validate_token.")
	keystoneError(t, kiln.get(t, "identity", "/auth/tokens", "X-Subject-Token", "gAAAAABforged"), http.StatusNotFound, "Not Found")
}

func keystoneRevocation(t *testing.T, target Target) {
	demo, kiln := login(t, target, "demo", "demo"), login(t, target, "kiln", "service")
	demo.delete(t, "identity", "/auth/tokens", "X-Subject-Token", demo.token).want(t, http.StatusNoContent)
	keystoneError(t, kiln.get(t, "identity", "/auth/tokens", "X-Subject-Token", demo.token), http.StatusNotFound, "Not Found")
	keystoneError(t, demo.get(t, "identity", "/auth/projects"), http.StatusUnauthorized, "Unauthorized")
}

func keystonePeople(t *testing.T, target Target) {
	admin, demo := login(t, target, "admin", "admin"), login(t, target, "demo", "demo")
	r := admin.get(t, "identity", "/projects?name=demo").want(t, http.StatusOK)
	r.keys(t, "", "projects links").keys(t, "links", "self next previous")
	r.keys(t, "projects.0", "id name domain_id description enabled parent_id is_domain tags options links").equal(t, "projects.1", nil)
	r.equal(t, "projects.0.id", demo.projectID)
	admin.get(t, "identity", "/users?name=demo").want(t, http.StatusOK).equal(t, "users.0.id", demo.userID).
		keys(t, "users.0", "id name domain_id enabled options password_expires_at links")
	admin.get(t, "identity", "/roles?name=member").want(t, http.StatusOK).keys(t, "roles.0", "id name domain_id description options links")
	keystoneError(t, demo.get(t, "identity", "/users"), http.StatusForbidden, "Forbidden").
		equal(t, "error.message", "You are not authorized to perform the requested action: identity:list_users.")
	demo.get(t, "identity", "/users/"+demo.userID).want(t, http.StatusOK).equal(t, "user.name", "demo")
	demo.get(t, "identity", "/auth/projects").want(t, http.StatusOK).equal(t, "projects.0.name", "demo").equal(t, "projects.1", nil)
	keystoneError(t, admin.get(t, "identity", "/users/none"), http.StatusNotFound, "Not Found").equal(t, "error.message", "Could not find user: none.")
	keystoneError(t, admin.get(t, "identity", "/projects/none"), http.StatusNotFound, "Not Found").equal(t, "error.message", "Could not find project: none.")

	name := "conformance-" + uuid.NewString()
	r = admin.post(t, "identity", "/projects", map[string]any{"project": map[string]any{"name": name}}).want(t, http.StatusCreated)
	project := r.text("project.id")
	t.Cleanup(func() { admin.delete(t, "identity", "/projects/"+project) })
	r.keys(t, "project", "id name domain_id description enabled parent_id is_domain tags options links").equal(t, "project.parent_id", "default")
	keystoneError(t, admin.post(t, "identity", "/projects", map[string]any{"project": map[string]any{"name": name}}), http.StatusConflict, "Conflict").
		contains(t, "error.message", "either the same name or same id in the same domain: name is "+name)
	keystoneError(t, admin.post(t, "identity", "/users", map[string]any{"user": map[string]any{"name": "demo"}}), http.StatusConflict, "Conflict").
		equal(t, "error.message", "Conflict occurred attempting to store user - Duplicate entry found with name demo at domain ID default.")
	keystoneError(t, admin.post(t, "identity", "/roles", map[string]any{"role": map[string]any{"name": "member"}}), http.StatusConflict, "Conflict").
		equal(t, "error.message", "Conflict occurred attempting to store role - Duplicate entry found with name member.")
	keystoneError(t, admin.post(t, "identity", "/users", map[string]any{"user": map[string]any{"password": "x"}}), http.StatusBadRequest, "Bad Request").
		contains(t, "error.message", "'name' is a required property")
	keystoneError(t, demo.post(t, "identity", "/users", map[string]any{"user": map[string]any{"name": name}}), http.StatusForbidden, "Forbidden")
}

func keystoneRoles(t *testing.T, target Target) {
	admin, kiln := login(t, target, "admin", "admin"), login(t, target, "kiln", "service")
	name := "conformance-" + uuid.NewString()
	r := admin.post(t, "identity", "/users", map[string]any{"user": map[string]any{"name": name, "password": "secret-one"}}).want(t, http.StatusCreated)
	r.keys(t, "user", "id name domain_id enabled options password_expires_at links")
	user := r.text("user.id")
	t.Cleanup(func() { admin.delete(t, "identity", "/users/"+user) })
	role := admin.get(t, "identity", "/roles?name=member").want(t, http.StatusOK).text("roles.0.id")
	project := admin.get(t, "identity", "/projects?name=demo").want(t, http.StatusOK).text("projects.0.id")

	grant := "/projects/" + project + "/users/" + user + "/roles/" + role
	keystoneError(t, admin.get(t, "identity", grant), http.StatusNotFound, "Not Found")
	admin.put(t, "identity", grant, nil).want(t, http.StatusNoContent)
	admin.put(t, "identity", grant, nil).want(t, http.StatusNoContent)
	admin.call(t, http.MethodHead, "identity", grant, nil).want(t, http.StatusNoContent)
	r = admin.get(t, "identity", "/role_assignments?user.id="+user).want(t, http.StatusOK)
	r.keys(t, "role_assignments.0", "role user scope links").equal(t, "role_assignments.0.scope.project.id", project)
	r = admin.get(t, "identity", "/role_assignments?include_names&user.id="+user).want(t, http.StatusOK)
	r.equal(t, "role_assignments.0.role.name", "member").equal(t, "role_assignments.0.user.name", name)

	s := anonymous(target)
	s.post(t, "identity", "/auth/tokens", passwordAuth(name, "secret-one", "demo")).want(t, http.StatusCreated)
	admin.delete(t, "identity", grant).want(t, http.StatusNoContent)
	keystoneError(t, s.post(t, "identity", "/auth/tokens", passwordAuth(name, "secret-one", "demo")), http.StatusUnauthorized, "Unauthorized")

	inherited := "/OS-INHERIT/domains/default/users/" + user + "/roles/" + role + "/inherited_to_projects"
	admin.put(t, "identity", inherited, nil).want(t, http.StatusNoContent)
	admin.call(t, http.MethodHead, "identity", inherited, nil).want(t, http.StatusNoContent)
	s.post(t, "identity", "/auth/tokens", passwordAuth(name, "secret-one", "other")).want(t, http.StatusCreated)
	admin.delete(t, "identity", inherited).want(t, http.StatusNoContent)

	// Kiln's own user reaches every project by its inherited role.
	r = s.post(t, "identity", "/auth/tokens", passwordAuth("kiln", target.Password, "demo")).want(t, http.StatusCreated)
	if !slices.Contains(values(r.list("token.roles"), "name"), "admin") {
		t.Errorf("roles of kiln in demo: %v", values(r.list("token.roles"), "name"))
	}
	if r := kiln.get(t, "identity", "/auth/projects").want(t, http.StatusOK); !slices.Contains(values(r.list("projects"), "name"), "other") {
		t.Errorf("projects of kiln: %v", values(r.list("projects"), "name"))
	}
}

func keystoneAppCreds(t *testing.T, target Target) {
	demo, other := login(t, target, "demo", "demo"), login(t, target, "other", "other")
	base := "/users/" + demo.userID + "/application_credentials"
	name := "conformance-" + uuid.NewString()
	r := demo.post(t, "identity", base, map[string]any{"application_credential": map[string]any{"name": name}}).want(t, http.StatusCreated)
	r.keys(t, "application_credential", "id name description expires_at project_id user_id roles secret unrestricted links system")
	id, secret := r.text("application_credential.id"), r.text("application_credential.secret")
	t.Cleanup(func() { demo.delete(t, "identity", base+"/"+id) })
	keystoneError(t, demo.post(t, "identity", base, map[string]any{"application_credential": map[string]any{"name": name}}), http.StatusConflict, "Conflict")
	keystoneError(t, other.post(t, "identity", base, map[string]any{"application_credential": map[string]any{"name": "x"}}), http.StatusForbidden, "Forbidden")

	auth := func(secret string) any {
		return map[string]any{"auth": map[string]any{"identity": map[string]any{"methods": []string{"application_credential"},
			"application_credential": map[string]string{"id": id, "secret": secret}}}}
	}
	s := anonymous(target)
	r = s.post(t, "identity", "/auth/tokens", auth(secret)).want(t, http.StatusCreated)
	r.keys(t, "token", tokenKeys+" project is_domain roles catalog application_credential").equal(t, "token.project.id", demo.projectID)
	r.equal(t, "token.application_credential", map[string]any{"id": id, "name": name, "restricted": true})
	r.equal(t, "token.methods", []string{"application_credential"})
	keystoneError(t, s.post(t, "identity", "/auth/tokens", auth("not it")), http.StatusUnauthorized, "Unauthorized")

	demo.delete(t, "identity", base+"/"+id).want(t, http.StatusNoContent)
	keystoneError(t, demo.get(t, "identity", base+"/"+id), http.StatusNotFound, "Not Found").
		equal(t, "error.message", "Could not find Application Credential: "+id+".")
	keystoneError(t, s.post(t, "identity", "/auth/tokens", auth(secret)), http.StatusNotFound, "Not Found")
}

// keystoneExpiringAppCreds: a token ends with its credential, and its end has no zone then.
func keystoneExpiringAppCreds(t *testing.T, target Target) {
	demo := login(t, target, "demo", "demo")
	base := "/users/" + demo.userID + "/application_credentials"
	end := time.Now().UTC().Add(10 * time.Minute).Truncate(time.Second).Format("2006-01-02T15:04:05.000000")
	r := demo.post(t, "identity", base, map[string]any{"application_credential": map[string]any{"name": "conformance-" + uuid.NewString(), "expires_at": end}}).
		want(t, http.StatusCreated)
	id, secret := r.text("application_credential.id"), r.text("application_credential.secret")
	t.Cleanup(func() { demo.delete(t, "identity", base+"/"+id) })
	anonymous(target).post(t, "identity", "/auth/tokens", map[string]any{"auth": map[string]any{"identity": map[string]any{
		"methods": []string{"application_credential"}, "application_credential": map[string]string{"id": id, "secret": secret},
	}}}).want(t, http.StatusCreated).equal(t, "token.expires_at", strings.TrimSuffix(end, ".000000"))
}

// keystoneCatalog is what kiln-manage bootstrap does.
func keystoneCatalog(t *testing.T, target Target) {
	admin, demo := login(t, target, "admin", "admin"), login(t, target, "demo", "demo")
	for _, service := range []string{"identity", "image", "placement", "compute", "provisioning"} {
		if demo.catalog[service] == "" {
			t.Errorf("the catalog has no %s", service)
		}
	}
	demo.get(t, "identity", "/auth/catalog").want(t, http.StatusOK).keys(t, "", "catalog links").keys(t, "catalog.0", "id type name endpoints")

	kind := "conformance-" + uuid.NewString()
	r := admin.post(t, "identity", "/services", map[string]any{"service": map[string]any{"type": kind, "name": "x", "description": "d"}}).want(t, http.StatusCreated)
	r.keys(t, "service", "id type name description enabled links")
	id := r.text("service.id")
	t.Cleanup(func() { admin.delete(t, "identity", "/services/"+id) })
	admin.get(t, "identity", "/services?type="+kind).want(t, http.StatusOK).equal(t, "services.0.id", id).equal(t, "services.1", nil)
	r = admin.post(t, "identity", "/endpoints", map[string]any{"endpoint": map[string]any{
		"service_id": id, "interface": "public", "region_id": "RegionOne", "url": "http://one.example.test/"}}).want(t, http.StatusCreated)
	r.keys(t, "endpoint", "id interface region region_id service_id url enabled links").equal(t, "endpoint.region", "RegionOne")
	endpoint := r.text("endpoint.id")
	admin.call(t, http.MethodPatch, "identity", "/endpoints/"+endpoint, map[string]any{"endpoint": map[string]any{"url": "http://two.example.test/"}}).
		want(t, http.StatusOK).equal(t, "endpoint.url", "http://two.example.test/")
	if again := login(t, target, "demo", "demo"); again.catalog[kind] != "http://two.example.test" {
		t.Errorf("the catalog shows %q", again.catalog[kind])
	}
	keystoneError(t, admin.post(t, "identity", "/endpoints", map[string]any{"endpoint": map[string]any{
		"service_id": "none", "interface": "public", "url": "http://x.example.test/"}}), http.StatusBadRequest, "Bad Request")
	keystoneError(t, demo.get(t, "identity", "/services"), http.StatusForbidden, "Forbidden")
	admin.delete(t, "identity", "/services/"+id).want(t, http.StatusNoContent)
	keystoneError(t, admin.get(t, "identity", "/endpoints/"+endpoint), http.StatusNotFound, "Not Found")
}
