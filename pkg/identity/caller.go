// Package identity says who calls. Adapters below it (keystone) find that out from a token, and
// identity/policy says what such a caller may do.
package identity

import (
	"context"
	"slices"
	"time"
)

// Caller is who a valid token speaks for. Roles are the effective ones that Keystone gives, implied roles included.
type Caller struct {
	UserID       string
	UserName     string
	ProjectID    string // "" for system and domain tokens
	ProjectName  string
	DomainID     string // of the token's scope where it is a domain; of the user otherwise
	Roles        []string
	System       bool      // a system-scoped token
	Expires      time.Time // of the token, UTC
	ServiceRoles []string  // roles of the service token beside it; empty where none was sent
}

// HasRole reports whether the caller has the role by its own token. The comparison is exact.
func (c *Caller) HasRole(role string) bool { return slices.Contains(c.Roles, role) }

// Authenticator finds the caller of a token. serviceToken is the X-Service-Token header, "" where there is none;
// with a valid one, a user's token that has just expired is accepted (keystonemiddleware's allow_expired).
// Errors are *errs.Error: Unauthenticated for a token that is missing, unknown, forged or expired,
// Unavailable or Timeout where Keystone cannot be asked. It is safe for use by many goroutines.
type Authenticator interface {
	Authenticate(ctx context.Context, token, serviceToken string) (*Caller, error)
}
