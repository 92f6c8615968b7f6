package openstack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

type operationKey struct{}

type operation struct{ service, name string }

func withOperation(ctx context.Context, service, name string) context.Context {
	return context.WithValue(ctx, operationKey{}, operation{service, name})
}

// meter measures every exchange and gives it the request id of its context.
type meter struct {
	next    http.RoundTripper
	observe Observe
	clock   func() time.Time
}

// RoundTrip implements http.RoundTripper.
func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	op, _ := req.Context().Value(operationKey{}).(operation)
	if id := RequestID(req.Context()); id != "" {
		req = req.Clone(req.Context())
		req.Header.Set("X-Openstack-Request-Id", id)
	}
	start := m.clock()
	resp, err := m.next.RoundTrip(req)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	m.observe(op.service, op.name, status, m.clock().Sub(start))
	return resp, err
}

func newTransport(cfg Config) (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   16,
		// Apache in front of a service drops idle connections after 5 s; a POST on one that it just dropped fails.
		IdleConnTimeout: 4 * time.Second,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: cfg.Insecure, //nolint:gosec // the operator's own choice, off by default
		},
	}
	if cfg.CACert != "" {
		pem, err := os.ReadFile(cfg.CACert)
		if err != nil {
			return nil, errs.Wrap(err, errs.Invalid, "kiln.openstack.config", "[keystone_authtoken] cafile cannot be read").
				At(errs.Where{Field: "cafile"})
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errs.New(errs.Invalid, "kiln.openstack.config", "[keystone_authtoken] cafile %s has no PEM certificate", cfg.CACert).
				At(errs.Where{Field: "cafile"})
		}
	}
	return &meter{next: t, observe: cfg.Observe, clock: cfg.Clock}, nil
}
