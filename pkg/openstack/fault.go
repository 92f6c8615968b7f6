package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// retryAfter is when a caller is told to come again where the service does not say it.
const retryAfter = 5 * time.Second

// fault turns whatever a call of the service ended with into *errs.Error; see Service.
func (c *Cloud) fault(ctx context.Context, service string, err error) error {
	var known *errs.Error
	var again *gophercloud.ErrErrorAfterReauthentication
	var login *gophercloud.ErrUnableToReauthenticate
	var answer gophercloud.ErrUnexpectedResponseCode
	var exchange *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.Is(ctx.Err(), context.Canceled):
		return errs.Wrap(context.Canceled, errs.Cancelled, "kiln."+service+".cancelled", "the call of %s was cancelled", service)
	case errors.As(err, &again):
		return c.fault(ctx, service, again.ErrOriginal)
	case errors.As(err, &login):
		return c.fault(ctx, "keystone", login.ErrReauth)
	case errors.As(err, &answer):
		return c.refusal(service, answer)
	case errors.Is(err, errStalled):
		return errs.New(errs.Timeout, "kiln."+service+".stalled", "%s moved no byte for %s", service, c.cfg.Stall)
	case errors.Is(err, context.DeadlineExceeded):
		return errs.New(errs.Timeout, "kiln."+service+".timeout", "%s did not answer in time%s", service, pathOf(err))
	case errors.As(err, &exchange):
		return errs.Wrap(exchange.Err, errs.Unavailable, "kiln."+service+".away", "%s cannot be reached%s", service, pathOf(err)).After(retryAfter)
	}
	return errs.Wrap(err, errs.Unavailable, "kiln."+service+".answer", "%s gave an answer that cannot be read", service).After(retryAfter)
}

// pathOf is " at /v2/images" for an error of an exchange: never the host's part, which may hold a password.
func pathOf(err error) string {
	if exchange, ok := errors.AsType[*url.Error](err); ok {
		if u, parseErr := url.Parse(exchange.URL); parseErr == nil {
			return " at " + u.Path
		}
	}
	return ""
}

// refusal maps an answer by its status. The answer's own text is kept, without what it may not tell.
func (c *Cloud) refusal(service string, answer gophercloud.ErrUnexpectedResponseCode) error {
	path := answer.URL
	if u, err := url.Parse(answer.URL); err == nil {
		path = u.Path
	}
	text, foreignCode := message(answer.Body)
	text = strings.ReplaceAll(text, c.cfg.Password, "***")
	kind, what := kindOf(answer.Actual, text)
	if service == "placement" && answer.Actual == http.StatusConflict {
		what = placementConflict(foreignCode, text, what)
	}
	e := errs.New(kind, "kiln."+service+"."+what, "%s answered %d to %s %s: %s", service, answer.Actual, answer.Method, path, text)
	if kind == errs.Unavailable {
		e.RetryAfter = retryAfter
		if s, err := strconv.Atoi(answer.ResponseHeader.Get("Retry-After")); err == nil && s > 0 {
			e.RetryAfter = time.Duration(s) * time.Second
		}
	}
	if id := answer.ResponseHeader.Get("X-Openstack-Request-Id"); id != "" {
		e.Cause = fmt.Errorf("%s's request %s", service, id)
	}
	return e
}

func kindOf(status int, text string) (errs.Kind, string) {
	switch {
	case status == http.StatusBadRequest:
		return errs.Invalid, "refused"
	case status == http.StatusUnauthorized:
		// Kiln's own user is meant, not the one who asked Kiln.
		return errs.Unavailable, "credentials"
	case status == http.StatusForbidden && strings.Contains(strings.ToLower(text), "quota"):
		return errs.TooLarge, "quota"
	case status == http.StatusForbidden:
		return errs.Forbidden, "forbidden"
	case status == http.StatusNotFound, status == http.StatusGone:
		return errs.NotFound, "not_found"
	case status == http.StatusConflict:
		return errs.Conflict, "conflict"
	case status == http.StatusRequestEntityTooLarge:
		return errs.TooLarge, "full"
	case status == http.StatusNotAcceptable:
		return errs.Unavailable, "too_old"
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return errs.Unavailable, "unavailable"
	}
	return errs.Internal, "unexpected"
}

// placementConflict tells a write that raced (try again) from a node that is full (try the next one)
// (https://opendev.org/openstack/placement/src/branch/stable/zed/placement/errors.py). Only texts tell capacity
// from other undefined conflicts (…/placement/handlers/allocation.py, exception.InvalidInventory).
func placementConflict(code, text, otherwise string) string {
	switch {
	case code == "placement.concurrent_update":
		return "concurrent"
	case code == "placement.undefined_code" && (strings.Contains(text, "apacity") || strings.Contains(text, "nable to allocate inventory")):
		return "full"
	}
	return otherwise
}

// message finds the text and the code in a service's error body. Nova answers {"itemNotFound":{"message":…}},
// Keystone {"error":{"message":…}}, Placement and Zun {"errors":[{"detail":…,"code":…}]}, Glance HTML.
func message(body []byte) (text, code string) {
	var list struct {
		Errors []struct{ Detail, Title, Code string }
	}
	if json.Unmarshal(body, &list) == nil && len(list.Errors) > 0 {
		return clip(orDefault(list.Errors[0].Detail, list.Errors[0].Title)), list.Errors[0].Code
	}
	var named map[string]json.RawMessage
	if json.Unmarshal(body, &named) == nil {
		for _, raw := range named {
			var inner struct{ Message string }
			if json.Unmarshal(raw, &inner) == nil && inner.Message != "" {
				return clip(inner.Message), ""
			}
		}
	}
	return clip(plain(body)), ""
}

// plain takes the tags and the head out of an HTML answer.
func plain(body []byte) string {
	if i := bytes.Index(body, []byte("</head>")); i >= 0 {
		body = body[i:]
	}
	var b strings.Builder
	inTag := false
	for _, r := range string(body) {
		switch {
		case r == '<':
			inTag = true
			b.WriteByte(' ')
		case r == '>' && inTag:
			inTag = false
		case !inTag:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if s == "" {
		return "no reason given"
	}
	if r := []rune(s); len(r) > 300 {
		return string(r[:300]) + "…"
	}
	return s
}
