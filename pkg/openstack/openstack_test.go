package openstack_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func startPocket(t *testing.T, cfg pocket.Config) *pocket.Cloud {
	t.Helper()
	cloud, _ := cloudtest.Pocket(t, cfg)
	return cloud
}

func connect(t *testing.T, cfg openstack.Config) *openstack.Cloud {
	t.Helper()
	return cloudtest.As(t, cfg)
}

type observed struct {
	mu   sync.Mutex
	list []string
}

func (o *observed) observe(service, operation string, status int, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if took < 0 {
		status = -1
	}
	o.list = append(o.list, service+" "+operation+" "+http.StatusText(status))
}

func (o *observed) has(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.list, what)
}

func countLogins(cloud *pocket.Cloud) int {
	n := 0
	for _, r := range cloud.Requests() {
		if r.Method == http.MethodPost && r.Path == "/v3/auth/tokens" {
			n++
		}
	}
	return n
}

func TestLoginIsLazyAndRenewedOnceAtATime(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	seen := &observed{}
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Observe: seen.observe})
	if n := len(cloud.Requests()); n != 0 {
		t.Fatalf("Connect sent %d requests", n)
	}
	images := glance.New(c)
	for range 2 {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := images.Images(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		cloud.ExpireTokens("kiln") // Keystone revokes: the next calls meet 401
	}
	if n := countLogins(cloud); n != 2 {
		t.Errorf("%d logins for two tokens", n)
	}
	for _, want := range []string{"keystone authenticate Created", "glance images OK", "glance images Unauthorized"} {
		if !seen.has(want) {
			t.Errorf("not observed: %s in %v", want, seen.list)
		}
	}
}

func TestTokenIsRenewedBeforeItEnds(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	now := time.Now()
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Clock: func() time.Time { return now }})
	first, err := c.ForProject("").Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(57 * time.Minute)
	second, err := c.ForProject("").Token(t.Context())
	if err != nil || second == first {
		t.Errorf("57 of 60 minutes later: same token %v, %v", second == first, err)
	}
}

func TestForProject(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	demo, err := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Username: "demo", ProjectName: "demo"}).ForProject("").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL()})
	got, err := c.ForProject(demo).ID(t.Context())
	if err != nil || got != demo {
		t.Errorf("scoped to %q instead of %q: %v", got, demo, err)
	}
	if _, err := c.ForProject("nowhere").Token(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a project that is not there: %v", err)
	}
}

func TestWrongPasswordIsNotTold(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Password: "hush-hush"})
	_, err := glance.New(c).Images(t.Context(), nil)
	if errs.CodeOf(err) != "kiln.keystone.credentials" || !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v has code %s", err, errs.CodeOf(err))
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("the password is in %q", err)
	}
}

func TestRequestIDGoesAlong(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL()})
	const id = "req-3d3f3a55-1111-4222-8333-444455556666"
	got := make(chan string, 1)
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("X-Openstack-Request-Id")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer echo.Close()
	cloud.SetEndpoint("image", "glance", echo.URL)
	_, err := glance.New(c).Image(openstack.WithRequestID(t.Context(), id), "some")
	if !errs.Is(err, errs.NotFound) || errs.CodeOf(err) != "kiln.glance.not_found" {
		t.Errorf("404 gave %v", err)
	}
	if sent := <-got; sent != id {
		t.Errorf("glance got the request id %q", sent)
	}
}

