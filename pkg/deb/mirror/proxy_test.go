package mirror_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
)

type upstream struct {
	*httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	answer   http.HandlerFunc
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		u.mu.Lock()
		answer := u.answer
		u.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) answers(f http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = f
}

// start makes a proxy before the upstream's /debian and a client of it.
func start(t *testing.T, cfg mirror.Config) (*mirror.Proxy, *http.Client) {
	t.Helper()
	p, err := mirror.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(address)}
	t.Cleanup(func() {
		p.Close()
		transport.CloseIdleConnections()
		server.Close()
	})
	return p, &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func get(t *testing.T, c *http.Client, address string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

func want(t *testing.T, c *http.Client, address string, status int, body string) {
	t.Helper()
	s, b, err := get(t, c, address)
	if err != nil || s != status || !strings.Contains(b, body) {
		t.Errorf("%s: %d %.80q %v, want %d %.80q", address, s, b, err, status, body)
	}
}

func TestPackagesAreFetchedOnce(t *testing.T) {
	u := newUpstream(t)
	text := strings.Repeat("deb", 1<<20)
	u.answers(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(w, text)
	})
	cfg := mirror.Config{Upstreams: []string{u.URL + "/debian"}, Dir: t.TempDir()}
	p, c := start(t, cfg)
	address := u.URL + "/debian/pool/a_1%3a2.0-1_amd64.deb"
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if s, b, err := get(t, c, address); err != nil || s != http.StatusOK || b != text {
				t.Errorf("%d, %d bytes, %v", s, len(b), err)
			}
		})
	}
	group.Wait()
	want(t, c, address, http.StatusOK, "deb")
	if n := u.requests.Load(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	counted := func(s mirror.Stats) bool {
		return s.BytesUpstream == int64(len(text)) && s.BytesServed == 9*int64(len(text)) && s.Hits >= 1 && s.Hits+s.Misses == 9
	}
	for deadline := time.Now().Add(5 * time.Second); !counted(p.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) { // a client has its last byte before the proxy has counted it
			t.Fatalf("%+v", p.Stats())
		}
	}
	f, err := p.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	_, again := start(t, cfg)
	want(t, again, address, http.StatusOK, "deb")
	if n := u.requests.Load(); n != 1 {
		t.Errorf("after a restart upstream was asked %d times", n)
	}
}

// TestViewsCountForThemselves: two jobs at the same time, each with its own bytes, and one file that both want.
func TestViewsCountForThemselves(t *testing.T) {
	u := newUpstream(t)
	asked, goOn := make(chan struct{}, 8), make(chan struct{})
	u.answers(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-goOn
		_, _ = io.WriteString(w, strings.Repeat("x", len(r.URL.Path)*100))
	})
	p, _ := start(t, mirror.Config{Upstreams: []string{u.URL}, Dir: t.TempDir()})
	one, two := p.View(), p.View()
	ask := func(v *mirror.View, name string) {
		w := httptest.NewRecorder()
		v.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, u.URL+name, http.NoBody))
		if w.Code != http.StatusOK || w.Body.Len() != len(name)*100 {
			t.Errorf("%s: %d, %d bytes", name, w.Code, w.Body.Len())
		}
	}
	var group sync.WaitGroup
	group.Go(func() { ask(one, "/both.deb") })
	<-asked
	group.Go(func() { ask(two, "/own-of-two.deb") })
	<-asked
	group.Go(func() { ask(two, "/both.deb") })
	close(goOn)
	group.Wait()
	ask(two, "/both.deb")
	a, b, all := one.Stats(), two.Stats(), p.Stats()
	if a.BytesUpstream != 900 || a.BytesServed != 900 || b.BytesUpstream != 1500 || b.BytesServed != 3300 {
		t.Errorf("one %+v, two %+v", a, b)
	}
	if all.BytesUpstream != 2400 || all.BytesServed != 4200 || all.Hits+all.Misses != 4 {
		t.Errorf("all %+v", all)
	}
}

