package baddays

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// valve is a proxy before Glance that can hold the bytes of an image in the middle of their way, up or down, and can
// be away altogether.
type valve struct {
	url    string
	server *http.Server

	mu    sync.Mutex
	after int64         // bytes that pass before a body is held; < 0: none is held
	open  chan struct{} // closed when held bodies may go on
	held  int           // bodies that wait now
	away  bool
	conns map[net.Conn]bool
}

func newValve(t *testing.T, target string) *valve {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{url: "http://" + listener.Addr().String(), after: -1, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			if strings.HasSuffix(r.In.URL.Path, "/file") && r.Out.Body != nil {
				r.Out.Body = v.watch(r.In.Context(), r.Out.Body)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/file") {
				r.Body = v.watch(r.Request.Context(), r.Body)
			}
			return nil
		},
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as a service that died
	}
	v.server = &http.Server{Handler: proxy, ReadHeaderTimeout: 30 * time.Second, ConnState: v.connState}
	go v.server.Serve(listener) //nolint:errcheck // ends with Close
	t.Cleanup(func() {
		v.release()
		_ = v.server.Close()
	})
	return v
}

func (v *valve) connState(c net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch s {
	case http.StateNew:
		if v.away {
			_ = c.Close()
			return
		}
		v.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(v.conns, c)
	}
}

// holdAfter holds every body of an image once so many bytes have passed.
func (v *valve) holdAfter(n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.after, v.open = n, make(chan struct{})
}

// release lets held bodies go on, and holds no more.
func (v *valve) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.after >= 0 {
		close(v.open)
	}
	v.after = -1
}

// waitHeld waits until so many bodies are held.
func (v *valve) waitHeld(t *testing.T, n int, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.held < n {
			return io.ErrNoProgress
		}
		return nil
	})
}

// setAway cuts every connection and takes no more, or comes back.
func (v *valve) setAway(away bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = away
	if away {
		for c := range v.conns {
			_ = c.Close()
		}
	}
}

func (v *valve) watch(ctx context.Context, body io.ReadCloser) io.ReadCloser {
	return &watched{ReadCloser: body, valve: v, ctx: ctx}
}

type watched struct {
	io.ReadCloser
	valve  *valve
	ctx    context.Context //nolint:containedctx // that of the request whose body this is
	passed int64
}

func (w *watched) Read(p []byte) (int, error) {
	v := w.valve
	v.mu.Lock()
	hold, open := v.after >= 0 && w.passed >= v.after, v.open
	if v.after >= 0 && !hold {
		p = p[:min(int64(len(p)), v.after-w.passed)]
	}
	if hold {
		v.held++
	}
	v.mu.Unlock()
	if hold {
		select {
		case <-open:
		case <-w.ctx.Done():
		}
		v.mu.Lock()
		v.held--
		v.mu.Unlock()
		if err := w.ctx.Err(); err != nil {
			return 0, err
		}
	}
	n, err := w.ReadCloser.Read(p)
	w.passed += int64(n)
	return n, err
}
