package openstack

import (
	"context"
	"net/http"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CredentialToken logs in with somebody's application credential; Kiln's own login is not touched. A credential that
// Keystone does not take is errs.Unauthenticated kiln.identity.bad_credential
// (https://docs.openstack.org/api-ref/identity/v3/#authenticating-with-an-application-credential).
func (c *Cloud) CredentialToken(ctx context.Context, id, secret string) (token string, expires time.Time, err error) {
	inner, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	auth := tokens.AuthOptions{ApplicationCredentialID: id, ApplicationCredentialSecret: secret}
	result := tokens.Create(withOperation(inner, "keystone", "authenticate_credential"), c.own.login, &auth)
	if result.Err != nil {
		for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusForbidden, http.StatusBadRequest} {
			if gophercloud.ResponseCodeIs(result.Err, status) {
				return "", expires, errs.New(errs.Unauthenticated, "kiln.identity.bad_credential", "the application credential or its secret is not valid")
			}
		}
		return "", expires, c.fault(ctx, "keystone", result.Err)
	}
	t, err := result.ExtractToken()
	if err != nil {
		return "", expires, errs.Wrap(err, errs.Unavailable, "kiln.keystone.answer", "keystone gave a token that cannot be read")
	}
	return t.ID, t.ExpiresAt, nil
}
