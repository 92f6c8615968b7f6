package wire

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Caller is who makes a request, as the token says.
type Caller struct {
	UserID, UserName       string
	ProjectID, ProjectName string // empty for an unscoped or system-scoped token
	DomainID               string // of the user
	SystemScope            bool
	Roles                  []string // implied ones included
}

// Is reports whether the caller holds a role.
func (c Caller) Is(role string) bool { return slices.Contains(c.Roles, role) }

// Admin reports whether the caller holds the role admin.
func (c Caller) Admin() bool { return c.Is("admin") }

// Tokens validates tokens as keystonemiddleware does for a real service.
type Tokens interface {
	// Check finds the caller of a token; false for an unknown, expired or revoked one.
	Check(token string) (Caller, bool)
	// Issue makes a project-scoped token for a service's own calls: what nova or zun would send.
	// The user must be a seeded one. Tests use it as well.
	Issue(userName, projectName string, life time.Duration) (string, error)
}

type callerKey struct{}

// WithCaller puts the caller into a context.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf finds the caller that Authenticate put into the request's context; the zero Caller without one.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// Authenticate lets only requests with a valid X-Auth-Token through, and puts the caller into the context.
// Without one the answer is keystonemiddleware's 401
// (https://opendev.org/openstack/keystonemiddleware/src/branch/stable/zed/keystonemiddleware/auth_token/__init__.py).
// A project-less token passes; the service decides what it may do.
func (k Kit) Authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := k.Tokens.Check(r.Header.Get("X-Auth-Token"))
		if !ok {
			w.Header().Set("WWW-Authenticate", `Keystone uri="`+k.IdentityURL+`"`)
			if k.Refuse != nil {
				k.Refuse(w, r)
			} else {
				unauthorized(w)
			}
			return
		}
		if rec := recordOf(r.Context()); rec != nil {
			rec.User, rec.Project = caller.UserName, caller.ProjectName
		}
		next.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), caller)))
	})
}

func unauthorized(w http.ResponseWriter) {
	WriteJSON(w, http.StatusUnauthorized, map[string]any{"error": map[string]any{
		"code": http.StatusUnauthorized, "title": "Unauthorized",
		"message": "The request you have made requires authentication.",
	}})
}
