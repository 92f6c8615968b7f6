package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/webhook"
)

// webhookRate is how many webhooks of one source one address may send in a minute.
const webhookRate = 120

// takeWebhook starts reading a source that its remote says has changed. It asks for no token: the secret of the source
// vouches for the message. A source that is not there and a wrong signature give one answer.
func (a *api) takeWebhook(ctx context.Context, c *gin.Context) (Response, error) {
	id := c.Param("id")
	if !a.webhooks.allow(id + " " + host(c.Request.RemoteAddr)) {
		c.Header("Retry-After", "60")
		return Response{Status: http.StatusTooManyRequests, Body: map[string]any{"ignored": "too many webhooks: come again in a minute"}}, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, webhook.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return Response{}, errs.New(errs.TooLarge, "kiln.request.too_large", "a webhook has %d bytes at most", webhook.MaxBody)
	case err != nil:
		return Response{}, errs.Wrap(err, errs.Invalid, "kiln.request.body", "the body did not arrive whole")
	}
	src, err := a.Store.FindSource(ctx, id)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return Response{}, err
	}
	secret := src.Secret
	if src.Hosted {
		secret = ""
	}
	m, err := webhook.Read(c.Request.Header, body, secret, a.Now())
	if err != nil {
		return Response{}, err
	}
	if m.Ignored == "" && !m.Moves(src.Ref) {
		m.Ignored = fmt.Sprintf("%.200s is not what the recipes are read from", m.Ref)
	}
	if m.Ignored != "" {
		return ok(map[string]any{"ignored": m.Ignored}), nil
	}
	by := job.By{ProjectID: src.ProjectID, RequestID: c.GetString(keyRequestID)}
	src, started, err := a.builds.Announced(ctx, by, src.ID, "announced by "+m.Vendor, m.Names...)
	if err != nil {
		return Response{}, err
	}
	if !started {
		return ok(map[string]any{"ignored": "this delivery was taken before"}), nil
	}
	return Response{Status: http.StatusAccepted, Body: map[string]any{"job_id": src.JobID}}, nil
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}

// limiter counts what came under a key in this minute. It forgets all at the minute's end, and is bounded.
type limiter struct {
	mu    sync.Mutex
	most  int
	now   func() time.Time
	since time.Time
	seen  map[string]int
}

// limiterKeys bounds the keys of one minute: senders choose them.
const limiterKeys = 10_000

func newLimiter(most int, now func() time.Time) *limiter {
	return &limiter{most: most, now: now, seen: map[string]int{}}
}

func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= time.Minute {
		l.since, l.seen = now, map[string]int{}
	}
	if _, known := l.seen[key]; !known && len(l.seen) >= limiterKeys {
		key = "" // one counter for all that came too late in this minute
	}
	l.seen[key]++
	return l.seen[key] <= l.most
}
