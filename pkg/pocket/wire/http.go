package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MaxBody bounds a JSON request body, in bytes (the services' default is 112 KiB).
const MaxBody = 1 << 20

// WriteJSON answers a JSON body. A nil body answers no body at all.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the client went away: nobody is left to tell
}

// Freeze encodes a body now, while the caller still holds the lock that guards what it is made of.
func Freeze(body any) any {
	if body == nil {
		return nil
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return body // WriteJSON meets the same error and answers it
	}
	return json.RawMessage(raw)
}

// ReadJSON decodes a request's body into v. The error's text is fit for a 400.
func ReadJSON(r *http.Request, v any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, MaxBody))
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("malformed JSON: %w", err)
	}
	if dec.More() {
		return errors.New("malformed JSON: more than one value")
	}
	return nil
}

// Request is one line of the request log.
type Request struct {
	At        time.Time
	Service   string // identity, image, compute, placement, container
	Method    string
	Path      string // below the service's prefix, e.g. /v2/images
	Query     string
	User      string // names; empty without a valid token
	Project   string
	Status    int   // 0 where the connection was cut before an answer
	BytesIn   int64 // of the body, as far as the service read it
	BytesOut  int64
	RequestID string
	InProcess bool // made by another service of the pocket cloud without HTTP
}

// Recorder keeps the request log of the cloud. The zero value is ready. Safe for many goroutines.
type Recorder struct {
	mu   sync.Mutex
	list []Request
}

// Add appends a request.
func (rec *Recorder) Add(r Request) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.list = append(rec.list, r)
}

// List answers a copy of the log, in the order in which the requests ended.
func (rec *Recorder) List() []Request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return append([]Request(nil), rec.list...)
}

// Reset empties the log.
func (rec *Recorder) Reset() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.list = nil
}

type recordKey struct{}

func recordOf(ctx context.Context) *Request {
	r, _ := ctx.Value(recordKey{}).(*Request)
	return r
}

// RequestID is the id of the request in hand: "req-" and a UUID.
func RequestID(ctx context.Context) string {
	if r := recordOf(ctx); r != nil {
		return r.RequestID
	}
	return ""
}

// Edge wraps a service as the outermost layer: request id, log, faults.
func (k Kit) Edge(rec *Recorder, faults *Faults, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entry := &Request{
			At: k.Clock(), Service: k.Service, Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
			RequestID: "req-" + k.NewID(),
		}
		body := &meteredBody{ReadCloser: r.Body, entry: entry, cut: -1}
		out := &meter{ResponseWriter: w, entry: entry, body: body, cut: -1}
		r.Body = body
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, entry))
		w.Header().Set("X-Openstack-Request-Id", entry.RequestID)
		defer func() {
			rec.Add(*entry) // before the client can know of the end
			if out.lost {
				drop(w)
			}
		}()

		if f, hit := faults.take(entry); hit && f.apply(out) {
			return
		}
		next.ServeHTTP(out, r)
		out.end()
	})
}

// meter counts and, for a fault, cuts an answer.
type meter struct {
	http.ResponseWriter
	entry   *Request
	body    *meteredBody
	cut     int64 // bytes to pass before the connection is cut; -1 for never
	mute    bool  // nothing of the answer leaves, and the connection is cut at the end
	wasCut  bool
	lost    bool // the connection is to be dropped
	started bool
}

var errCut = errors.New("pocket: connection cut by a fault")

func (m *meter) WriteHeader(status int) {
	if status >= http.StatusOK {
		m.entry.Status = status
	}
	m.started = true
	if !m.silent() {
		m.ResponseWriter.WriteHeader(status)
	}
}

// silent: once the request was cut, the answer that the service makes of it has nowhere to go.
func (m *meter) silent() bool { return m.mute || m.body.wasCut }

func (m *meter) Write(p []byte) (int, error) {
	if !m.started {
		m.WriteHeader(http.StatusOK)
	}
	if m.silent() {
		return len(p), nil
	}
	if m.wasCut {
		return 0, errCut
	}
	full := len(p)
	if m.cut >= 0 && int64(full) > m.cut {
		p, m.wasCut = p[:m.cut], true
	}
	n, err := m.ResponseWriter.Write(p)
	m.entry.BytesOut += int64(n)
	if m.cut >= 0 {
		m.cut -= int64(n)
	}
	if err == nil && n < full {
		err = errCut
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// end marks the connection as lost where a fault cut the request or the answer.
func (m *meter) end() {
	switch {
	case m.silent():
		m.entry.Status = 0
		m.lost = true
	case m.wasCut:
		_ = http.NewResponseController(m.ResponseWriter).Flush() // what was passed before the cut is to arrive
		m.lost = true
	}
}

func drop(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// meteredBody counts and, for a fault, cuts what the service reads.
type meteredBody struct {
	io.ReadCloser
	entry  *Request
	cut    int64
	wasCut bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	if b.cut == 0 {
		b.wasCut = true
		return 0, io.ErrUnexpectedEOF
	}
	if b.cut > 0 && int64(len(p)) > b.cut {
		p = p[:b.cut]
	}
	n, err := b.ReadCloser.Read(p)
	b.entry.BytesIn += int64(n)
	if b.cut > 0 {
		b.cut -= int64(n)
	}
	return n, err
}

// Accepts reports whether the client named a media type in Accept.
func Accepts(r *http.Request, media string) bool {
	return strings.Contains(r.Header.Get("Accept"), media)
}
