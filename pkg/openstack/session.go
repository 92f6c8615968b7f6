package openstack

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// session is one scope's token with the catalog that came with it.
type session struct {
	cloud  *Cloud
	client *gophercloud.ProviderClient // its Reauthenticate runs once at a time
	login  *gophercloud.ServiceClient  // has no token and never asks for one
	auth   tokens.AuthOptions

	mu        sync.Mutex
	issued    time.Time
	expires   time.Time
	projectID string
	catalog   []tokens.CatalogEntry
}

func (c *Cloud) newSession(scope gophercloud.AuthScope) *session {
	client := &gophercloud.ProviderClient{IdentityEndpoint: identityURL(c.cfg.AuthURL), HTTPClient: c.http}
	client.UserAgent.Prepend("kiln")
	client.UseTokenLock()
	login := &gophercloud.ProviderClient{HTTPClient: c.http}
	login.UserAgent.Prepend("kiln")
	s := &session{
		cloud: c, client: client,
		login: &gophercloud.ServiceClient{ProviderClient: login, Endpoint: identityURL(c.cfg.AuthURL), Type: "identity"},
		auth: tokens.AuthOptions{
			Username: c.cfg.Username, Password: c.cfg.Password, DomainName: c.cfg.UserDomain,
			Scope: tokens.Scope{ProjectID: scope.ProjectID, ProjectName: scope.ProjectName, DomainName: scope.DomainName},
		},
	}
	client.ReauthFunc = s.authenticate
	return s
}

// authenticate logs in. Others may wait for its result, so it does not end with the call that started it.
func (s *session) authenticate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cloud.cfg.Timeout)
	defer cancel()
	result := tokens.Create(withOperation(ctx, "keystone", "authenticate"), s.login, &s.auth)
	if result.Err != nil {
		return result.Err
	}
	token, err := result.ExtractToken()
	if err != nil {
		return err
	}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil {
		return err
	}
	project, err := result.ExtractProject()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.issued, s.expires, s.catalog = s.cloud.cfg.Clock(), token.ExpiresAt, catalog.Entries
	if project != nil {
		s.projectID = project.ID
	}
	s.mu.Unlock()
	return s.client.SetTokenAndAuthResult(result)
}

// ensure has a token that lives long enough to begin a call with. A token that Keystone revokes earlier is
// renewed by gophercloud after the 401; but that cannot repeat a body that was streamed.
func (s *session) ensure(ctx context.Context) error {
	token := s.client.Token()
	if token != "" && !s.expired(s.cloud.cfg.Clock()) {
		return nil
	}
	return s.client.Reauthenticate(ctx, token)
}

// expired reports whether the token has less than a tenth of its life left, at most five minutes.
func (s *session) expired(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	margin := min(s.expires.Sub(s.issued)/10, 5*time.Minute)
	return !now.Add(margin).Before(s.expires)
}

// lookup finds an endpoint in the catalog; "" for none.
func (s *session) lookup(types []string, face, region string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, entry := range s.catalog {
		if !slices.Contains(types, entry.Type) {
			continue
		}
		for _, e := range entry.Endpoints {
			if e.Interface == face && (region == "" || e.Region == region || e.RegionID == region) {
				return e.URL
			}
		}
	}
	return ""
}
