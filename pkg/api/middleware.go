package api

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
)

// HeaderRequestID carries the id of this request out, and that of the request that led to it in
// (oslo_middleware/request_id.py calls that one global).
const HeaderRequestID = "X-Openstack-Request-Id"

const (
	keyRequestID = "kiln.request_id"
	keyGlobalID  = "kiln.global_request_id"
	keyCaller    = "kiln.caller"
)

var requestID = regexp.MustCompile(`^req-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// requestID gives the request its own id. An incoming one is only logged beside it, and only if it is one:
// whoever calls cannot choose what the log finds under an id.
func (a *api) requestID(c *gin.Context) {
	id := "req-" + a.NewID()
	c.Set(keyRequestID, id)
	if global := c.GetHeader(HeaderRequestID); requestID.MatchString(global) {
		c.Set(keyGlobalID, global)
	}
	c.Header(HeaderRequestID, id)
	c.Next()
}

// observe counts the answer and writes one line for it.
func (a *api) observe(c *gin.Context) {
	began := time.Now()
	c.Next()
	took, status := time.Since(began), c.Writer.Status()
	route := c.FullPath()
	if route == "" {
		route = "none" // not the path itself: strangers would fill the metrics with names
	}
	a.metrics.requests.WithLabelValues(c.Request.Method, route, strconv.Itoa(status)).Inc()
	if route != eventsPath {
		a.metrics.seconds.WithLabelValues(c.Request.Method, route).Observe(took.Seconds())
	}
	fields := logrus.Fields{
		"method": c.Request.Method, "path": c.Request.URL.Path, "status": status,
		"seconds": float64(took.Microseconds()) / 1e6, "bytes": max(c.Writer.Size(), 0), "remote": c.Request.RemoteAddr,
	}
	if caller, ok := c.Value(keyCaller).(*identity.Caller); ok {
		fields["user_id"], fields["project_id"] = caller.UserID, caller.ProjectID
	}
	a.log(c).WithFields(fields).Info("request")
}

// log is the program's log with the ids of the request.
func (a *api) log(c *gin.Context) logrus.FieldLogger {
	l := a.Log.WithField("request_id", c.GetString(keyRequestID))
	if global := c.GetString(keyGlobalID); global != "" {
		l = l.WithField("global_request_id", global)
	}
	return l
}

// recovered turns a panic into an answer that tells nothing, and a log line that tells all.
func (a *api) recovered(c *gin.Context) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p) //nolint:forbidigo // net/http's own way to drop a connection
		}
		a.log(c).WithField("stack", string(debug.Stack())).Errorf("a request met a defect: %v", p)
		if !c.Writer.Written() {
			a.fail(c, errs.New(errs.Internal, "kiln.internal", "panic"))
		}
		c.Abort()
	}()
	c.Next()
}

// deadline bounds the work of a request; streams live until their client or their token ends.
func (a *api) deadline(c *gin.Context) {
	if c.FullPath() == eventsPath {
		c.Next()
		return
	}
	whole := c.Request
	bound := a.Timeout
	if strings.HasPrefix(c.FullPath(), gitPath) {
		bound = max(bound, gitTimeout)
	}
	ctx, cancel := context.WithTimeout(whole.Context(), bound)
	defer func() {
		cancel()
		c.Request = whole // its context ends only when the client goes away: recovered asks it
	}()
	c.Request = whole.WithContext(ctx)
	c.Next()
}

func (a *api) noRoute(c *gin.Context) {
	a.fail(c, errs.New(errs.NotFound, "kiln.request.path", "there is nothing at this path; /v1/openapi.yaml lists all of them"))
}

// noMethod runs after gin has set the Allow header.
func (a *api) noMethod(c *gin.Context) {
	a.failWith(c, http.StatusMethodNotAllowed, errs.New(errs.Invalid, "kiln.request.method", "this path does not take %s", c.Request.Method))
}
