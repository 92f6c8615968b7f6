package openstack

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gophercloud/gophercloud/v2"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Service makes the calls of one service in one project: bounded, measured, with errors that are *errs.Error:
//
//	404 NotFound kiln.<service>.not_found      409 Conflict kiln.<service>.conflict (and Placement's two, see fault)
//	413 TooLarge kiln.<service>.full           400 Invalid kiln.<service>.refused
//	403 Forbidden kiln.<service>.forbidden, or TooLarge kiln.<service>.quota where the answer speaks of a quota
//	401 after a new login, 429, 5xx, no connection: Unavailable with RetryAfter
//	no answer in time: Timeout kiln.<service>.timeout; no byte for Config.Stall: Timeout kiln.<service>.stalled
type Service struct {
	cloud   *Cloud
	session *session
	about   Description
}

// Call is one exchange of JSON.
type Call struct {
	Operation string // in metrics and logs
	Method    string
	Path      string // below the endpoint, without a slash in front
	Query     url.Values
	Body      any // marshalled; nil for none
	Out       any // unmarshalled into; nil ignores the answer's body
	Header    map[string]string
	OK        []int // statuses that are no error; 200, 201, 202 and 204 where it is empty
}

// Do makes a call once.
func (s *Service) Do(ctx context.Context, c Call) error {
	inner, cancel := context.WithTimeout(ctx, s.cloud.cfg.Timeout)
	defer cancel()
	client, err := s.client(inner)
	if err != nil {
		return err
	}
	opts := &gophercloud.RequestOpts{JSONBody: c.Body, JSONResponse: c.Out, MoreHeaders: c.Header, OkCodes: c.OK}
	if len(opts.OkCodes) == 0 {
		opts.OkCodes = []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent}
	}
	_, err = client.Request(withOperation(inner, s.about.Name, c.Operation), c.Method, s.url(client, c.Path, c.Query), opts) //nolint:bodyclose // gophercloud closes it
	return s.cloud.fault(ctx, s.about.Name, err)
}

// Get reads, and repeats the read where the service is away: reads are safe to repeat.
func (s *Service) Get(ctx context.Context, operation, path string, query url.Values, out any) error {
	return s.Read(ctx, Call{Operation: operation, Method: http.MethodGet, Path: path, Query: query, Out: out})
}

// Read is Do for calls that are safe to repeat: up to Config.Tries times while the service is away or slow.
func (s *Service) Read(ctx context.Context, c Call) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 200 * time.Millisecond
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := s.Do(ctx, c)
		if err != nil && (!errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Timeout) || ctx.Err() != nil) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(s.cloud.cfg.Tries), backoff.WithMaxElapsedTime(2*s.cloud.cfg.Timeout))
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		err = permanent.Unwrap()
	}
	return s.cloud.fault(ctx, s.about.Name, err)
}

// client is gophercloud's for the service, with a token that lives.
func (s *Service) client(ctx context.Context) (*gophercloud.ServiceClient, error) {
	endpoint, err := s.Endpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &gophercloud.ServiceClient{
		ProviderClient: s.session.client, Endpoint: endpoint, Type: s.about.Types[0], Microversion: s.about.Microversion,
	}, nil
}

func (s *Service) url(client *gophercloud.ServiceClient, path string, query url.Values) string {
	u := client.Endpoint + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// Segment makes a name or id safe to stand in a path.
func Segment(s string) string { return url.PathEscape(s) }
