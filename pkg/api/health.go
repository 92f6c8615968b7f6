package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Check is one thing that must be there for the service to work. Run returns nil where it is.
type Check struct {
	Name string
	Run  func(ctx context.Context) error
}

// checkTime bounds one check: a load balancer waits for the answer.
const checkTime = 5 * time.Second

// reason is one line of the answer, as oslo_middleware/healthcheck has them.
type reason struct {
	Class   string `json:"class"`
	Reason  string `json:"reason"`
	Details string `json:"details"`
}

// showHealth runs all checks at once: 200 where all are well, 503 where one is not. It asks for no token, so it
// says which part is away and in which of Kiln's words, never the cause, which may name hosts and users.
func (a *api) showHealth(ctx context.Context, c *gin.Context) (Response, error) {
	reasons := make([]reason, len(a.Checks))
	var wg sync.WaitGroup
	for i, check := range a.Checks {
		wg.Go(func() {
			reasons[i] = a.check(ctx, c, check)
		})
	}
	wg.Wait()
	status, lines := http.StatusOK, []string{}
	for _, r := range reasons {
		if r.Reason != "OK" {
			status = http.StatusServiceUnavailable
			lines = append(lines, r.Class+": "+r.Reason)
		}
	}
	c.Header("Cache-Control", "no-store")
	if status != http.StatusOK {
		c.Header("Retry-After", "5")
	}
	if strings.HasPrefix(c.GetHeader("Accept"), "text/plain") {
		if len(lines) == 0 {
			lines = []string{"OK"}
		}
		return Response{Status: status, Body: text{"text/plain; charset=utf-8", []byte(strings.Join(lines, "\n") + "\n")}}, nil
	}
	return Response{Status: status, Body: map[string]any{"detailed": true, "reasons": reasons}}, nil
}

func (a *api) check(ctx context.Context, c *gin.Context, check Check) (out reason) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	out = reason{Class: check.Name, Reason: "OK"}
	err := check.Run(ctx)
	if err == nil {
		return out
	}
	a.log(c).WithError(err).WithField("check", check.Name).Warning("a health check is red")
	var e *errs.Error
	out.Reason = "away"
	if errors.As(err, &e) && e.Kind != errs.Internal {
		out.Details = e.Detail
	}
	if errs.Is(err, errs.Timeout) {
		out.Reason = "did not answer in time"
	}
	return out
}
