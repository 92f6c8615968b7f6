// Package openstack is one connection to an OpenStack cloud: a user that logs in when it is needed, follows the
// service catalog, and renews its token once at a time. The packages below it are one narrow client a service.
//
// Every call is bounded, measured through Config.Observe, and answers *errs.Error: see Service.
package openstack

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Config says where the cloud is and who calls it. It has the options of [keystone_authtoken]
// (https://docs.openstack.org/keystonemiddleware/zed/middlewarearchitecture.html).
type Config struct {
	AuthURL       string // Keystone, with or without /v3
	Username      string
	Password      string
	UserDomain    string // name; "Default" where it is empty
	ProjectName   string
	ProjectDomain string // name; "Default" where it is empty
	Region        string // "" takes the first endpoint of a service
	Interface     string // public, internal or admin; "internal" where it is empty
	CACert        string // path of a PEM file; "" means the system's authorities
	Insecure      bool   // does not verify TLS certificates

	Timeout time.Duration // of one call; 30 s where it is 0
	Stall   time.Duration // of an upload or download that moves no byte; 2 min where it is 0
	Tries   uint          // of an idempotent read that finds the service away; 3 where it is 0

	// Observe is told of every HTTP exchange. Status is 0 where there was no answer. It may be nil.
	Observe Observe
	Log     logrus.FieldLogger // may be nil
	Clock   func() time.Time   // time.Now where it is nil
}

// Observe is told of one HTTP exchange: the service (keystone, glance, nova, zun, placement), the operation by its
// name in Kiln, the HTTP status (0 for none) and the time that it took.
type Observe func(service, operation string, status int, took time.Duration)

func (c *Config) complete() error {
	for _, o := range []struct{ name, value string }{
		{"auth_url", c.AuthURL}, {"username", c.Username}, {"password", c.Password}, {"project_name", c.ProjectName},
	} {
		if o.value == "" {
			return errs.New(errs.Invalid, "kiln.openstack.config", "[keystone_authtoken] %s is missing", o.name).
				At(errs.Where{Field: o.name})
		}
	}
	c.UserDomain = orDefault(c.UserDomain, "Default")
	c.ProjectDomain = orDefault(c.ProjectDomain, "Default")
	c.Interface = orDefault(c.Interface, "internal")
	c.Timeout = orDefault(c.Timeout, 30*time.Second)
	c.Stall = orDefault(c.Stall, 2*time.Minute)
	c.Tries = orDefault(c.Tries, 3)
	if c.Observe == nil {
		c.Observe = func(string, string, int, time.Duration) {}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.ErrorLevel)
		c.Log = quiet
	}
	return nil
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

type requestIDKey struct{}

// WithRequestID makes the calls of the context carry X-Openstack-Request-Id, so that the services' logs name
// Kiln's own request. Services accept only "req-<uuid>"
// (https://opendev.org/openstack/oslo.middleware/src/branch/stable/zed/oslo_middleware/request_id.py).
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is what WithRequestID put into the context, "" for nothing.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
