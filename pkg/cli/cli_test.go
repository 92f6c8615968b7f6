package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/cli"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// kiln is an API and an engine on the pocket cloud, and the command line logged in to them by OS_* variables.
type kiln struct {
	t     *testing.T
	parts *daemon.Parts
}

func start(t *testing.T, change ...func(*config.Config)) kiln {
	t.Helper()
	for _, name := range []string{"OS_CLOUD", "OS_REGION_NAME", "KILN_ENDPOINT", "OS_PROJECT_ID", "OS_TENANT_ID", "OS_TENANT_NAME", "OS_TOKEN", "OS_USERID", "OS_DOMAIN_ID"} {
		t.Setenv(name, "")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cloud, err := pocket.Start(context.WithoutCancel(t.Context()), pocket.Config{
		Dir: t.TempDir(), Zun: true, KilnURL: "http://" + listener.Addr().String() + "/v1",
		Nodes: []wire.Node{{Name: "node1", VCPUs: 8, MemoryMB: 8192, DiskGB: 100}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cloud.Close() })
	loaded, err := config.Load(nil, "keystone_authtoken.auth_url", "keystone_authtoken.password")
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config
	c.Database.Connection = "sqlite:///" + filepath.Join(t.TempDir(), "kiln.sqlite")
	c.Keystone.AuthURL, c.Keystone.Password = cloud.AuthURL(), "kiln"
	c.Policy.File = filepath.Join(t.TempDir(), "policy.yaml")
	for _, f := range change {
		f(&c)
	}
	parts, err := daemon.Open(t.Context(), "kiln-test", c, log.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(parts.Close)
	if err := parts.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- daemon.Serve(ctx, parts.HTTP(listener), parts.Relay(), parts.Engine()) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("OS_AUTH_URL", cloud.AuthURL())
	t.Setenv("OS_PASSWORD", "kiln")
	t.Setenv("OS_USER_DOMAIN_NAME", "Default")
	t.Setenv("OS_PROJECT_DOMAIN_NAME", "Default")
	k := kiln{t, parts}
	k.as("demo", "demo")
	return k
}

func (k kiln) as(user, project string) {
	k.t.Setenv("OS_USERNAME", user)
	k.t.Setenv("OS_PROJECT_NAME", project)
}

func (k kiln) try(args ...string) (string, error) {
	k.t.Helper()
	var out bytes.Buffer
	cmd := cli.New(&out)
	cmd.SetArgs(args)
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func (k kiln) run(args ...string) string {
	k.t.Helper()
	out, err := k.try(args...)
	if err != nil {
		k.t.Fatalf("kiln %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func TestCommandsReachTheAPIThroughTheCatalog(t *testing.T) {
	k := start(t)
	k.run("family", "create", "--name", "web", "--description", "the web")
	if out := k.run("family", "list"); !strings.Contains(out, "web") || !strings.Contains(out, "DESCRIPTION") {
		t.Errorf("table:\n%s", out)
	}
	var rows []catalog.Family
	if err := json.Unmarshal([]byte(k.run("family", "list", "-f", "json")), &rows); err != nil || len(rows) != 1 || rows[0].Name != "web" {
		t.Errorf("JSON: %+v, error %v", rows, err)
	}
	if _, err := k.try("family", "create", "--name", "web"); err == nil || !strings.Contains(err.Error(), "req-") {
		t.Errorf("the same name twice: %v", err)
	}
	if _, err := k.try("family", "list", "--filter", "colour=red"); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("an unknown filter: %v", err)
	}
	if _, err := k.try("cluster", "create", "--name", "a", "--node", "node1", "--store", "disk:directory"); err == nil {
		t.Error("a member made a cluster")
	}
	k.as("admin", "admin")
	k.run("cluster", "create", "--name", "a", "--node", "node1", "--store", "disk:directory")
	if out := k.run("cluster", "show", "a"); !strings.Contains(out, "name=disk type=directory") {
		t.Errorf("cluster:\n%s", out)
	}
}

// A workload is created, followed to its end, seen in the ledger and in the events, and deleted.
func TestWorkloadLifeOnTheCommandLine(t *testing.T) {
	k := start(t)
	k.as("admin", "admin")
	k.await("node1", "node", "list")
	k.as("demo", "demo")
	out := k.run("workload", "create", "--name", "c1", "--kind", "container", "--image-ref", "nginx:1.25", "--vcpus", "1", "--memory", "64", "-f", "json")
	var w struct{ ID, State, Node string }
	if err := json.Unmarshal([]byte(out), &w); err != nil || w.State != "active" || w.Node != "node1" {
		t.Fatalf("workload %+v, error %v", w, err)
	}
	if out := k.run("job", "list", "--filter", "kind=place"); !strings.Contains(out, "succeeded") {
		t.Errorf("jobs:\n%s", out)
	}
	k.run("workload", "delete", w.ID)
	if out := k.run("workload", "show", w.ID); !strings.Contains(out, "deleted") {
		t.Errorf("workload:\n%s", out)
	}
	k.as("admin", "admin")
	if out := k.run("claim", "list"); !strings.Contains(out, "released") {
		t.Errorf("ledger:\n%s", out)
	}
}

// await repeats a command until its output has the text.
func (k kiln) await(text string, args ...string) {
	k.t.Helper()
	for range 100 {
		if strings.Contains(k.run(args...), text) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	k.t.Fatalf("kiln %s never told of %s", strings.Join(args, " "), text)
}

func TestLoginThatIsMissingOrWrong(t *testing.T) {
	k := start(t)
	t.Setenv("OS_PASSWORD", "wrong")
	if _, err := k.try("family", "list"); err == nil || !strings.Contains(err.Error(), "login at") {
		t.Errorf("a wrong password: %v", err)
	}
	t.Setenv("OS_AUTH_URL", "")
	if _, err := k.try("family", "list"); err == nil || !strings.Contains(err.Error(), "OS_CLOUD") {
		t.Errorf("no login: %v", err)
	}
}

func TestRecipesAreCheckedWithoutALogin(t *testing.T) {
	var out bytes.Buffer
	cmd := cli.New(&out)
	cmd.SetArgs([]string{"recipe", "check", filepath.Join("..", "..", "etc", "kiln", "recipes")})
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "2 recipes, no faults") {
		t.Errorf("the recipes that ship: %s, error %v", out.String(), err)
	}
	cmd = cli.New(&out)
	cmd.SetArgs([]string{"recipe", "check", "/nonexistent"})
	if err := cmd.ExecuteContext(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a file that is not there: %v", err)
	}
}
