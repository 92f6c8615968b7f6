// Package mirror is the only network that a sandbox has: an HTTP forward proxy that serves nothing
// but the package repositories it was given, and keeps what never changes so that it is fetched once.
package mirror

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Config says what a proxy serves. Upstreams and Dir are needed.
type Config struct {
	Upstreams []string          // base URLs below which everything may be read
	Dir       string            // cache folder; made where it is missing
	MaxBytes  int64             // bound of the cache; 0 means 20 GiB
	Timeout   time.Duration     // of one fetch with its body; default 10 minutes
	Transport http.RoundTripper // to the upstreams; default http.DefaultTransport
	Log       logrus.FieldLogger
}

// Stats counts what a proxy did since it was made.
type Stats struct {
	Hits, Misses  int64 // files served without, and with, bytes from upstream
	BytesUpstream int64 // bytes of bodies read from upstream
	BytesServed   int64 // bytes of bodies sent to clients
}

// Proxy is the forward proxy. It is safe for many requests at the same time.
type Proxy struct {
	cfg     Config
	allowed []*url.URL
	ctx     context.Context //nolint:containedctx // the proxy's own life: a fetch outlives the request that began it
	cancel  context.CancelFunc
	mu      sync.Mutex
	flights map[string]*flight
	flying  sync.WaitGroup
	space   space
	counts  counters
}

// New makes a proxy and sweeps half-made files of an earlier life out of its folder.
func New(cfg Config) (*Proxy, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 20 << 30
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Minute
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	p := &Proxy{cfg: cfg, flights: map[string]*flight{}}
	for _, base := range cfg.Upstreams {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, errs.New(errs.Invalid, "kiln.advisory.mirror_malformed", "%q is no http address of a mirror", base)
		}
		u.Path = strings.TrimRight(u.Path, "/")
		p.allowed = append(p.allowed, u)
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, partial), 0o755); err != nil {
		return nil, err
	}
	if err := p.space.open(cfg.Dir, cfg.MaxBytes); err != nil {
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close ends all fetches and waits for them. Clients that wait for one are cut off.
func (p *Proxy) Close() {
	p.mu.Lock() // no flight begins between the cancel and the wait
	p.cancel()
	p.mu.Unlock()
	p.flying.Wait()
}

// Stats gives the counters.
func (p *Proxy) Stats() Stats { return p.counts.stats() }

// ServeHTTP answers GET and HEAD of absolute addresses, and CONNECT to the hosts of https upstreams.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handle(w, r, &p.counts) }

func (p *Proxy) handle(w http.ResponseWriter, r *http.Request, counts *counters) {
	if r.Method == http.MethodConnect {
		p.connect(w, r, counts)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET, HEAD and CONNECT are served", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Host == "" {
		http.Error(w, "this is a proxy: ask for an absolute address", http.StatusBadRequest)
		return
	}
	if !p.permits(r.URL) {
		p.cfg.Log.Warnf("mirror proxy: refused %s", r.URL)
		http.Error(w, r.URL.String()+" is not below a package mirror of this job", http.StatusForbidden)
		return
	}
	counted := &countingWriter{ResponseWriter: w, counts: counts}
	if err := p.serve(counted, r, counts); err != nil && !counted.started {
		if missing := (*statusError)(nil); errors.As(err, &missing) && missing.status < 500 {
			http.Error(w, r.URL.String()+": "+missing.Error(), missing.status)
			return
		}
		p.cfg.Log.WithError(err).Warnf("mirror proxy: cannot fetch %s", r.URL)
		http.Error(w, "cannot fetch "+r.URL.String()+": "+err.Error(), http.StatusBadGateway)
	}
}

// permits reports whether an address is below an upstream. A path that is not in its plain form
// ("..", "//", escapes) is refused, because the upstream might read it in another way than we do.
func (p *Proxy) permits(u *url.URL) bool {
	if u.RawQuery != "" || u.User != nil || u.Fragment != "" || !plainPath(u) {
		return false
	}
	for _, a := range p.allowed {
		if u.Scheme == a.Scheme && strings.EqualFold(u.Host, a.Host) && strings.HasPrefix(u.Path, a.Path+"/") {
			return true
		}
	}
	return false
}

// plainPath allows escapes only of the characters that apt escapes in version numbers.
func plainPath(u *url.URL) bool {
	if path.Clean(u.Path) != u.Path {
		return false
	}
	for _, c := range u.Path {
		if c <= ' ' || c > '~' || strings.ContainsRune(`\?#%`, c) {
			return false
		}
	}
	return true
}

// immutable reports whether a file never changes under its name: packages carry their version, and
// by-hash files their checksum.
func immutable(name string) bool {
	return strings.HasSuffix(name, ".deb") || strings.HasSuffix(name, ".rpm") || strings.HasSuffix(name, ".udeb") || strings.Contains(name, "/by-hash/")
}

// file is where an address is kept.
func (p *Proxy) file(u *url.URL) string {
	return filepath.Join(p.cfg.Dir, "files", strings.ToLower(u.Host), filepath.FromSlash(u.Path))
}

// Open gives a file that the proxy has kept, by its address; fs.ErrNotExist where it has not.
func (p *Proxy) Open(address string) (*os.File, error) {
	u, err := url.Parse(address)
	if err != nil || !p.permits(u) {
		return nil, errs.New(errs.Forbidden, "kiln.advisory.mirror_refused", "%s is not below a package mirror of this job", address)
	}
	return os.Open(p.file(u))
}

// Forget drops a file that the proxy has kept, by its address: what turned out not to be what the signed index says is
// asked for again. That it is not kept is no error.
func (p *Proxy) Forget(address string) error {
	u, err := url.Parse(address)
	if err != nil || !p.permits(u) {
		return errs.New(errs.Forbidden, "kiln.advisory.mirror_refused", "%s is not below a package mirror of this job", address)
	}
	return p.space.forget(p.file(u))
}

type countingWriter struct {
	http.ResponseWriter
	counts  *counters
	started bool
}

func (w *countingWriter) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.started = true
	n, err := w.ResponseWriter.Write(b)
	w.counts.add(Stats{BytesServed: int64(n)})
	return n, err
}
