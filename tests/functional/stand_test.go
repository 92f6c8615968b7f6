// Package functional runs Kiln's programs as an operator does, one process each, on the real OpenStack of tools/cloud.
//
// One stand serves all tests of a run: its own database, projects, users, region of the catalog and queue, so that it
// can share the cloud with others. What it made is removed at the end, and at the next start where a run was killed.
package functional

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
)

// stand is a Kiln of its own on the real cloud.
type stand struct {
	id   string // of this run, in the name of everything that it makes
	dir  string // of this run
	keep string // from run to run: programs, packages and the lock
	bin  string
	api  string // address

	admin     *openstack.Cloud
	identity  *openstack.Service
	compute   *openstack.Service
	resources *openstack.Service
	glance    *glance.Client
	project   string // id; its users are member, manager and reader
	other     string // id; its user is other

	bootstrapped string // what the first kiln-manage bootstrap said

	mu    sync.Mutex
	procs map[string]*process
}

var (
	standOnce sync.Once
	theStand  *stand
	errStand  error
)

// kiln is the stand, which the first test that asks brings up.
func kiln(t *testing.T) *stand {
	t.Helper()
	if testing.Short() {
		t.Skip("the real cloud is not for -short: tools/cloud up, then run without -short")
	}
	if os.Getenv("KILN_TEST_CLOUD") != "1" {
		t.Fatal(`no real cloud: run tools/cloud up, then eval "$(tools/cloud env)"`)
	}
	standOnce.Do(func() {
		began := time.Now()
		if theStand, errStand = newStand(); errStand == nil {
			errStand = theStand.up()
		}
		t.Logf("the stand took %.1f s", time.Since(began).Seconds())
	})
	if errStand != nil {
		t.Fatal(errStand)
	}
	return theStand
}

func TestMain(m *testing.M) {
	code := m.Run()
	if theStand != nil {
		if err := theStand.down(); err != nil {
			fmt.Fprintln(os.Stderr, "cleaning up:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func newStand() (*stand, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the worker builds disks: run the functional tests as root")
	}
	s := &stand{id: uuid.NewString()[:8], keep: filepath.Join(os.Getenv("KILN_TEST_STATE"), "functional"), procs: map[string]*process{}}
	if err := os.MkdirAll(s.keep, 0o755); err != nil {
		return nil, err
	}
	if err := s.lock(); err != nil {
		return nil, err
	}
	var err error
	if s.dir, err = os.MkdirTemp(s.keep, "run-"); err != nil {
		return nil, err
	}
	s.bin = filepath.Join(s.keep, "bin") // go links only what changed since the run before
	s.admin, err = openstack.Connect(context.Background(), openstack.Config{
		AuthURL: os.Getenv("KILN_TEST_AUTH_URL"), Username: "admin", Password: secret(), ProjectName: "admin", Region: os.Getenv("KILN_TEST_REGION"), Interface: "public",
	})
	if err != nil {
		return nil, err
	}
	s.glance = glance.New(s.admin)
	s.identity = s.admin.Service(openstack.Description{Name: "keystone", Types: []string{"identity"}})
	s.compute = s.admin.Service(openstack.Description{Name: "nova", Types: []string{"compute"}, Version: "v2.1", Microversion: "2.81"})
	s.resources = s.admin.Service(openstack.Description{Name: "placement", Types: []string{"placement"}, Microversion: "1.38"})
	return s, nil
}

// lock lets one run at a time on this machine; the lock goes with the process.
func (s *stand) lock() error {
	f, err := os.OpenFile(filepath.Join(s.keep, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another run of the functional tests uses %s", s.keep)
	}
	return nil
}

// up is bounded: every step has its own deadline.
func (s *stand) up() error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	for _, step := range []func(context.Context) error{
		s.removeEarlierRuns, s.build, s.makeProjects, s.makeDatabase, s.configure, s.makeRepository, s.manage, s.startPrograms, s.awaitNodes,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// down ends the programs and removes what the run made.
func (s *stand) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	err := errors.Join(s.stopPrograms(), s.remove(ctx, s.id))
	if err != nil || os.Getenv("KILN_TEST_KEEP_LOGS") != "" {
		return err // the logs in s.dir tell why
	}
	return os.RemoveAll(s.dir)
}

func secret() string { return os.Getenv("KILN_TEST_PASSWORD") }

// name is what a thing of a run is called.
func name(run, thing string) string { return "kiln-functional-" + run + "-" + thing }

// login connects as one of the stand's users: member, manager and reader are of project, other is of other.
func (s *stand) login(t *testing.T, user string) *openstack.Cloud {
	t.Helper()
	project := name(s.id, "project")
	if user == "other" {
		project = name(s.id, "foreign")
	}
	c, err := openstack.Connect(t.Context(), openstack.Config{
		AuthURL: os.Getenv("KILN_TEST_AUTH_URL"), Username: name(s.id, user), Password: secret(), ProjectName: project,
		Region: os.Getenv("KILN_TEST_REGION"), Interface: "public",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// as is Kiln's API called by a user; "admin" is the cloud's administrator.
func (s *stand) as(t *testing.T, user string) *client.Client {
	t.Helper()
	c := s.admin
	if user != "admin" {
		c = s.login(t, user)
	}
	return &client.Client{Endpoint: s.api, Token: c.ForProject("").Token}
}

// awaitNodes waits until the API is well and the engine knows every compute.
func (s *stand) awaitNodes(ctx context.Context) error {
	admin := &client.Client{Endpoint: s.api, Token: s.admin.ForProject("").Token}
	want := append(fakes(), os.Getenv("KILN_TEST_LIBVIRT_HOST"))
	return until(ctx, time.Minute, "Kiln knows its nodes", func(ctx context.Context) (bool, error) {
		if err := s.endedByItself(); err != nil {
			return false, err
		}
		if !healthy(ctx, s.api) {
			return false, nil
		}
		nodes, err := client.List[map[string]any](ctx, admin, "nodes", nil)
		up := map[string]bool{}
		for _, n := range nodes {
			up[fmt.Sprint(n["name"])] = n["up"] == true && n["agent_seen"] != nil
		}
		for _, n := range want {
			if !up[n] && n != want[1] && n != want[2] { // the second and third fake have no agent
				return false, nil
			}
		}
		return err == nil && len(nodes) >= len(want), nil
	})
}

func healthy(ctx context.Context, api string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/healthcheck", http.NoBody)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

func fakes() []string { return strings.Split(os.Getenv("KILN_TEST_FAKE_HOSTS"), ",") }

// until asks again and again until done, an error, or the limit.
func until(ctx context.Context, limit time.Duration, what string, ask func(ctx context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		done, err := ask(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %s", limit, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