// TestFaults holds every status against the kind and code that callers decide by.
func TestFaults(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	for _, c := range []struct {
		status int
		header string
		body   string
		kind   errs.Kind
		code   string
		after  time.Duration
	}{
		{400, "", `{"badRequest":{"code":400,"message":"no such flavor"}}`, errs.Invalid, "refused", 0},
		{403, "", `{"forbidden":{"code":403,"message":"Policy doesn't allow it"}}`, errs.Forbidden, "forbidden", 0},
		{403, "", `{"forbidden":{"code":403,"message":"Quota exceeded for cores"}}`, errs.TooLarge, "quota", 0},
		{404, "", `<html><head><title>404</title></head><body>No image</body></html>`, errs.NotFound, "not_found", 0},
		{409, "", `{"errors":[{"detail":"in use","code":"x"}]}`, errs.Conflict, "conflict", 0},
		{413, "", `too big`, errs.TooLarge, "full", 0},
		{429, "7", ``, errs.Unavailable, "unavailable", 7 * time.Second},
		{500, "", `{"computeFault":{"message":"boom"}}`, errs.Unavailable, "unavailable", 5 * time.Second},
		{503, "30", `<html>maintenance</html>`, errs.Unavailable, "unavailable", 30 * time.Second},
		{418, "", ``, errs.Internal, "unexpected", 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", c.header)
			w.Header().Set("X-Openstack-Request-Id", "req-theirs")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		cloud.SetEndpoint("image", "glance", server.URL)
		err := glance.New(connect(t, openstack.Config{AuthURL: cloud.AuthURL()})).DeleteImage(t.Context(), "some id")
		server.Close()
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != c.kind || e.Code != "kiln.glance."+c.code || e.RetryAfter != c.after {
			t.Errorf("%d: got %#v, want kind %d, code %s, after %s", c.status, err, c.kind, c.code, c.after)
			continue
		}
		for _, part := range []string{"glance answered", "DELETE /v2/images/some id", "req-theirs"} {
			if !strings.Contains(e.Error(), part) {
				t.Errorf("%q does not say %q", e.Error(), part)
			}
		}
	}
}

func TestAwayAndSlow(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	cloud.SetEndpoint("image", "glance", gone.URL)
	err := glance.New(connect(t, openstack.Config{AuthURL: cloud.AuthURL()})).DeleteImage(t.Context(), "x")
	var e *errs.Error
	if !errors.As(err, &e) || e.Code != "kiln.glance.away" || e.RetryAfter == 0 {
		t.Errorf("no listener: %v", err)
	}
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	cloud.SetEndpoint("image", "glance", slow.URL)
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Timeout: 200 * time.Millisecond})
	if err := glance.New(c).DeleteImage(t.Context(), "x"); !errs.Is(err, errs.Timeout) || errs.CodeOf(err) != "kiln.glance.timeout" {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := glance.New(c).DeleteImage(ctx, "x"); !errs.Is(err, errs.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestReadsAreRepeatedAndWritesAreNot(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL()})
	images := glance.New(c)
	away := wire.Fault{Status: http.StatusServiceUnavailable}
	cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodGet}, away, 2)
	if _, err := images.Images(t.Context(), map[string]string{"os_hidden": "false"}); err != nil {
		t.Errorf("a read after two faults: %v", err)
	}
	cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodDelete}, away, 2)
	if err := images.DeleteImage(t.Context(), "x"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a delete, which is safe to repeat, after two faults: %v", err)
	}
	cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodPost}, away, 1)
	if _, err := images.CreateImage(t.Context(), catalog.NewGlanceImage{Name: "x", DiskFormat: "raw", ContainerFormat: "bare"}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a write was repeated: %v", err)
	}
}

func TestNoEndpoint(t *testing.T) {
	cloud := startPocket(t, pocket.Config{})
	c := connect(t, openstack.Config{AuthURL: cloud.AuthURL(), Region: "Elsewhere"})
	if _, err := glance.New(c).Images(t.Context(), nil); errs.CodeOf(err) != "kiln.glance.no_endpoint" {
		t.Errorf("another region: %v", err)
	}
	if _, err := keystone.New(c).Validate(t.Context(), "none", false); !errs.Is(err, errs.NotFound) {
		t.Errorf("keystone needs no catalog: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := openstack.Connect(t.Context(), openstack.Config{AuthURL: "http://example.test", Username: "kiln", ProjectName: "service"})
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Where.Field != "password" {
		t.Errorf("no password: %v", err)
	}
	if _, err = openstack.Connect(t.Context(), openstack.Config{
		AuthURL: "http://example.test", Username: "kiln", Password: "x", ProjectName: "service", CACert: "/nowhere.pem",
	}); !errs.Is(err, errs.Invalid) {
		t.Errorf("no such cafile: %v", err)
	}
}
