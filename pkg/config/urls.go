package config

import (
	"net/url"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// AMQP turns an oslo.messaging transport URL into an amqp:// URL; ok is false for memory://.
// The password in it is URL-encoded again, as amqp091-go expects.
func AMQP(transport string) (address string, ok bool, err error) {
	u, err := url.Parse(transport)
	if err != nil {
		return "", false, errs.New(errs.Invalid, "kiln.config.option", "not a bus address").At(errs.Where{Field: "transport_url"})
	}
	switch u.Scheme {
	case "memory":
		return "", false, nil
	case "rabbit", "amqp", "kombu":
		u.Scheme = "amqp"
	default:
		return "", false, errs.New(errs.Invalid, "kiln.config.option", "the kind %q is not supported: use rabbit:// or memory://", u.Scheme).At(errs.Where{Field: "transport_url"})
	}
	if first, _, many := strings.Cut(u.Host, ","); many {
		u.Host = first // the client library takes one address; the cluster's others are behind a balancer
	}
	u.RawQuery = ""
	return u.String(), true, nil
}
