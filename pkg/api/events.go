package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
)

// eventBatch is how many events are read at once; slowClient is how long one write may take.
const (
	eventBatch = 200
	slowClient = 15 * time.Second
)

// stream is one client that follows the events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type stream struct {
	api     *api
	project string // "" is all of them
	after   int64
	until   time.Time // the token's end; zero: none
	w       http.ResponseWriter
	control *http.ResponseController
}

// followEvents streams what happens in the project, from the event after Last-Event-ID or ?after=, else from now on.
func (a *api) followEvents(ctx context.Context, req *Request[None]) (Response, error) {
	s := &stream{api: a, project: req.Caller.ProjectID, until: req.Caller.Expires}
	switch all := req.Query.Get("all_projects"); {
	case all != "" && all != "true" && all != "false":
		return Response{}, errs.New(errs.Invalid, "kiln.request.query", "all_projects is true or false").At(errs.Where{Field: "all_projects"})
	case all == "true" || s.project == "":
		if err := req.enforce(policy.AllProjects, ""); err != nil {
			return Response{}, err
		}
		s.project = ""
	}
	var err error
	switch last := req.Header.Get("Last-Event-ID"); {
	case last != "": // a browser that reconnects sends both: the header is the newer word
		if s.after, err = strconv.ParseInt(last, 10, 64); err != nil || s.after < 0 {
			return Response{}, errs.New(errs.Invalid, "kiln.request.last_event_id", "Last-Event-ID must be the id of an event").At(errs.Where{Field: "Last-Event-ID"})
		}
	case req.Query.Has("after"):
		if s.after, err = wholeNumber(req.Query, "after", 0); err != nil {
			return Response{}, err
		}
	default:
		ctx, cancel := context.WithTimeout(ctx, a.Timeout)
		defer cancel()
		if s.after, err = a.Store.LastID(ctx); err != nil {
			return Response{}, err
		}
	}
	return Response{Stream: s.serve}, nil
}

// serve writes until the client goes away, the token ends, or the server's context does.
func (s *stream) serve(ctx context.Context, w http.ResponseWriter) {
	s.w, s.control = w, http.NewResponseController(w)
	if !s.until.IsZero() {
		left := s.until.Sub(s.api.Now())
		bounded, cancel := context.WithTimeout(ctx, left)
		defer cancel()
		ctx = bounded
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	s.api.metrics.streams.Inc()
	defer s.api.metrics.streams.Dec()
	if s.write(": following\n\n") != nil {
		return
	}
	poll, beat := time.NewTicker(s.api.Poll), time.NewTicker(s.api.Heartbeat)
	defer poll.Stop()
	defer beat.Stop()
	for {
		if s.catchUp(ctx) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-beat.C:
			if s.write(": still here\n\n") != nil {
				return
			}
		}
	}
}

// catchUp writes all events that are there. A store that is away is no reason to end the stream: it comes back.
func (s *stream) catchUp(ctx context.Context) error {
	for {
		read, cancel := context.WithTimeout(ctx, s.api.Timeout)
		events, err := s.api.Store.After(read, s.after, s.project, eventBatch)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				s.api.Log.WithError(err).Warning("events cannot be read for a stream; trying again")
			}
			return ctx.Err()
		}
		for _, e := range events {
			if err := s.send(e); err != nil {
				return err
			}
			s.after = e.ID
		}
		if len(events) < eventBatch {
			return nil
		}
	}
}

func (s *stream) send(e event.Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data))
}

func (s *stream) write(chunk string) error {
	// Not every ResponseWriter has deadlines; the server's own WriteTimeout must not cut a stream, though.
	_ = s.control.SetWriteDeadline(time.Now().Add(slowClient))
	if _, err := s.w.Write([]byte(chunk)); err != nil {
		return err
	}
	return s.control.Flush()
}
