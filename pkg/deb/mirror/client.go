package mirror

import (
	"io"
	"net/http"
)

// Client asks the mirrors through this proxy, without a socket. A body of an answer must be closed.
func (p *Proxy) Client() *http.Client { return &http.Client{Transport: through{p}} }

// through asks a forward proxy of this process.
type through struct{ proxy http.Handler }

// RoundTrip implements http.RoundTripper. The answer streams: its body must be closed.
func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	a := &answer{response: &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}, body: w, ready: make(chan struct{})}
	go func() {
		t.proxy.ServeHTTP(a, r)
		a.WriteHeader(http.StatusOK)
		_ = w.CloseWithError(io.EOF) // never fails
	}()
	select {
	case <-a.ready:
		return a.response, nil
	case <-r.Context().Done():
		_ = body.CloseWithError(r.Context().Err()) // never fails
		return nil, r.Context().Err()
	}
}

// answer is an http.ResponseWriter whose other end is a response.
type answer struct {
	response *http.Response
	body     *io.PipeWriter
	ready    chan struct{}
	sent     bool
}

func (a *answer) Header() http.Header { return a.response.Header }

func (a *answer) WriteHeader(status int) {
	if a.sent {
		return
	}
	a.sent, a.response.StatusCode, a.response.Status = true, status, http.StatusText(status)
	header := a.response.Header.Clone()
	a.response.Header = header
	close(a.ready)
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}
