package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// clientClosed is nginx's status for a client that went away; it is only ever seen in logs and metrics.
const clientClosed = 499

var statuses = map[errs.Kind]int{
	errs.Internal:        http.StatusInternalServerError,
	errs.Invalid:         http.StatusBadRequest,
	errs.Unauthenticated: http.StatusUnauthorized,
	errs.Forbidden:       http.StatusForbidden,
	errs.NotFound:        http.StatusNotFound,
	errs.NotAcceptable:   http.StatusNotAcceptable,
	errs.Conflict:        http.StatusConflict,
	errs.TooLarge:        http.StatusRequestEntityTooLarge,
	errs.Unavailable:     http.StatusServiceUnavailable,
	errs.Timeout:         http.StatusGatewayTimeout,
	errs.Cancelled:       clientClosed,
}

// fault is one error of an answer, as https://specs.openstack.org/openstack/api-wg/guidelines/errors.html has it,
// with the place of the fault and, for 406, the versions that are served.
type fault struct {
	RequestID  string      `json:"request_id"`
	Code       string      `json:"code"`
	Status     int         `json:"status"`
	Title      string      `json:"title"`
	Detail     string      `json:"detail"`
	Where      *errs.Where `json:"where,omitempty"`
	MinVersion string      `json:"min_version,omitempty"`
	MaxVersion string      `json:"max_version,omitempty"`
	Links      []link      `json:"links"`
}

type link struct {
	Rel  string `json:"rel"`
	Href string `json:"href"`
}

// fail answers with an error. What a 5xx is about stays in the log, under the request id that the user gets.
func (a *api) fail(c *gin.Context, err error) {
	if errors.Is(c.Request.Context().Err(), context.Canceled) {
		a.log(c).WithError(err).Debug("the client went away")
		c.AbortWithStatus(clientClosed)
		return
	}
	a.failWith(c, statuses[errs.KindOf(err)], err)
}

func (a *api) failWith(c *gin.Context, status int, err error) {
	if status >= http.StatusInternalServerError {
		a.log(c).WithError(err).WithField("code", errs.CodeOf(err)).Error("a request failed")
	}
	var e *errs.Error
	if status == http.StatusServiceUnavailable {
		wait := 5 * time.Second
		if errors.As(err, &e) && e.RetryAfter > 0 {
			wait = e.RetryAfter
		}
		c.Header("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	if status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", "Keystone uri="+strconv.Quote(a.AuthURI))
	}
	var all recipe.ParseErrors
	if !errors.As(err, &all) {
		if !errors.As(err, &e) {
			e = errs.Wrap(err, errs.KindOf(err), errs.CodeOf(err), "")
		}
		all = recipe.ParseErrors{e}
	}
	faults := make([]fault, len(all))
	for i, e := range all {
		faults[i] = a.fault(c, status, e)
	}
	c.Abort()
	c.JSON(status, map[string]any{"errors": faults})
}

func (a *api) fault(c *gin.Context, status int, e *errs.Error) fault {
	f := fault{
		RequestID: c.GetString(keyRequestID), Code: errs.CodeOf(e), Status: status, Title: http.StatusText(status), Detail: e.Detail,
		Links: []link{{Rel: "help", Href: a.base(c.Request) + "/v1/openapi.yaml"}},
	}
	if e.Where != (errs.Where{}) {
		f.Where = &e.Where
	}
	switch {
	case status == http.StatusInternalServerError:
		f.Code, f.Where = "kiln.internal", nil
		f.Detail = "Kiln met a fault. Tell your operator the request id " + f.RequestID + ": the log has the cause."
	case status == http.StatusGatewayTimeout && f.Detail == "":
		f.Code, f.Detail = "kiln.timeout", "This took too long and was given up. Try again; the log has more under the request id "+f.RequestID+"."
	case status == http.StatusNotAcceptable:
		f.MinVersion, f.MaxVersion = minVersion.String(), maxVersion.String()
	}
	return f
}
