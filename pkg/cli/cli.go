// Package cli is the kiln command line. Each noun of the API has the verbs that the API has for it; the output is
// a table for people or JSON for scripts.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/version"
)

// app is what all commands share.
type app struct {
	out      io.Writer
	format   string
	endpoint string
	noWait   bool
}

// New is the kiln command with everything below it.
func New(out io.Writer) *cobra.Command {
	a := &app{out: out}
	root := &cobra.Command{
		Use: "kiln", Short: "Keep an OpenStack cloud's images fresh and already there", Version: version.String(),
		SilenceUsage: true, SilenceErrors: true,
		Long: "Keep an OpenStack cloud's images fresh and already there.\n\nLog in with the usual OS_* variables or OS_CLOUD and clouds.yaml.",
	}
	root.SetOut(out)
	root.PersistentFlags().StringVarP(&a.format, "format", "f", "table", "output: table or json")
	root.PersistentFlags().StringVar(&a.endpoint, "endpoint", os.Getenv("KILN_ENDPOINT"), "address of the API; the catalog's where left out (KILN_ENDPOINT)")
	for _, n := range nouns() {
		root.AddCommand(a.noun(n))
	}
	root.AddCommand(a.channel(), a.who(), a.events(), demoCommand(out), storyCommand(out))
	return root
}

// connect logs in and finds the API in the catalog.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	provider, endpointOpts, err := a.login(ctx)
	if err != nil {
		return nil, err
	}
	return a.api(provider, endpointOpts)
}

// login gets a token from Keystone.
func (a *app) login(ctx context.Context) (*gophercloud.ProviderClient, gophercloud.EndpointOpts, error) {
	opts, endpointOpts, err := credentials()
	if err != nil {
		return nil, endpointOpts, err
	}
	opts.AllowReauth = true
	bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	provider, err := gopenstack.AuthenticatedClient(bounded, opts)
	if err != nil {
		return nil, endpointOpts, fmt.Errorf("login at %s failed: %w", opts.IdentityEndpoint, err)
	}
	return provider, endpointOpts, nil
}

// api finds the API in the catalog.
func (a *app) api(provider *gophercloud.ProviderClient, endpointOpts gophercloud.EndpointOpts) (*client.Client, error) {
	endpoint := a.endpoint
	if endpoint == "" {
		var err error
		endpointOpts.ApplyDefaults("provisioning")
		if endpoint, err = provider.EndpointLocator(endpointOpts); err != nil {
			return nil, errors.New("the catalog has no service of type provisioning: register it with kiln-manage bootstrap, or give --endpoint")
		}
	}
	endpoint = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(endpoint, "/"), "/v1"), "/")
	return &client.Client{Endpoint: endpoint, Token: func(context.Context) (string, error) { return provider.Token(), nil }}, nil
}

// row is any resource as the API gives it.
type row = map[string]any

// print writes rows as the format says.
func (a *app) print(rows []row, columns []string) error {
	switch a.format {
	case "json":
		return a.json(rows)
	case "table":
		return table(a.out, rows, columns)
	}
	return fmt.Errorf("unknown format %q: use table or json", a.format)
}

func (a *app) json(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// show writes one resource.
func (a *app) show(r row) error {
	if a.format == "json" {
		return a.json(r)
	}
	return properties(a.out, r)
}

// follow waits for the job of a resource, with its log on the screen, unless --no-wait.
func (a *app) follow(ctx context.Context, c *client.Client, path string, r row) (row, error) {
	id, _ := r["job_id"].(string)
	if a.noWait || id == "" {
		return r, nil
	}
	screen := demo.NewScreen(os.Stderr)
	screen.Begin(strings.TrimPrefix(path, "/v1/"))
	_, err := c.WaitJob(ctx, id, 500*time.Millisecond, screen.Job)
	if err != nil {
		screen.End("failed")
		return r, err
	}
	screen.End("done")
	if path == "" {
		return r, nil
	}
	var fresh row
	return fresh, c.Get(ctx, path, &fresh)
}

func query(pairs []string) (url.Values, error) {
	q := url.Values{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no filter: write name=value", p)
		}
		q.Add(k, v)
	}
	return q, nil
}
