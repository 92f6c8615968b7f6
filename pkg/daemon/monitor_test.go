package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/pocket"
)

// A program without an API tells its health and metrics where the configuration says.
func TestMonitor(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cloud, err := pocket.Start(context.WithoutCancel(t.Context()), pocket.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	loaded, err := config.Load(nil, "keystone_authtoken.auth_url", "keystone_authtoken.password")
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config
	c.Default.MonitorBind = address
	c.Database.Connection = "sqlite:///" + filepath.Join(t.TempDir(), "kiln.sqlite")
	c.Keystone.AuthURL, c.Keystone.Password, c.Policy.File = cloud.AuthURL(), "kiln", filepath.Join(t.TempDir(), "policy.yaml")
	parts, err := daemon.Open(t.Context(), "kiln-test", c, log.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(parts.Close)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	defer stop()
	go func() { served <- daemon.Serve(ctx, parts.Monitor(), parts.Engine()) }()
	if status, body := get(t, "http://"+address+"/healthcheck"); status != http.StatusServiceUnavailable || !strings.Contains(body, "schema") {
		t.Errorf("without a schema: %d %q", status, body)
	}
	if err := parts.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, "http://"+address+"/healthcheck"); status != http.StatusOK || body != "OK\n" {
		t.Errorf("with all well: %d %q", status, body)
	}
	// The engine reads the nodes once the schema is there; its calls are then counted.
	for range 200 {
		if _, body := get(t, "http://"+address+"/metrics"); strings.Contains(body, `kiln_openstack_call_seconds_count{operation="providers",service="placement",status="200"}`) {
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_, body := get(t, "http://"+address+"/metrics")
	t.Errorf("metrics:\n%s", body)
}

// get asks until somebody listens.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}
