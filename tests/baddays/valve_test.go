package baddays

import (
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
	after map[string]int64 // by method: bytes of an image that pass before the body is held
	open  chan struct{}    // closed when held bodies may go on
	held  int              // bodies that wait now
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
	v := &valve{url: "http://" + listener.Addr().String(), after: map[string]int64{}, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			if strings.HasSuffix(r.In.URL.Path, "/file") && r.Out.Body != nil {
				r.Out.Body = v.watch(r.In, r.Out.Body)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/file") {
				r.Body = v.watch(r.Request, r.Body)
			}
			return nil
		},
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as a service that died
	}
	v.server = &http.Server{Handler: proxy, ReadHeaderTimeout: 30 * time.Second, ConnState: v.connState}
	go v.server.Serve(listener)
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

// holdUploads holds every upload of an image once so many bytes have passed.
func (v *valve) holdUploads(after int64) { v.hold(http.MethodPut, after) }

// holdDownloads holds every download of an image once so many bytes have passed.
func (v *valve) holdDownloads(after int64) { v.hold(http.MethodGet, after) }

func (v *valve) hold(method string, after int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.after[method] = after
}

// release lets held bodies go on, and holds no more.
func (v *valve) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.after)
	close(v.open)
	v.open = make(chan struct{})
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

func (v *valve) watch(r *http.Request, body io.ReadCloser) io.ReadCloser {
	return &watched{ReadCloser: body, valve: v, request: r}
}

type watched struct {
	io.ReadCloser
	valve   *valve
	request *http.Request
	passed  int64
}

// Read lets what may pass go through, and waits where the rest is held.
func (w *watched) Read(p []byte) (int, error) {
	limit, open := w.valve.limit(w.request.Method)
	if limit >= 0 && w.passed >= limit {
		w.valve.wait(1)
		select {
		case <-open:
		case <-w.request.Context().Done():
		}
		w.valve.wait(-1)
		if err := w.request.Context().Err(); err != nil {
			return 0, err
		}
	} else if limit >= 0 {
		p = p[:min(int64(len(p)), limit-w.passed)]
	}
	n, err := w.ReadCloser.Read(p)
	w.passed += int64(n)
	return n, err
}

// limit is how many bytes may pass, < 0 for all, and what is closed when that ends.
func (v *valve) limit(method string) (int64, chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n, ok := v.after[method]; ok {
		return n, v.open
	}
	return -1, nil
}

func (v *valve) wait(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held += n
}
