package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// Embedded says how the demo on embedded parts is run.
type Embedded struct {
	State   string // folder for everything; kept from run to run
	Recipes string // folder of the recipes that ship with Kiln
	Recipe  string
	Listen  string // address of the API
	Cloud   string // address of the pocket cloud
	Out     io.Writer
	Stay    bool // keep running after the story, until ctx ends
}

const password = "kiln"

// Run brings up the pocket cloud, an API, an engine, a worker and two clusters of agents in this process, and
// tells the story.
func (e Embedded) Run(ctx context.Context) error {
	unlock, err := e.lock()
	if err != nil {
		return err
	}
	defer unlock()
	logger, closeLog, err := e.logger()
	if err != nil {
		return err
	}
	defer closeLog()
	source, err := e.repository()
	if err != nil {
		return err
	}
	nodes, boots := e.nodes()
	var local bus.Bus
	cloud, err := pocket.Start(context.WithoutCancel(ctx), pocket.Config{
		Dir: filepath.Join(e.State, "cloud"), Listen: e.Cloud, Password: password, Nodes: nodes, Zun: true, Keep: true,
		KilnURL: "http://" + e.Listen, Log: logger,
		Notify: func(exchange, key string, body []byte) {
			if local == nil {
				return
			}
			if err := local.Publish(ctx, bus.Message{Exchange: exchange, Key: key, Body: body}); err != nil {
				logger.WithError(err).Warning("a notification of the pocket cloud was lost")
			}
		},
	})
	if err != nil {
		return err
	}
	defer cloud.Close() //nolint:errcheck // the process ends
	cfg := e.config(cloud)
	if cfg.Build.SigningKey, err = e.signingKey(); err != nil {
		return err
	}
	parts, err := daemon.Open(ctx, "kiln-demo", cfg, logger)
	if err != nil {
		return err
	}
	defer parts.Close()
	local = parts.Bus
	if err := parts.DB.Migrate(ctx); err != nil {
		return err
	}
	return e.serve(ctx, parts, cloud, nodes, boots, source)
}

// serve runs the loops beside the story.
func (e Embedded) serve(ctx context.Context, parts *daemon.Parts, cloud *pocket.Cloud, nodes []wire.Node, boots bool, source string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.Listen)
	if err != nil {
		return fmt.Errorf("the API cannot listen on %s: %w", e.Listen, err)
	}
	worker, err := parts.Worker()
	if err != nil {
		return err
	}
	loops := []daemon.Loop{parts.HTTP(listener), parts.Relay(), parts.Engine(), worker}
	for _, n := range nodes {
		loops = append(loops, parts.Agent(n.Name, n.InstancesPath, filepath.Join(e.State, "stores", clusterOf(n.Name))))
	}
	done, stop := context.WithCancel(ctx)
	defer stop()
	loops = append(loops, func(ctx context.Context) error {
		defer stop()
		return e.tell(ctx, parts, cloud, nodes, boots, source)
	})
	return daemon.Serve(done, loops...)
}

func (e Embedded) tell(ctx context.Context, parts *daemon.Parts, cloud *pocket.Cloud, nodes []wire.Node, boots bool, source string) error {
	screen := NewScreen(e.Out)
	login := func(user, project string) (*openstack.Cloud, *client.Client, error) {
		conn, err := openstack.Connect(ctx, openstack.Config{AuthURL: cloud.AuthURL(), Username: user, Password: password, ProjectName: project, Interface: "public"})
		if err != nil {
			return nil, nil, err
		}
		return conn, &client.Client{Endpoint: "http://" + e.Listen, Token: conn.ForProject("").Token}, nil
	}
	demo, member, err := login("demo", "demo")
	if err != nil {
		return err
	}
	_, manager, err := login("demo-manager", "demo")
	if err != nil {
		return err
	}
	_, admin, err := login("admin", "admin")
	if err != nil {
		return err
	}
	e.say("Kiln on embedded parts, in %s (log: %s)\n", e.State, filepath.Join(e.State, "kiln.log"))
	compute := nova.New(demo)
	story := &Story{
		Member: member, Admin: admin, Manager: manager, SourceURL: "file://" + source, Recipe: e.Recipe, Clusters: clusters(nodes),
		Cluster: clusterOf(nodes[0].Name), Node: nodes[0].Name, Flavor: "kiln.small", Container: "nginx:1.25", Boots: boots, Screen: screen,
		Console:   func(ctx context.Context, id string) (string, error) { return compute.Console(ctx, "", id, 0) },
		Downloads: func(image string) int { return downloads(cloud.Requests(), image) },
		Held:      parts.Providers.Allocation,
	}
	outcome, err := story.Tell(ctx)
	if err != nil {
		return err
	}
	e.say("\n")
	outcome.Table(e.Out)
	e.say("\nThe API is at http://%s, Keystone at %s (user demo, demo-reader, demo-manager or admin, password %s).\n", e.Listen, cloud.AuthURL(), password)
	e.say("Look around in another shell:\n  export %s\n  bin/kiln image list\n", strings.Join(environment(cloud), " "))
	if !e.Stay {
		return nil
	}
	e.say("Ctrl-C ends it; images and database stay in %s for the next run.\n", e.State)
	<-ctx.Done()
	return nil
}

func (e Embedded) say(format string, args ...any) {
	fmt.Fprintf(e.Out, format, args...) //nolint:errcheck // a screen that is gone changes nothing
}

