package mirror

import (
	"context"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Handler is a forward proxy to mirrors, for rooms that speak no HTTP themselves.
type Handler = http.Handler

// Listen answers as a forward proxy on a free port of loopback until stop is called.
func Listen(ctx context.Context, h Handler) (addr string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, "kiln.mirror.listen", "the mirror proxy cannot listen on loopback")
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	return l.Addr().String(), func() {
		srv.Close() //nolint:errcheck // its clients have ended
	}, nil
}

// Have gives a file that never changes, by its address; it is fetched where the proxy has not kept it. errs.Unavailable
// where the mirror does not give it.
func (p *Proxy) Have(ctx context.Context, address string) (*os.File, error) {
	if f, err := p.Open(address); err == nil || errs.Is(err, errs.Forbidden) {
		return f, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.mirror.address", "%q is no address", address)
	}
	w := &nowhere{header: http.Header{}}
	p.ServeHTTP(w, req)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := p.Open(address)
	if err != nil || w.status >= http.StatusBadRequest {
		return nil, errs.Wrap(err, errs.Unavailable, "kiln.mirror.fetch", "%s cannot be fetched: the mirror answers %d", address, w.status)
	}
	return f, nil
}

// nowhere takes an answer of which only the status counts.
type nowhere struct {
	header http.Header
	status int
}

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(status int)      { n.status = status }
