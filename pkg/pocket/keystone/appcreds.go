package keystone

import (
	"net/http"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// appCred is an application credential: a secret that stands for a user's roles on one project.
type appCred struct {
	id, name, secret  string
	userID, projectID string
	description       any
	roles             []doc
	unrestricted      bool
	expires           time.Time // zero for never
}

func (s *Service) serveAppCreds(mux *http.ServeMux) {
	base, one := "/v3/users/{id}/application_credentials", "/v3/users/{id}/application_credentials/{cred}"
	mux.HandleFunc("POST "+base, s.route(s.selfOnly, "identity:create_application_credential", s.createAppCred))
	mux.HandleFunc("GET "+base, s.route(s.selfOrAdmin, "identity:list_application_credentials", s.listAppCreds))
	mux.HandleFunc("GET "+one, s.route(s.selfOrAdmin, "identity:get_application_credential", s.showAppCred))
	mux.HandleFunc("DELETE "+one, s.route(s.selfOrAdmin, "identity:delete_application_credential", s.deleteAppCred))
}

func (s *Service) selfOnly(r *http.Request, t *token) bool { return r.PathValue("id") == t.userID }

func (s *Service) createAppCred(r *http.Request, t *token) (answer, error) {
	var body struct {
		Cred *struct {
			Name         string `json:"name"`
			Description  any    `json:"description"`
			Secret       string `json:"secret"`
			Unrestricted bool   `json:"unrestricted"`
			ExpiresAt    string `json:"expires_at"`
			Roles        []ref  `json:"roles"`
		} `json:"application_credential"`
	}
	if err := wire.ReadJSON(r, &body); err != nil {
		return answer{}, fail(http.StatusBadRequest, "%s", err.Error())
	}
	c := body.Cred
	if c == nil || c.Name == "" {
		return answer{}, fail(http.StatusBadRequest, "'name' is a required property")
	}
	if t.appCred != nil && !t.appCred.unrestricted {
		return answer{}, fail(http.StatusForbidden, "Using method 'application_credential' is not allowed for managing additional application credentials.")
	}
	for _, have := range s.appCreds {
		if have.userID == t.userID && have.name == c.Name {
			return answer{}, fail(http.StatusConflict, "Conflict occurred attempting to store application_credential - Duplicate entry found with name %s.", c.Name)
		}
	}
	cred := &appCred{id: wire.Hex(s.kit.NewID()), name: c.Name, secret: c.Secret, userID: t.userID, projectID: t.projectID,
		description: c.Description, roles: t.roles, unrestricted: c.Unrestricted}
	if cred.secret == "" {
		cred.secret = wire.Hex(s.kit.NewID()) + wire.Hex(s.kit.NewID())
	}
	if c.ExpiresAt != "" {
		expires, err := parseTime(c.ExpiresAt)
		if err != nil {
			return answer{}, fail(http.StatusBadRequest, "Timestamp not in expected format.%s", malformed)
		}
		cred.expires = expires
	}
	if len(c.Roles) > 0 {
		cred.roles = nil
		for _, want := range c.Roles {
			i := slices.IndexFunc(t.roles, func(r doc) bool { return r["id"] == want.ID || r["name"] == want.Name })
			if i < 0 {
				return answer{}, fail(http.StatusBadRequest, "Invalid application credential: Cannot create an application credential with unassigned role")
			}
			cred.roles = append(cred.roles, t.roles[i])
		}
	}
	s.appCreds[cred.id] = cred
	shown := s.showCred(cred)
	shown["secret"] = cred.secret
	return answer{status: http.StatusCreated, body: doc{"application_credential": shown}}, nil
}

func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, http.ErrNotSupported
}

func (s *Service) showCred(c *appCred) doc {
	var expires any
	if !c.expires.IsZero() {
		expires = wire.MicroStamp(c.expires)
	}
	return doc{"id": c.id, "name": c.name, "description": c.description, "project_id": c.projectID, "user_id": c.userID, "roles": c.roles,
		"unrestricted": c.unrestricted, "expires_at": expires, "system": nil,
		"links": doc{"self": s.kit.URL + "/v3/users/" + c.userID + "/application_credentials/" + c.id}}
}

func (s *Service) listAppCreds(r *http.Request, _ *token) (answer, error) {
	found := []doc{}
	for _, c := range s.appCreds {
		if c.userID == r.PathValue("id") && (!r.URL.Query().Has("name") || r.URL.Query().Get("name") == c.name) {
			found = append(found, s.showCred(c))
		}
	}
	return s.page(r, "application_credentials", found), nil
}

func (s *Service) cred(r *http.Request) (*appCred, error) {
	c := s.appCreds[r.PathValue("cred")]
	if c == nil || c.userID != r.PathValue("id") {
		return nil, notFound("Application Credential", r.PathValue("cred"))
	}
	return c, nil
}

func (s *Service) showAppCred(r *http.Request, _ *token) (answer, error) {
	c, err := s.cred(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: doc{"application_credential": s.showCred(c)}}, nil
}

// deleteAppCred leaves the tokens that the credential brought: on a real Keystone they work until they expire.
func (s *Service) deleteAppCred(r *http.Request, _ *token) (answer, error) {
	c, err := s.cred(r)
	if err != nil {
		return answer{}, err
	}
	delete(s.appCreds, c.id)
	return answer{status: http.StatusNoContent}, nil
}

// byAppCred logs in with an application credential; it brings its own scope and may not ask for one.
func (s *Service) byAppCred(body *authBody) (*token, error) {
	if len(body.Auth.Scope) > 0 {
		return nil, errUnauthorized
	}
	want := body.Auth.Identity.AppCred
	if want.ID == "" && want.Name == "" {
		return nil, missing("name or ID", "application credential")
	}
	c := s.appCreds[want.ID]
	if want.ID == "" {
		if want.User == nil {
			return nil, missing("user", "application credential")
		}
		user := idOf(s.lookup(s.users, want.User))
		for _, have := range s.appCreds {
			if have.userID == user && have.name == want.Name {
				c = have
			}
		}
	}
	if c == nil && want.ID != "" {
		return nil, notFound("Application Credential", want.ID)
	}
	if c == nil || c.secret != want.Secret || !c.expires.IsZero() && !s.kit.Clock().Before(c.expires) {
		return nil, errUnauthorized
	}
	held := s.rolesOn(c.userID, "project", c.projectID)
	if len(held) == 0 {
		return nil, errUnauthorized
	}
	return &token{userID: c.userID, projectID: c.projectID, roles: c.roles, methods: []string{"application_credential"}, appCred: c}, nil
}