func environment(cloud *pocket.Cloud) []string {
	return []string{
		"OS_AUTH_URL=" + cloud.AuthURL(), "OS_USERNAME=demo", "OS_PASSWORD=" + password, "OS_PROJECT_NAME=demo",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
	}
}

// downloads counts who read the image's bytes from Glance, in the process or over HTTP.
func downloads(requests []wire.Request, image string) int {
	n := 0
	for _, r := range requests {
		if r.Service == pocket.Image && r.Method == http.MethodGet && strings.HasSuffix(r.Path, "/"+image+"/file") {
			n++
		}
	}
	return n
}

// nodes are two clusters of two. The first node boots guests where QEMU is installed.
func (e Embedded) nodes() (nodes []wire.Node, boots bool) {
	driver := "fake"
	if _, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		driver, boots = "qemu", true
	}
	for _, name := range []string{"node-a1", "node-a2", "node-b1", "node-b2"} {
		n := wire.Node{Name: name, VCPUs: 8, MemoryMB: 8192, DiskGB: 100, Driver: "fake", InstancesPath: filepath.Join(e.State, "nodes", name)}
		if name == "node-a1" {
			n.Driver = driver
		}
		nodes = append(nodes, n)
	}
	return nodes, boots
}

// clusterOf is "cluster-a" for "node-a1".
func clusterOf(node string) string { return "cluster-" + node[len("node-"):len(node)-1] }

func clusters(nodes []wire.Node) []Cluster {
	var out []Cluster
	for _, n := range nodes {
		name := clusterOf(n.Name)
		if len(out) == 0 || out[len(out)-1].Name != name {
			out = append(out, Cluster{Name: name, Store: cache.StoreSpec{Name: "disk", Type: "directory"}})
		}
		last := &out[len(out)-1]
		last.Nodes = append(last.Nodes, n.Name)
	}
	return out
}

func (e Embedded) config(cloud *pocket.Cloud) config.Config {
	loaded, err := config.Load(nil, "keystone_authtoken.auth_url", "keystone_authtoken.password")
	if err != nil { // defaults are valid; their test holds that
		loaded = &config.Loaded{}
	}
	c := loaded.Config
	c.Default.StatePath, c.Default.Host = e.State, "demo"
	c.Database.Connection = "sqlite:///" + filepath.Join(e.State, "kiln.sqlite")
	c.Default.TransportURL, c.Notifications.TransportURL = daemon.Memory, daemon.Memory
	c.Keystone.AuthURL, c.Keystone.PublicURI, c.Keystone.Password = cloud.AuthURL(), cloud.AuthURL(), password
	c.Worker.WorkDir, c.Worker.CacheDir = filepath.Join(e.State, "work"), filepath.Join(e.State, "cache")
	c.Worker.LocalSources = true
	c.Engine.SyncInterval = 10 * time.Second
	c.Policy.File = filepath.Join(e.State, "policy.yaml")
	return c
}

// signingKey is the file of the key that the demo's statements are signed with; it is made once.
func (e Embedded) signingKey() (string, error) {
	path := filepath.Join(e.State, "proof.key")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	private, _, err := proof.GenerateKey()
	if err != nil {
		return "", err
	}
	return path, errors.Join(os.WriteFile(path+".new", private, 0o600), os.Rename(path+".new", path))
}

// lock makes sure that no other demo uses the folder.
func (e Embedded) lock() (func(), error) {
	if err := os.MkdirAll(e.State, 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(e.State, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("another demo runs in %s", e.State)
	}
	return func() { f.Close() }, nil //nolint:errcheck // the lock goes with the descriptor
}

func (e Embedded) logger() (*logrus.Logger, func(), error) {
	f, err := os.OpenFile(filepath.Join(e.State, "kiln.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, err
	}
	return log.New(log.Config{Program: "kiln-demo", Output: f}), func() { f.Close() }, nil //nolint:errcheck // the process ends
}

// repository makes a git repository of the recipes, with a new commit only where they changed.
func (e Embedded) repository() (string, error) {
	dir := filepath.Join(e.State, "recipes")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	repo, err := git.PlainOpen(dir)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.PlainInit(dir, false)
	}
	if err != nil {
		return "", err
	}
	if err := copyTree(e.Recipes, dir); err != nil {
		return "", fmt.Errorf("the recipes: %w", err)
	}
	tree, err := repo.Worktree()
	if err != nil {
		return "", err
	}
	if err := tree.AddWithOptions(&git.AddOptions{All: true}); err != nil {
		return "", err
	}
	status, err := tree.Status()
	if err != nil || status.IsClean() {
		return dir, err
	}
	_, err = tree.Commit("Recipes that ship with Kiln", &git.CommitOptions{Author: &object.Signature{Name: "kiln", Email: "kiln@example.test", When: time.Now()}})
	return dir, err
}

// copyTree replaces what lies in to with the files of from; to's .git stays.
func copyTree(from, to string) error {
	entries, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	for _, old := range entries {
		if old.Name() == ".git" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(to, old.Name())); err != nil {
			return err
		}
	}
	info, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, sub := range info {
		if err := os.CopyFS(filepath.Join(to, sub.Name()), os.DirFS(filepath.Join(from, sub.Name()))); err != nil {
			return err
		}
	}
	return nil
}
