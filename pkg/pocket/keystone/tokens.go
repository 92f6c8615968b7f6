package keystone

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// token is one issued token.
type token struct {
	id, userID      string
	projectID       string // empty for unscoped, domain and system scope
	domainID        string // scope, not the user's
	system          bool
	roles           []doc
	methods         []string
	audit           []string
	issued, expires time.Time
	appCred         *appCred
}

// endsWithCredential reports whether the application credential ends before a token of usual life would.
func (t *token) endsWithCredential() bool {
	return t.appCred != nil && !t.appCred.expires.IsZero() && !t.appCred.expires.After(t.expires)
}

// expiresAt is the end as the API shows it. Where the credential gives the end, Keystone forgets the zone and the fraction
// (https://opendev.org/openstack/keystone/src/branch/stable/zed/keystone/token/provider.py, issue_token).
func (t *token) expiresAt() string {
	if t.endsWithCredential() {
		return t.expires.UTC().Format("2006-01-02T15:04:05")
	}
	return wire.MicroStamp(t.expires) + "Z"
}

func (t *token) unscoped() bool { return t.projectID == "" && t.domainID == "" && !t.system }

func (t *token) has(role string) bool {
	return slices.ContainsFunc(t.roles, func(r doc) bool { return r["name"] == role })
}

// find answers a token that is valid now.
func (s *Service) find(id string) *token {
	t := s.tokens[id]
	if t == nil || !s.kit.Clock().Before(t.expires) || s.users.get(t.userID)["enabled"] != true {
		return nil
	}
	return t
}

// issue keeps a new token; roles are those that the user has on the scope.
func (s *Service) issue(t *token) {
	random := wire.Hex(s.kit.NewID()) + wire.Hex(s.kit.NewID()) + wire.Hex(s.kit.NewID())
	t.id = "gAAAAAB" + random // looks like Fernet's: clients log and mask by that
	t.issued = s.kit.Clock()
	if t.expires.IsZero() {
		t.expires = t.issued.Add(s.opts.TokenLife)
	}
	if t.endsWithCredential() {
		t.expires = t.appCred.expires
	}
	audit := base64.RawURLEncoding.EncodeToString([]byte(random[:16]))
	t.audit = append([]string{audit}, t.audit...)
	s.tokens[t.id] = t
}

// Check implements wire.Tokens.
func (s *Service) Check(id string) (wire.Caller, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.find(id)
	if t == nil {
		return wire.Caller{}, false
	}
	c := wire.Caller{
		UserID: t.userID, UserName: s.users.text(t.userID, "name"), DomainID: s.users.text(t.userID, "domain_id"),
		ProjectID: t.projectID, ProjectName: s.projects.text(t.projectID, "name"), SystemScope: t.system,
	}
	for _, r := range t.roles {
		c.Roles = append(c.Roles, r["name"].(string))
	}
	return c, true
}

// Issue implements wire.Tokens.
func (s *Service) Issue(userName, projectName string, life time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, project := s.user(userName), s.project(projectName)
	roles := s.rolesOn(user, "project", project)
	if len(roles) == 0 {
		return "", fmt.Errorf("user %q has no role on project %q", userName, projectName)
	}
	t := &token{userID: user, projectID: project, roles: roles, methods: []string{"password"}, expires: s.kit.Clock().Add(life)}
	s.issue(t)
	return t.id, nil
}

func (s *Service) subject(r *http.Request) *token { return s.find(r.Header.Get("X-Subject-Token")) }

func (s *Service) mayValidate(r *http.Request, t *token) bool {
	subject := s.subject(r)
	return t.has("admin") || t.has("service") || t.system && t.has("reader") || subject != nil && subject.userID == t.userID
}

func (s *Service) mayRevoke(r *http.Request, t *token) bool {
	subject := s.subject(r)
	return t.has("admin") || subject != nil && subject.userID == t.userID
}

func (s *Service) showToken(r *http.Request, _ *token) (answer, error) {
	t := s.subject(r)
	if t == nil {
		return answer{}, notFound("token", r.Header.Get("X-Subject-Token"))
	}
	return answer{http.StatusOK, s.render(t, !r.URL.Query().Has("nocatalog")), map[string]string{"X-Subject-Token": t.id}}, nil
}

func (s *Service) revokeToken(r *http.Request, _ *token) (answer, error) {
	t := s.subject(r)
	if t == nil {
		return answer{}, notFound("token", r.Header.Get("X-Subject-Token"))
	}
	delete(s.tokens, t.id)
	return answer{status: http.StatusNoContent}, nil
}

// render is a token's body
// (https://opendev.org/openstack/keystone/src/branch/stable/zed/keystone/common/render_token.py).
func (s *Service) render(t *token, catalog bool) doc {
	user := s.users.get(t.userID)
	body := doc{
		"methods": t.methods, "audit_ids": t.audit,
		"issued_at": wire.MicroStamp(t.issued) + "Z", "expires_at": t.expiresAt(),
		"user": doc{
			"id": t.userID, "name": user["name"], "password_expires_at": nil,
			"domain": s.domainRef(s.users.text(t.userID, "domain_id")),
		},
	}
	switch {
	case t.projectID != "":
		body["project"] = doc{
			"id": t.projectID, "name": s.projects.text(t.projectID, "name"),
			"domain": s.domainRef(s.projects.text(t.projectID, "domain_id")),
		}
		body["is_domain"] = false
	case t.domainID != "":
		body["domain"] = s.domainRef(t.domainID)
	case t.system:
		body["system"] = doc{"all": true}
	}
	if !t.unscoped() {
		body["roles"] = t.roles
		if catalog {
			body["catalog"] = s.catalog()
		}
	}
	if t.appCred != nil {
		body["application_credential"] = doc{"id": t.appCred.id, "name": t.appCred.name, "restricted": !t.appCred.unrestricted}
	}
	return doc{"token": body}
}

func (s *Service) domainRef(id string) doc { return doc{"id": id, "name": s.domains.text(id, "name")} }

func (s *Service) catalog() []doc {
	list := []doc{}
	for _, service := range s.services.list {
		if service["enabled"] != true {
			continue
		}
		faces := []doc{}
		for _, e := range s.endpoints.list {
			if e["service_id"] == service["id"] && e["enabled"] == true {
				faces = append(faces, doc{"id": e["id"], "interface": e["interface"], "url": e["url"],
					"region": e["region"], "region_id": e["region_id"]})
			}
		}
		list = append(list, doc{"id": service["id"], "type": service["type"], "name": service["name"], "endpoints": faces})
	}
	return list
}

func (s *Service) showCatalog(r *http.Request, t *token) (answer, error) {
	if t.projectID == "" {
		return answer{}, fail(http.StatusForbidden, "A project-scoped token is required to produce a service catalog.")
	}
	return answer{status: http.StatusOK, body: doc{"catalog": s.catalog(), "links": doc{"self": s.kit.URL + r.URL.Path}}}, nil
}
