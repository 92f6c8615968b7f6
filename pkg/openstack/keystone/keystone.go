// Package keystone is what Kiln needs of OpenStack's identity service: telling what a token is, and registering
// Kiln itself.
package keystone

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Client makes Keystone's calls. It is safe for many goroutines.
type Client struct{ service *openstack.Service }

// New makes a client with the user of the connection.
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{Name: "keystone", Types: []string{"identity"}})}
}

// Ref is a thing of Keystone's by id and name.
type Ref struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Scoped is a user or project with its domain.
type Scoped struct {
	Ref
	Domain Ref `json:"domain"`
}

// Token is what a token says. Project, Domain and System are nil where that is not its scope.
type Token struct {
	User      Scoped          `json:"user"`
	Project   *Scoped         `json:"project"`
	Domain    *Ref            `json:"domain"`
	System    map[string]bool `json:"system"`
	Roles     []Ref           `json:"roles"`
	ExpiresAt time.Time       `json:"expires_at"`
}

// Validate asks what a token is, with the user's own token; it is repeated where Keystone is away. allowExpired
// takes one that expired inside Keystone's window (allow_expired_window, two days). errs.NotFound for a token
// that is unknown, revoked or expired
// (https://opendev.org/openstack/keystone/src/branch/stable/zed/keystone/api/auth.py, AuthTokenResource.get).
func (c *Client) Validate(ctx context.Context, subject string, allowExpired bool) (Token, error) {
	query := url.Values{"nocatalog": {"1"}}
	if allowExpired {
		query.Set("allow_expired", "1")
	}
	var answer struct {
		Token struct {
			Token
			Expires string `json:"expires_at"`
		} `json:"token"`
	}
	err := c.service.Read(ctx, openstack.Call{
		Operation: "validate", Method: http.MethodGet, Path: "auth/tokens", Query: query, Out: &answer,
		Header: map[string]string{"X-Subject-Token": subject},
	})
	if err != nil {
		return Token{}, err
	}
	answer.Token.ExpiresAt, err = parseTime(answer.Token.Expires)
	return answer.Token.Token, err
}

// parseTime reads Keystone's times. That of a token which ends with its application credential has no zone
// (https://opendev.org/openstack/keystone/src/branch/stable/zed/keystone/auth/plugins/application_credential.py).
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.ParseInLocation("2006-01-02T15:04:05", text, time.UTC)
	}
	if err != nil {
		err = errs.Wrap(err, errs.Unavailable, "kiln.keystone.answer", "keystone gives %q as the end of a token", text)
	}
	return t, err
}
