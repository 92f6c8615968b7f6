// Package zun is what Kiln needs of OpenStack's container service; Client implements placement.Zun.
package zun

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// Microversion is sent with every call: 1.39 has host on create
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/rest_api_version_history.rst).
const Microversion = "1.40"

// Client makes Zun's calls. It is safe for many goroutines.
type Client struct{ service *openstack.Service }

var _ placement.Zun = (*Client)(nil)

// New makes a client; each call names its project.
func New(cloud *openstack.Cloud) *Client {
	return &Client{cloud.Service(openstack.Description{
		Name: "zun", Types: []string{"container", "application-container"}, Version: "v1", Microversion: Microversion,
	})}
}

type container struct {
	UUID   string            `json:"uuid"`
	Name   string            `json:"name"`
	Status string            `json:"status"`
	Reason string            `json:"status_reason"`
	Host   string            `json:"host"`
	Labels map[string]string `json:"labels"`

	Image       string `json:"image"` // as its maker said it
	ImageDriver string `json:"image_driver"`
}

func (c container) info() placement.ContainerInfo {
	return placement.ContainerInfo{ID: c.UUID, Name: c.Name, Status: c.Status, Reason: c.Reason, Host: c.Host, Labels: c.Labels}
}

// CreateContainer asks for a running container. No error does not mean that there is one: where no host fits Zun
// answers with the status Error and the reason. A container that failed keeps its allocation until
// DeleteContainer. Unavailable may have left a container too (Zun answers 500 to a lost race): ContainersByKey
// finds it (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/containers.py, post).
func (c *Client) CreateContainer(ctx context.Context, projectID string, n placement.NewContainer) (placement.ContainerInfo, error) {
	body := map[string]any{"image": n.Image, "name": n.Name, "labels": n.Labels}
	if n.ImageDriver != "" {
		body["image_driver"] = n.ImageDriver
	}
	if n.Host != "" {
		body["host"] = n.Host
	}
	if len(n.Command) > 0 {
		body["command"] = n.Command
	}
	if n.CPU > 0 {
		body["cpu"] = n.CPU
	}
	if n.MemoryMB > 0 {
		body["memory"] = n.MemoryMB
	}
	if n.DiskGB > 0 {
		body["disk"] = n.DiskGB
	}
	var created container
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "create_container", Method: http.MethodPost, Path: "containers", Query: url.Values{"run": {"true"}}, Body: body, Out: &created,
	})
	return created.info(), err
}

// Container finds a container; errs.NotFound for none. To show one Zun asks the container's host, which blocks for
// a minute and ends in 500 where the host is dead; the answer then comes from Zun's list, which reads the database only.
func (c *Client) Container(ctx context.Context, projectID, id string) (placement.ContainerInfo, error) {
	var shown container
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "container", Method: http.MethodGet, Path: "containers/" + openstack.Segment(id), Out: &shown,
	})
	if !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Timeout) {
		return shown.info(), err
	}
	all, listErr := c.list(ctx, projectID, func(k container) bool { return k.UUID == id })
	if listErr != nil || len(all) == 0 {
		return placement.ContainerInfo{}, err
	}
	return all[0], nil
}

// ContainersByKey reads the project's containers and keeps those with the label (any, where value is ""): Zun cannot filter by labels.
func (c *Client) ContainersByKey(ctx context.Context, projectID, value string) ([]placement.ContainerInfo, error) {
	return c.list(ctx, projectID, func(k container) bool {
		key := k.Labels[placement.KeyWorkload]
		return key != "" && (value == "" || key == value)
	})
}

// pageSize is Zun's default max_limit.
const pageSize = 1000

func (c *Client) list(ctx context.Context, projectID string, keep func(container) bool) (found []placement.ContainerInfo, err error) {
	err = each(ctx, c.service.ForProject(projectID), "containers", url.Values{}, func(k container) {
		if keep(k) {
			found = append(found, k.info())
		}
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// each shows every container that a question finds, page by page.
func each(ctx context.Context, service *openstack.Service, operation string, query url.Values, see func(container)) error {
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		var page struct {
			Containers []container `json:"containers"`
			Next       string      `json:"next"`
		}
		if err := service.Get(ctx, operation, "containers", query, &page); err != nil {
			return err
		}
		for _, k := range page.Containers {
			see(k)
		}
		if page.Next == "" || len(page.Containers) == 0 {
			return nil
		}
		query.Set("marker", page.Containers[len(page.Containers)-1].UUID)
	}
}

// DeleteContainer stops and deletes a container in the background; no error where it is gone. errs.Conflict while
// it is being created: it has to be asked again, because the forced way leaves the container on its host
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/containers.py, delete).
func (c *Client) DeleteContainer(ctx context.Context, projectID, id string) error {
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "delete_container", Method: http.MethodDelete, Path: "containers/" + openstack.Segment(id), Query: url.Values{"stop": {"true"}},
	})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// Hosts lists the names of the hosts that Zun runs on
// (https://opendev.org/openstack/zun/src/branch/unmaintained/zed/zun/api/controllers/v1/hosts.py, get_all).
func (c *Client) Hosts(ctx context.Context) ([]string, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	var names []string
	for {
		var page struct {
			Hosts []struct {
				UUID     string `json:"uuid"`
				Hostname string `json:"hostname"`
			} `json:"hosts"`
			Next string `json:"next"`
		}
		if err := c.service.Get(ctx, "hosts", "hosts", query, &page); err != nil {
			return nil, err
		}
		for _, h := range page.Hosts {
			names = append(names, h.Hostname)
		}
		if page.Next == "" || len(page.Hosts) == 0 {
			return names, nil
		}
		query.Set("marker", page.Hosts[len(page.Hosts)-1].UUID)
	}
}
