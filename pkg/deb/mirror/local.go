package mirror

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
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
	return p.have(ctx, address, &p.counts)
}

// Fetch is Have, counted for this view.
func (v *View) Fetch(ctx context.Context, address string) (*os.File, error) {
	return v.proxy.have(ctx, address, &v.counts)
}

// have waits until the file is kept: whoever only reads an answer to its end may look for the file before it has its name.
func (p *Proxy) have(ctx context.Context, address string, counts *counters) (*os.File, error) {
	if f, err := p.Open(address); err == nil || errs.Is(err, errs.Forbidden) {
		return f, err
	}
	u, err := url.Parse(address)
	if err != nil || !immutable(u.Path) {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.mirror.address", "%q is no address of a file that never changes", address)
	}
	f, err := p.join(u, counts)
	if err == nil {
		err = f.wait(ctx)
		p.leave(f)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kept, missing := p.Open(address)
	if err != nil || missing != nil {
		return nil, errs.Wrap(cmp.Or(err, missing), errs.Unavailable, "kiln.mirror.fetch", "%s cannot be fetched", address)
	}
	return kept, nil
}
