// Package pocket is an OpenStack in one process: Keystone, Glance, Placement, Nova and Zun that speak real HTTP
// on one listener, with their state in memory and their images in a folder. `kiln demo` and the tests use it.
//
// It may never drift from the real services: tests/conformance runs one suite against both. Like them it knows
// nothing of Kiln.
package pocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/pocket/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket/keystone"
	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
	"github.com/kiln-cloud/kiln/pkg/pocket/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/pocket/zun"
)

// Config is what a cloud is made from. Only Dir is needed.
type Config struct {
	Dir        string        // images and other state; made where it is missing
	Listen     string        // 127.0.0.1:0 by default
	Password   string        // of every seeded user; "kiln" by default
	Nodes      []wire.Node   // the compute hosts; InstancesPath is <Dir>/nodes/<name> by default, Driver "fake"
	Stores     []string      // Glance's stores, the first is the default one; file1 and file2 by default
	ImageQuota int64         // bytes that one upload may have before it gets 413; 0 for no limit
	Keep       bool          // whether Dir's images outlive the cloud; everything else begins anew at each start
	Zun        bool          // whether there is a container service
	Compute    nova.Deps     // options of Nova; Start sets its Kit
	Container  zun.Deps      // options of Zun; Start sets its Kit
	KilnURL    string        // where the catalog says that the service provisioning is; "" for none
	TokenLife  time.Duration // 1 hour by default
	Notify     wire.Notify   // gets the notifications of Glance and Nova; may be nil
	Clock      func() time.Time
	NewID      func() string // UUIDs with dashes
	Log        logrus.FieldLogger
}

// Cloud is a running pocket cloud.
type Cloud struct {
	url       string
	server    *http.Server
	done      chan error
	recorder  wire.Recorder
	faults    wire.Faults
	identity  *keystone.Service
	placement *placement.Service
	images    *glance.Service
	compute   *nova.Server
	container *zun.Server
	closers   []func() error
}

// Names of the services, which are the prefixes of their paths too.
const (
	Identity  = "identity"
	Image     = "image"
	Placement = "placement"
	Compute   = "compute"
	Container = "container"
)

func (c *Config) complete() error {
	if c.Dir == "" {
		return errors.New("pocket: Config.Dir is empty")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("pocket: %w", err)
	}
	c.Dir = dir
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Password == "" {
		c.Password = "kiln"
	}
	if len(c.Stores) == 0 {
		c.Stores = []string{"file1", "file2"}
	}
	if c.TokenLife == 0 {
		c.TokenLife = time.Hour
	}
	if c.Clock == nil {
		c.Clock = func() time.Time { return time.Now().UTC() }
	}
	if c.NewID == nil {
		c.NewID = uuid.NewString
	}
	if c.Log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.ErrorLevel)
		c.Log = quiet
	}
	return c.completeNodes()
}

func (c *Config) completeNodes() error {
	nodes := make([]wire.Node, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		if n.Name == "" {
			return errors.New("pocket: a node without a name")
		}
		if n.Driver == "" {
			n.Driver = "fake"
		}
		if n.InstancesPath == "" {
			n.InstancesPath = filepath.Join(c.Dir, "nodes", n.Name)
		}
		if err := os.MkdirAll(filepath.Join(n.InstancesPath, "_base"), 0o755); err != nil {
			return fmt.Errorf("pocket: node %s: %w", n.Name, err)
		}
		nodes = append(nodes, n)
	}
	c.Nodes = nodes
	return nil
}

// Start brings the cloud up; it serves when Start returns. It ends with ctx or with Close.
func Start(ctx context.Context, cfg Config) (*Cloud, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("pocket: %w", err)
	}
	c := &Cloud{url: "http://" + listener.Addr().String(), done: make(chan error, 1)}
	mux, err := c.assemble(cfg)
	if err != nil {
		return nil, errors.Join(err, c.closeServices(), listener.Close())
	}
	c.server = &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
	go func() { c.done <- c.server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = c.server.Close() })
	return c, nil
}

// URL is the root of all services, e.g. http://127.0.0.1:4711.
func (c *Cloud) URL() string { return c.url }

// AuthURL is OS_AUTH_URL for this cloud.
func (c *Cloud) AuthURL() string { return c.url + "/" + Identity + "/v3" }

// Close ends the cloud and waits until nothing of it runs. Open connections are cut.
func (c *Cloud) Close() error {
	err := c.server.Close()
	if serveErr := <-c.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	c.done <- http.ErrServerClosed // so that a second Close does not wait for ever
	return errors.Join(err, c.closeServices())
}

func (c *Cloud) closeServices() error {
	var err error
	for _, closer := range slices.Backward(c.closers) {
		err = errors.Join(err, closer())
	}
	c.closers = nil
	return err
}

// Fail arms a fault for the next so many requests that match (times < 0: until ClearFaults). For example
// Fail(wire.Match{Service: Image, Method: "PUT", PathSuffix: "/file"}, wire.Fault{Status: 413}, 1).
func (c *Cloud) Fail(match wire.Match, fault wire.Fault, times int) {
	c.faults.Add(match, fault, times)
}

// ClearFaults disarms all faults.
func (c *Cloud) ClearFaults() { c.faults.Clear() }

// Requests is the log of all requests since the start or the last ResetRequests.
func (c *Cloud) Requests() []wire.Request { return c.recorder.List() }

// ResetRequests empties the request log.
func (c *Cloud) ResetRequests() { c.recorder.Reset() }

// ExpireTokens makes all tokens of a user expire now; everybody's with "".
func (c *Cloud) ExpireTokens(user string) { c.identity.ExpireTokens(user) }

// SetTokenLife changes how long tokens live that are made from now on.
func (c *Cloud) SetTokenLife(life time.Duration) { c.identity.SetTokenLife(life) }

// SetEndpoint adds a service to the catalog or replaces its URL, e.g. ("provisioning", "kiln", "http://…").
func (c *Cloud) SetEndpoint(serviceType, name, url string) {
	c.identity.SetEndpoint(keystone.Endpoint{Type: serviceType, Name: name, URL: url})
}

// Compute is Nova, for tests that make a host fail.
func (c *Cloud) Compute() *nova.Server { return c.compute }

// Container is Zun; nil without Config.Zun.
func (c *Cloud) Container() *zun.Server { return c.container }
