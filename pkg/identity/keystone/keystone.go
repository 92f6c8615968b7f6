// Package keystone finds the caller of a token by asking Keystone, as keystonemiddleware does for the services in
// Python (https://opendev.org/openstack/keystonemiddleware/src/branch/stable/zed/keystonemiddleware/auth_token/__init__.py).
package keystone

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
)

// Validator asks Keystone what a token is; pkg/openstack/keystone's Client does. errs.NotFound for a bad token.
type Validator interface {
	Validate(ctx context.Context, subject string, allowExpired bool) (keystone.Token, error)
}

// Config says how long answers are kept.
type Config struct {
	Keep         time.Duration // a valid token; 5 min where it is 0, as token_cache_time. A revoked one passes so long
	KeepBad      time.Duration // an invalid one; 10 s where it is 0
	Entries      int           // that are kept at most; 10,000 where it is 0
	ServiceRoles []string      // a service token needs one of them; "service" where it is empty
	Timeout      time.Duration // of the whole question to Keystone; 1 min where it is 0
	Clock        func() time.Time
}

// Authenticator implements identity.Authenticator. It is safe for many goroutines.
type Authenticator struct {
	ask    Validator
	cfg    Config
	cache  cache
	flight singleflight.Group
}

var _ identity.Authenticator = (*Authenticator)(nil)

// New makes an authenticator. Nothing is asked until the first token comes.
func New(ask Validator, cfg Config) *Authenticator {
	cfg.complete()
	return &Authenticator{ask: ask, cfg: cfg, cache: cache{limit: cfg.Entries, entries: map[key]entry{}}}
}

func (cfg *Config) complete() {
	if cfg.Keep == 0 {
		cfg.Keep = 5 * time.Minute
	}
	if cfg.KeepBad == 0 {
		cfg.KeepBad = 10 * time.Second
	}
	if cfg.Entries == 0 {
		cfg.Entries = 10_000
	}
	if len(cfg.ServiceRoles) == 0 {
		cfg.ServiceRoles = []string{"service"}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
}

// Authenticate implements identity.Authenticator. The codes are kiln.identity.no_token, .bad_token, .unscoped and
// .bad_service_token; where Keystone cannot be asked, its own with Unavailable or Timeout.
func (a *Authenticator) Authenticate(ctx context.Context, token, serviceToken string) (*identity.Caller, error) {
	if token == "" {
		return nil, errs.New(errs.Unauthenticated, "kiln.identity.no_token", "the request has no X-Auth-Token")
	}
	var serviceRoles []string
	if serviceToken != "" {
		service, err := a.find(ctx, serviceToken, false)
		if err != nil {
			if errs.Is(err, errs.Unauthenticated) {
				err = errs.New(errs.Unauthenticated, "kiln.identity.bad_service_token", "the X-Service-Token is not valid")
			}
			return nil, err
		}
		serviceRoles = service.Roles
	}
	trusted := slices.ContainsFunc(serviceRoles, func(r string) bool { return slices.Contains(a.cfg.ServiceRoles, r) })
	caller, err := a.find(ctx, token, trusted)
	if err != nil {
		return nil, err
	}
	caller.Roles = slices.Clone(caller.Roles)
	caller.ServiceRoles = slices.Clone(serviceRoles)
	return &caller, nil
}

// find answers from the cache, or asks Keystone once for all who wait for the same token.
func (a *Authenticator) find(ctx context.Context, token string, allowExpired bool) (identity.Caller, error) {
	if !wellFormed(token) {
		return identity.Caller{}, badToken()
	}
	k := key{sum: sha256.Sum256([]byte(token)), allowExpired: allowExpired}
	now := a.cfg.Clock()
	if e, ok := a.cache.get(k, now); ok {
		return e.caller, e.err
	}
	asked := a.flight.DoChan(k.String(), func() (any, error) {
		// Others wait for this answer: it does not end with the request that asked first.
		inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Timeout)
		defer cancel()
		// A flight that landed between the look above and this one has the answer.
		if e, ok := a.cache.get(k, a.cfg.Clock()); ok {
			return e.caller, e.err
		}
		return a.validate(inner, k, token)
	})
	select {
	case result := <-asked:
		caller, _ := result.Val.(identity.Caller)
		return caller, result.Err
	case <-ctx.Done():
		return identity.Caller{}, ctx.Err()
	}
}

func badToken() error {
	return errs.New(errs.Unauthenticated, "kiln.identity.bad_token", "the token is unknown, revoked or expired: get a new one")
}

// maxToken is more than any Fernet or JWS token has, and less than what uwsgi takes as a header.
const maxToken = 8 << 10

// wellFormed refuses what could not stand in a header.
func wellFormed(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return len(token) <= maxToken
}

// validate asks Keystone and keeps the answer; not to have been answered is not kept.
func (a *Authenticator) validate(ctx context.Context, k key, token string) (identity.Caller, error) {
	t, err := a.ask.Validate(ctx, token, k.allowExpired)
	now := a.cfg.Clock()
	switch {
	case errs.Is(err, errs.NotFound):
		err = badToken()
	case errs.Is(err, errs.Forbidden), errs.Is(err, errs.Invalid):
		return identity.Caller{}, errs.Wrap(err, errs.Unavailable, "kiln.identity.may_not_validate",
			"keystone does not let Kiln's own user validate tokens: give it the role service").After(time.Minute)
	case err != nil:
		return identity.Caller{}, err
	}
	var caller identity.Caller
	if err == nil {
		caller, err = callerOf(t)
	}
	if err == nil && !k.allowExpired && !now.Before(t.ExpiresAt) {
		err = badToken()
	}
	until := now.Add(a.cfg.Keep)
	switch {
	case err != nil:
		until = now.Add(a.cfg.KeepBad)
	case !k.allowExpired && t.ExpiresAt.Before(until):
		until = t.ExpiresAt
	}
	a.cache.put(k, entry{caller: caller, err: err, until: until}, now)
	return caller, err
}

func callerOf(t keystone.Token) (identity.Caller, error) {
	c := identity.Caller{
		UserID: t.User.ID, UserName: t.User.Name, DomainID: t.User.Domain.ID, System: t.System["all"], Expires: t.ExpiresAt.UTC(),
	}
	for _, r := range t.Roles {
		c.Roles = append(c.Roles, r.Name)
	}
	switch {
	case t.Project != nil:
		c.ProjectID, c.ProjectName = t.Project.ID, t.Project.Name
	case t.Domain != nil:
		c.DomainID = t.Domain.ID
	case c.System:
	default:
		return c, errs.New(errs.Unauthenticated, "kiln.identity.unscoped",
			"the token has no scope: get one for a project (OS_PROJECT_NAME), a domain or the system")
	}
	return c, nil
}
