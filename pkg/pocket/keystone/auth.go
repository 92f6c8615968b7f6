package keystone

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

type ref struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain *ref   `json:"domain"`
}

type authBody struct {
	Auth *struct {
		Identity *struct {
			Methods  []string `json:"methods"`
			Password *struct {
				User struct {
					ref
					Password string `json:"password"`
				} `json:"user"`
			} `json:"password"`
			Token *struct {
				ID string `json:"id"`
			} `json:"token"`
			AppCred *struct {
				ID     string `json:"id"`
				Name   string `json:"name"`
				Secret string `json:"secret"`
				User   *ref   `json:"user"`
			} `json:"application_credential"`
		} `json:"identity"`
		Scope json.RawMessage `json:"scope"`
	} `json:"auth"`
}

type scope struct {
	Project  *ref            `json:"project"`
	Domain   *ref            `json:"domain"`
	System   json.RawMessage `json:"system"`
	Unscoped json.RawMessage `json:"unscoped"`
}

const malformed = " The server could not comply with the request since it is either malformed or otherwise incorrect." +
	" The client is assumed to be in error."

func missing(attribute, target string) error {
	return fail(http.StatusBadRequest, "Expecting to find %s in %s.%s", attribute, target, malformed)
}

var methods = []string{"password", "token", "application_credential"}

// createToken is POST /v3/auth/tokens.
func (s *Service) createToken(r *http.Request, _ *token) (answer, error) {
	var body authBody
	if err := wire.ReadJSON(r, &body); err != nil {
		return answer{}, fail(http.StatusBadRequest, "%s", err.Error())
	}
	if body.Auth == nil {
		return answer{}, missing("auth", "request body")
	}
	if body.Auth.Identity == nil {
		return answer{}, fail(http.StatusBadRequest, "'identity' is a required property")
	}
	t, err := s.identify(&body)
	if err != nil {
		return answer{}, err
	}
	if t.appCred == nil {
		if err := s.scopeTo(t, body.Auth.Scope); err != nil {
			return answer{}, err
		}
	}
	s.issue(t)
	return answer{http.StatusCreated, s.render(t, !r.URL.Query().Has("nocatalog")), map[string]string{"X-Subject-Token": t.id}}, nil
}

// identify answers a token without scope for the one method that was used.
func (s *Service) identify(body *authBody) (*token, error) {
	identity := body.Auth.Identity
	if len(identity.Methods) == 0 {
		return nil, errUnauthorized
	}
	for _, method := range identity.Methods {
		switch {
		case method == "password" && identity.Password == nil, method == "token" && identity.Token == nil,
			method == "application_credential" && identity.AppCred == nil:
			return nil, missing(method, "identity")
		case !slices.Contains(methods, method):
			return nil, &apiError{http.StatusUnauthorized, "Attempted to authenticate with an unsupported method.", methods}
		}
	}
	switch identity.Methods[0] {
	case "token":
		return s.byToken(identity.Token.ID)
	case "application_credential":
		return s.byAppCred(body)
	}
	u := identity.Password.User
	if u.ID == "" && u.Name == "" {
		return nil, fail(http.StatusBadRequest, "Invalid input for field identity/password/user: id or name must be present.")
	}
	if u.ID == "" && u.Domain == nil {
		return nil, missing("domain", "user")
	}
	user := s.lookup(s.users, &u.ref)
	if user == nil || user["enabled"] != true || s.passwords[idOf(user)] != u.Password {
		return nil, errUnauthorized
	}
	return &token{userID: idOf(user), methods: []string{"password"}}, nil
}

// byToken makes a new token from an older one: same end of life, both audit ids.
func (s *Service) byToken(id string) (*token, error) {
	old := s.find(id)
	if old == nil {
		return nil, fail(http.StatusNotFound, "Could not recognize Fernet token")
	}
	if old.appCred != nil {
		return nil, errUnauthorized
	}
	methods := append([]string{"token"}, slices.DeleteFunc(slices.Clone(old.methods), func(m string) bool { return m == "token" })...)
	return &token{userID: old.userID, methods: methods, expires: old.expires, audit: old.audit[len(old.audit)-1:]}, nil
}

// lookup finds a user or project by id, or by name and domain.
func (s *Service) lookup(c *collection, r *ref) doc {
	if r.ID != "" {
		return c.get(r.ID)
	}
	if r.Domain == nil {
		return nil
	}
	domain := s.domains.get(r.Domain.ID)
	if r.Domain.Name != "" {
		domain = s.domains.byName(r.Domain.Name, "")
	}
	if domain == nil {
		return nil
	}
	return c.byName(r.Name, idOf(domain))
}

// scopeTo gives the token the scope that was asked for; without one it takes the user's default project.
func (s *Service) scopeTo(t *token, raw json.RawMessage) error {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil && text == "unscoped" {
		if project := s.users.text(t.userID, "default_project_id"); len(raw) == 0 && project != "" {
			if roles := s.rolesOn(t.userID, "project", project); len(roles) > 0 {
				t.projectID, t.roles = project, roles
			}
		}
		return nil
	}
	var sc scope
	if err := json.Unmarshal(raw, &sc); err != nil {
		return fail(http.StatusBadRequest, "Invalid input for field 'scope'.")
	}
	switch {
	case sc.Project != nil:
		if sc.Project.ID == "" && sc.Project.Name != "" && sc.Project.Domain == nil {
			return missing("domain", "project")
		}
		project := s.lookup(s.projects, sc.Project)
		if project == nil || project["enabled"] != true {
			return errUnauthorized
		}
		t.projectID = idOf(project)
		t.roles = s.rolesOn(t.userID, "project", t.projectID)
	case sc.Domain != nil:
		domain := s.domains.get(sc.Domain.ID)
		if sc.Domain.Name != "" {
			domain = s.domains.byName(sc.Domain.Name, "")
		}
		if domain == nil {
			return errUnauthorized
		}
		t.domainID = idOf(domain)
		t.roles = s.rolesOn(t.userID, "domain", t.domainID)
	case len(sc.System) > 0:
		t.system = true
		t.roles = s.rolesOn(t.userID, "system", "all")
	case len(sc.Unscoped) > 0:
		return nil
	default:
		return missing("system, project, domain, OS-TRUST:trust or unscoped", "scope")
	}
	if len(t.roles) == 0 {
		return errUnauthorized
	}
	return nil
}
