package mirror

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// serve answers one permitted request: from the cache, or by following a fetch.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, counts *counters) error {
	name := p.file(r.URL)
	if immutable(r.URL.Path) {
		if done, err := p.serveKept(w, r, name); done || err != nil {
			counts.add(Stats{Hits: 1})
			return err
		}
	}
	f, err := p.join(r.URL, counts)
	if err != nil {
		return err
	}
	defer p.leave(f)
	defer f.wakes(r.Context())()
	f.mu.Lock()
	for !f.done && f.size < 0 && r.Context().Err() == nil {
		f.cond.Wait()
	}
	growing, size := !f.done, f.size
	err = f.err
	f.mu.Unlock()
	switch {
	case r.Context().Err() != nil:
		return r.Context().Err()
	case growing && r.Header.Get("Range") == "":
		counts.add(Stats{Misses: 1})
		return f.copyTo(w, r, size)
	case growing:
		if err := f.wait(r.Context()); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if f.hit {
		counts.add(Stats{Hits: 1})
	} else {
		counts.add(Stats{Misses: 1})
	}
	done, err := p.serveKept(w, r, name)
	if err == nil && !done {
		return fs.ErrNotExist
	}
	return err
}

// serveKept answers from a kept file; false where there is none.
func (p *Proxy) serveKept(w http.ResponseWriter, r *http.Request, name string) (bool, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		return false, err
	}
	p.space.used(name)
	w.Header().Set("Content-Type", "application/octet-stream")
	// The file's own time is the upstream's Last-Modified, so apt's conditional requests work. That
	// of an immutable file is when it was last used, which nobody needs to know.
	modified := info.ModTime()
	if immutable(name) {
		modified = time.Time{}
	}
	http.ServeContent(w, r, "", modified, file)
	return true, nil
}

// wakes lets everybody who waits look again when ctx ends, until stop is called.
func (f *flight) wakes(ctx context.Context) (stop func()) {
	end := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		f.cond.Broadcast()
		f.mu.Unlock()
	})
	return func() { end() }
}

// wait blocks until the flight is over, and what was fetched has its name.
func (f *flight) wait(ctx context.Context) error {
	defer f.wakes(ctx)()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.done && ctx.Err() == nil {
		f.cond.Wait()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.err
}

// copyTo sends a file while it grows. Where the fetch fails in the middle the answer is shorter than
// announced, which net/http turns into a broken connection: the client sees that it is not whole.
func (f *flight) copyTo(w http.ResponseWriter, r *http.Request, size int64) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	var sent int64
	for sent < size {
		f.mu.Lock()
		for f.have <= sent && !f.done && r.Context().Err() == nil {
			f.cond.Wait()
		}
		have, err := f.have, f.err
		f.mu.Unlock()
		if err != nil || r.Context().Err() != nil || have <= sent {
			return errors.Join(err, r.Context().Err())
		}
		n, err := io.Copy(w, io.NewSectionReader(f.file, sent, min(have, size)-sent))
		sent += n
		if err != nil {
			return err
		}
	}
	return nil
}

// setValidators asks for a changing file only if it is not the kept one.
func (p *Proxy) setValidators(u *url.URL, h http.Header) {
	name := p.file(u)
	if _, err := os.Stat(name); err != nil {
		return
	}
	meta, err := os.ReadFile(metaOf(name))
	if err != nil {
		return
	}
	etag, modified, _ := strings.Cut(string(meta), "\n")
	if etag != "" {
		h.Set("If-None-Match", etag)
	}
	if modified != "" {
		h.Set("If-Modified-Since", modified)
	}
}

// metaOf is where the validators of a changing file are. "?" cannot be in an address's path here.
func metaOf(name string) string { return name + "?meta" }

// keepChanging replaces a changing file: without validators for a moment, never with wrong ones.
func (p *Proxy) keepChanging(name, tmp string, header http.Header) error {
	if err := os.Remove(metaOf(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	modified := header.Get("Last-Modified")
	if t, err := http.ParseTime(modified); err == nil {
		if err := os.Chtimes(tmp, t, t); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return os.WriteFile(metaOf(name), []byte(header.Get("ETag")+"\n"+modified), 0o600) //nolint:gosec // permits allows plain paths only
}

// connect tunnels to the host of an https upstream. What goes through it cannot be cached.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request, counts *counters) {
	if !p.permitsHost(r.Host) {
		p.cfg.Log.Warnf("mirror proxy: refused a tunnel to %s", r.Host)
		http.Error(w, r.Host+" is not the host of a package mirror of this job", http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.Timeout)
	defer cancel()
	up, err := (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", r.Host)
	if err != nil {
		http.Error(w, "cannot reach "+r.Host, http.StatusBadGateway)
		return
	}
	defer func() { _ = up.Close() }()
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be a tunnel", http.StatusInternalServerError)
		return
	}
	defer func() { _ = down.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = up.Close(), down.Close() })
	defer stop()
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	go func() {
		defer cancel()
		_, _ = io.Copy(up, buffered) // either end may close at any time: that is how a tunnel ends
	}()
	n, _ := io.Copy(down, up)
	counts.add(Stats{BytesUpstream: n, BytesServed: n})
}

func (p *Proxy) permitsHost(host string) bool {
	for _, a := range p.allowed {
		port := a.Port()
		if port == "" {
			port = "443"
		}
		if a.Scheme == "https" && strings.EqualFold(host, net.JoinHostPort(a.Hostname(), port)) {
			return true
		}
	}
	return false
}
