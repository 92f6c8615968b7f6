// Package nova is what Kiln needs of OpenStack's compute service; Client implements placement.Nova.
package nova

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Microversion is sent with every call: 2.74 has host on create, 2.81 the image cache of aggregates (Train)
// (https://docs.openstack.org/nova/zed/reference/api-microversion-history.html).
const Microversion = "2.81"

// Client makes Nova's calls. It is safe for many goroutines.
type Client struct{ service *openstack.Service }

var _ placement.Nova = (*Client)(nil)

// New makes a client; each call names its project.
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{Name: "nova", Types: []string{"compute"}, Version: "v2.1", Microversion: Microversion})}
}

// pageSize is Nova's default max_limit.
const pageSize = 1000

type server struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Status   string            `json:"status"`
	Host     string            `json:"OS-EXT-SRV-ATTR:host"`
	Metadata map[string]string `json:"metadata"`
	Fault    struct {
		Message string `json:"message"`
	} `json:"fault"`
}

func (s server) server() placement.Server {
	return placement.Server{ID: s.ID, Name: s.Name, Status: s.Status, Host: s.Host, Fault: s.Fault.Message, Metadata: s.Metadata}
}

// CreateServer asks for a server on the host, without networks. Nova answers with nothing but the id.
// The host needs the admin role in the project
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/api/openstack/compute/schemas/servers.py, create_v274).
func (c *Client) CreateServer(ctx context.Context, projectID string, n placement.NewServer) (placement.Server, error) {
	body := map[string]any{"name": n.Name, "imageRef": n.ImageID, "flavorRef": n.FlavorID, "networks": "none", "metadata": n.Metadata}
	if n.Host != "" {
		body["host"] = n.Host
	}
	var answer struct {
		Server server `json:"server"`
	}
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "create_server", Method: http.MethodPost, Path: "servers", Body: map[string]any{"server": body}, Out: &answer,
	})
	if err != nil {
		return placement.Server{}, err
	}
	s := answer.Server.server()
	s.Name, s.Metadata = n.Name, n.Metadata
	if s.Status == "" {
		s.Status = "BUILD"
	}
	return s, nil
}

// Server finds a server; errs.NotFound for none.
func (c *Client) Server(ctx context.Context, projectID, id string) (placement.Server, error) {
	var answer struct {
		Server server `json:"server"`
	}
	err := c.service.ForProject(projectID).Get(ctx, "server", "servers/"+openstack.Segment(id), nil, &answer)
	return answer.Server.server(), err
}

// ServersByKey reads the project's servers and keeps those with the key (any, where value is ""): what Nova filters by metadata itself is
// neither indexed nor exact.
func (c *Client) ServersByKey(ctx context.Context, projectID, value string) ([]placement.Server, error) {
	servers, err := c.ServersWith(ctx, projectID, placement.KeyWorkload)
	if value == "" {
		return servers, err
	}
	return slices.DeleteFunc(servers, func(s placement.Server) bool { return s.Metadata[placement.KeyWorkload] != value }), err
}

// DeleteServer asks for the end of a server; no error where it is gone. Nova does it in the background.
func (c *Client) DeleteServer(ctx context.Context, projectID, id string) error {
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "delete_server", Method: http.MethodDelete, Path: "servers/" + openstack.Segment(id),
	})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// Console is the last lines of the guest's serial console, all where lines is 0. errs.Conflict while the server is not up
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/api/openstack/compute/console_output.py).
func (c *Client) Console(ctx context.Context, projectID, id string, lines int) (string, error) {
	action := map[string]any{}
	if lines > 0 {
		action["length"] = lines
	}
	var answer struct {
		Output string `json:"output"`
	}
	err := c.service.ForProject(projectID).Read(ctx, openstack.Call{
		Operation: "console", Method: http.MethodPost, Path: "servers/" + openstack.Segment(id) + "/action",
		Body: map[string]any{"os-getConsoleOutput": action}, Out: &answer,
	})
	return answer.Output, err
}

// Hypervisors lists the compute hosts. What they have is Placement's to tell.
func (c *Client) Hypervisors(ctx context.Context) ([]placement.Hypervisor, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	var all []placement.Hypervisor
	for {
		var page struct {
			Hypervisors []struct {
				ID       string `json:"id"`
				Hostname string `json:"hypervisor_hostname"`
				State    string `json:"state"`
				Status   string `json:"status"`
				Service  struct {
					Host string `json:"host"`
				} `json:"service"`
			} `json:"hypervisors"`
			Links []struct{ Rel string } `json:"hypervisors_links"`
		}
		if err := c.service.Get(ctx, "hypervisors", "os-hypervisors/detail", query, &page); err != nil {
			return nil, err
		}
		for _, h := range page.Hypervisors {
			all = append(all, placement.Hypervisor{
				ID: h.ID, Hostname: h.Hostname, Host: h.Service.Host, Up: h.State == "up", Disabled: h.Status == "disabled",
			})
		}
		if len(page.Links) == 0 || len(page.Hypervisors) == 0 {
			return all, nil
		}
		query.Set("marker", all[len(all)-1].ID)
	}
}
