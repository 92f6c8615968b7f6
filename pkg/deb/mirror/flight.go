package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

// partial is the folder of files that are being fetched; New empties it.
const partial = "partial"

// statusError is an upstream's answer that is no success.
type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("the mirror answers %d", e.status) }

// flight is one fetch from upstream, shared by everybody who asks for the address meanwhile.
// Its file grows; readers follow it.
type flight struct {
	file *os.File  // the growing file; open while refs > 0
	refs int       // the fetch and its readers; guarded by the proxy's lock
	pays *counters // of whoever began it: the bytes from upstream are counted once
	mu   sync.Mutex
	cond *sync.Cond
	size int64 // announced by upstream; -1 where it is not
	have int64 // bytes that readers may read
	done bool
	err  error
	hit  bool // upstream said that the kept file is still right
}

func newFlight() *flight {
	f := &flight{size: -1}
	f.cond = sync.NewCond(&f.mu)
	return f
}

// join gives the flight for an address, and begins one where there is none. The caller leaves it.
func (p *Proxy) join(u *url.URL, counts *counters) (*flight, error) {
	key := u.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ctx.Err(); err != nil {
		return nil, err // closed: Close waits for the flights, so no new one may begin
	}
	if f, ok := p.flights[key]; ok {
		f.refs++
		return f, nil
	}
	tmp, err := os.CreateTemp(filepath.Join(p.cfg.Dir, partial), "*")
	if err != nil {
		return nil, err
	}
	f := newFlight()
	f.file, f.refs, f.pays = tmp, 2, counts
	p.flights[key] = f
	p.flying.Go(func() {
		defer p.leave(f)
		err := p.fly(u, f)
		p.mu.Lock()
		delete(p.flights, key)
		p.mu.Unlock()
		f.mu.Lock()
		f.done, f.err = true, err
		f.cond.Broadcast()
		f.mu.Unlock()
	})
	return f, nil
}

// leave closes the file after its last reader.
func (p *Proxy) leave(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.refs--; f.refs == 0 {
		_ = f.file.Close()
	}
}

// fly fetches with one retry. A second try writes the same bytes over the first ones, so readers
// of a package may have begun; readers of other files wait for the end.
func (p *Proxy) fly(u *url.URL, f *flight) error {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
	defer cancel()
	tmp := f.file
	defer func() { _ = os.Remove(tmp.Name()) }() // no longer there after the rename
	header, err := p.fetch(ctx, u, f, tmp)
	if temporary(err) && ctx.Err() == nil {
		p.cfg.Log.WithError(err).Infof("mirror proxy: trying %s again", u)
		header, err = p.fetch(ctx, u, f, tmp)
	}
	if err != nil || f.hit {
		return err
	}
	return p.keep(u, tmp, header)
}

func temporary(err error) bool {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.status >= http.StatusInternalServerError
	}
	return err != nil
}

// fetch asks upstream once. Files that can change are asked for conditionally.
func (p *Proxy) fetch(ctx context.Context, u *url.URL, f *flight, tmp *os.File) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody) //nolint:gosec // permits held it against the upstreams
	if err != nil {
		return nil, err
	}
	fixed := immutable(u.Path)
	if !fixed {
		p.setValidators(u, req.Header)
	}
	res, err := p.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNotModified && !fixed {
		f.hit = true
		return res.Header, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, &statusError{status: res.StatusCode}
	}
	sum := sha256.New()
	n, err := p.follow(f, tmp, io.TeeReader(res.Body, sum), res.ContentLength, streamed(u.Path))
	f.pays.add(Stats{BytesUpstream: n})
	if err != nil {
		return nil, err
	}
	if res.ContentLength >= 0 && n != res.ContentLength {
		return nil, fmt.Errorf("%d bytes came where %d were announced", n, res.ContentLength)
	}
	if strings.Contains(u.Path, "/by-hash/SHA256/") && hex.EncodeToString(sum.Sum(nil)) != path.Base(u.Path) {
		return nil, errors.New("the bytes do not have the checksum that their name says")
	}
	return res.Header, tmp.Truncate(n)
}

// streamed reports whether readers may follow a file while it is fetched: packages, which are large
// and which apt checks itself. Lists are small, and are served when they are known to be whole.
func streamed(name string) bool {
	return strings.HasSuffix(name, ".deb") || strings.HasSuffix(name, ".udeb")
}

// follow copies a body into the file and lets readers see it as it grows, if they may.
func (p *Proxy) follow(f *flight, tmp *os.File, body io.Reader, size int64, show bool) (int64, error) {
	if show && size >= 0 {
		f.mu.Lock()
		other := f.size >= 0 && f.size != size
		f.size = size
		f.cond.Broadcast()
		f.mu.Unlock()
		if other {
			return 0, errors.New("the file changed between two tries")
		}
	}
	var n int64
	buf := make([]byte, 256<<10)
	for {
		k, err := body.Read(buf)
		if k > 0 {
			if _, werr := tmp.WriteAt(buf[:k], n); werr != nil {
				return n, werr
			}
			n += int64(k)
			if show {
				f.mu.Lock()
				f.have = max(f.have, n)
				f.cond.Broadcast()
				f.mu.Unlock()
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// keep puts a whole file under its address.
func (p *Proxy) keep(u *url.URL, tmp *os.File, header http.Header) error {
	name := p.file(u)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	info, err := tmp.Stat()
	if err != nil {
		return err
	}
	if immutable(u.Path) {
		if err := os.Rename(tmp.Name(), name); err != nil {
			return err
		}
	} else if err := p.keepChanging(name, tmp.Name(), header); err != nil {
		return err
	}
	p.space.added(name, info.Size())
	return nil
}
