package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/openstack/placement"
)

// storyFlags say how the story is told on a real cloud.
type storyFlags struct {
	story                  demo.Story
	member, manager, admin string // names in clouds.yaml
	endpoint               string
	clusters               []string
	notifications          string
}

func storyCommand(out io.Writer) *cobra.Command {
	f := &storyFlags{}
	cmd := &cobra.Command{
		Use: "story", Short: "Show the main job on a real cloud with a running Kiln", Args: cobra.NoArgs,
		Long: "Show the main job on a real cloud with a running Kiln: build, upgrade, copy, and start from the copy.\n\n" +
			"A VM named demo-vm (and, with --container, a container) of the project is replaced.",
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), out) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.member, "member", "demo", "cloud in clouds.yaml: a member of the project")
	fl.StringVar(&f.manager, "manager", "demo-manager", "cloud in clouds.yaml: a manager of the project")
	fl.StringVar(&f.admin, "admin", "admin", "cloud in clouds.yaml: an administrator")
	fl.StringVar(&f.endpoint, "api", "http://127.0.0.1:9790", "address of Kiln's API")
	fl.StringVar(&f.story.SourceURL, "source", "", "git repository of the recipes")
	fl.StringVar(&f.story.Recipe, "recipe", "debian-12-web", "recipe that is built")
	fl.StringArrayVar(&f.clusters, "cluster", nil, "NAME=NODE,NODE:directory or NAME=NODE,NODE:ceph:POOL; the VM runs in the first")
	fl.StringVar(&f.story.Node, "node", "", "node that the VM runs on")
	fl.StringVar(&f.story.Flavor, "flavor", "kiln.small", "the VM's flavor")
	fl.StringVar(&f.story.Container, "container", "", "image name of the container; none where left out (Zun is needed)")
	fl.StringVar(&f.notifications, "notifications", "", "transport URL on which Glance notifies, to count its downloads")
	return cmd
}

func (f *storyFlags) run(ctx context.Context, out io.Writer) error {
	s := &f.story
	for _, text := range f.clusters {
		c, err := parseCluster(text)
		if err != nil {
			return err
		}
		s.Clusters = append(s.Clusters, c)
	}
	if len(s.Clusters) == 0 || s.Node == "" || s.SourceURL == "" || f.notifications == "" {
		return fmt.Errorf("--source, --cluster, --node and --notifications are needed")
	}
	s.Cluster, s.Boots, s.Screen = s.Clusters[0].Name, true, demo.NewScreen(out)
	member, err := login(f.member)
	if err != nil {
		return err
	}
	admin, err := login(f.admin)
	if err != nil {
		return err
	}
	manager, err := login(f.manager)
	if err != nil {
		return err
	}
	s.Member, s.Admin, s.Manager = f.api(member), f.api(admin), f.api(manager)
	compute := nova.New(member)
	s.Console = func(ctx context.Context, id string) (string, error) { return compute.Console(ctx, "", id, 0) }
	s.Held = placement.New(admin).Allocation
	watch, err := watchDownloads(ctx, f.notifications)
	if err != nil {
		return err
	}
	s.Downloads = watch.count
	outcome, err := s.Tell(ctx)
	if err != nil {
		return err
	}
	outcome.Table(out)
	return nil
}

func (f *storyFlags) api(c *openstack.Cloud) *client.Client {
	return &client.Client{Endpoint: f.endpoint, Token: c.ForProject("").Token}
}

// login reads a cloud of clouds.yaml.
func login(name string) (*openstack.Cloud, error) {
	opts, _, _, err := clouds.Parse(clouds.WithCloudName(name))
	if err != nil {
		return nil, fmt.Errorf("cloud %s of clouds.yaml: %w", name, err)
	}
	project := opts.TenantName
	if opts.Scope != nil && opts.Scope.ProjectName != "" {
		project = opts.Scope.ProjectName
	}
	return openstack.Connect(context.Background(), openstack.Config{
		AuthURL: opts.IdentityEndpoint, Username: opts.Username, Password: opts.Password, ProjectName: project, Interface: "public",
	})
}

func parseCluster(text string) (demo.Cluster, error) {
	name, rest, ok := strings.Cut(text, "=")
	words := strings.Split(rest, ":")
	if !ok || len(words) < 2 || len(words) > 3 {
		return demo.Cluster{}, fmt.Errorf("--cluster %q: write NAME=NODE,NODE:directory or NAME=NODE,NODE:ceph:POOL", text)
	}
	c := demo.Cluster{Name: name, Nodes: strings.Split(words[0], ","), Store: cache.StoreSpec{Name: words[1], Type: words[1]}}
	if len(words) == 3 {
		c.Store.Pool = words[2]
	}
	return c, nil
}

// downloadWatch counts Glance's image.send notifications.
type downloadWatch struct {
	mu   sync.Mutex
	seen []string
}

func (w *downloadWatch) count(imageID string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, body := range w.seen {
		if strings.Contains(body, imageID) {
			n++
		}
	}
	return n
}

func watchDownloads(ctx context.Context, transport string) (*downloadWatch, error) {
	urls, err := bus.FromTransportURL(transport)
	if err != nil {
		return nil, err
	}
	b, err := bus.NewRabbit(bus.RabbitConfig{URLs: urls, Name: "kiln story", Log: log.Discard()})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { b.Close() }) //nolint:errcheck // the program ends
	w := &downloadWatch{}
	go func() {
		_ = b.Consume(ctx, bus.ConsumerSpec{Queue: "kiln.story", Bindings: []bus.Binding{{Exchange: "glance", Key: "notifications.info", Passive: true}}},
			func(_ context.Context, d bus.Delivery) error {
				n, err := bus.OpenEnvelope(d.Body)
				if err == nil && n.EventType == "image.send" {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.seen = append(w.seen, string(n.Payload))
				}
				return nil
			})
	}()
	return w, nil
}