func TestListsAreAskedConditionally(t *testing.T) {
	u := newUpstream(t)
	var full atomic.Int64
	tag := atomic.Pointer[string]{}
	one, two := `"1"`, `"2"`
	tag.Store(&one)
	u.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", *tag.Load())
		if r.Header.Get("If-None-Match") == *tag.Load() {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		full.Add(1)
		_, _ = io.WriteString(w, "release "+*tag.Load())
	})
	_, c := start(t, mirror.Config{Upstreams: []string{u.URL}, Dir: t.TempDir()})
	address := u.URL + "/dists/stable/InRelease"
	want(t, c, address, http.StatusOK, `release "1"`)
	want(t, c, address, http.StatusOK, `release "1"`)
	if full.Load() != 1 {
		t.Errorf("the whole file came %d times", full.Load())
	}
	tag.Store(&two)
	want(t, c, address, http.StatusOK, `release "2"`)
	u.Close()
	want(t, c, address, http.StatusBadGateway, address)
}

func TestOnlyUpstreamsAreServed(t *testing.T) {
	u := newUpstream(t)
	u.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	_, c := start(t, mirror.Config{Upstreams: []string{u.URL + "/debian", "https://secure.example.org/debian"}, Dir: t.TempDir()})
	other := strings.Replace(u.URL, "127.0.0.1", "localhost", 1)
	for _, address := range []string{
		u.URL + "/other/x.deb", u.URL + "/debian-security/x.deb", u.URL + "/debian/../other/x.deb", u.URL + "/debian/%2e%2e/other/x.deb",
		other + "/debian/x.deb", u.URL + "/debian/x.deb?y=1", u.URL + "/debian//x.deb", u.URL + "/debian/%00.deb",
	} {
		want(t, c, address, http.StatusForbidden, "not below a package mirror")
	}
	want(t, c, u.URL+"/debian/x.deb", http.StatusOK, "secret")
	if n := u.requests.Load(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	if _, _, err := get(t, c, strings.Replace(u.URL, "http:", "https:", 1)+"/debian/x.deb"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a tunnel to another host: %v", err)
	}
}

func TestBadUpstreams(t *testing.T) {
	u := newUpstream(t)
	_, c := start(t, mirror.Config{Upstreams: []string{u.URL}, Dir: t.TempDir(), Timeout: 5 * time.Second})
	u.answers(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	want(t, c, u.URL+"/missing.deb", http.StatusNotFound, "missing.deb")

	u.answers(func(w http.ResponseWriter, _ *http.Request) {
		if u.requests.Load()%2 == 0 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "second try")
	})
	want(t, c, u.URL+"/flaky", http.StatusOK, "second try")

	u.answers(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) })
	want(t, c, u.URL+"/down.deb", http.StatusBadGateway, u.URL+"/down.deb")

	u.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "changed") })
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("right")))
	want(t, c, u.URL+"/by-hash/SHA256/"+sum, http.StatusBadGateway, "checksum")
	u.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "right") })
	want(t, c, u.URL+"/by-hash/SHA256/"+sum, http.StatusOK, "right")
}

func TestShortBodyIsNotKept(t *testing.T) {
	u := newUpstream(t)
	_, c := start(t, mirror.Config{Upstreams: []string{u.URL}, Dir: t.TempDir(), Timeout: 5 * time.Second})
	u.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "only these")
	})
	if s, b, err := get(t, c, u.URL+"/x.deb"); err == nil && s == http.StatusOK {
		t.Errorf("a torn file was served as whole: %q", b)
	}
	whole := strings.Repeat("w", 100)
	u.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole) })
	want(t, c, u.URL+"/x.deb", http.StatusOK, whole)
}

func TestCacheIsBounded(t *testing.T) {
	u := newUpstream(t)
	u.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1000)) })
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "partial", "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, c := start(t, mirror.Config{Upstreams: []string{u.URL}, Dir: dir, MaxBytes: 2500})
	for i := range 5 {
		want(t, c, fmt.Sprintf("%s/%d.deb", u.URL, i), http.StatusOK, "")
		want(t, c, u.URL+"/0.deb", http.StatusOK, "") // used all the time: stays
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		kept, err := filepath.Glob(filepath.Join(dir, "files", "*", "*.deb"))
		if err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(filepath.Join(dir, "partial"))
		if err != nil {
			t.Fatal(err)
		}
		if len(kept) == 2 && filepath.Base(kept[0]) == "0.deb" && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kept %v, partial %v", kept, left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
