package nova

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

var _ cloud.Nova = (*Client)(nil)

// CreateTestServer asks for a server with its user data on a config drive, so that it needs no network to read it
// (https://docs.openstack.org/api-ref/compute/#create-server).
func (c *Client) CreateTestServer(ctx context.Context, projectID string, n cloud.NewServer) (string, error) {
	body := map[string]any{"name": n.Name, "imageRef": n.ImageID, "flavorRef": n.FlavorID, "metadata": n.Metadata, "networks": "none"}
	if n.NetworkID != "" {
		body["networks"] = []map[string]any{{"uuid": n.NetworkID}}
	}
	if n.Zone != "" {
		body["availability_zone"] = n.Zone
	}
	if len(n.UserData) > 0 {
		body["config_drive"], body["user_data"] = true, base64.StdEncoding.EncodeToString(n.UserData)
	}
	var answer struct {
		Server server `json:"server"`
	}
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "create_server", Method: http.MethodPost, Path: "servers", Body: map[string]any{"server": body}, Out: &answer,
	})
	return answer.Server.ID, err
}

// Snapshot asks for an image of the server's disk. Nova fills it in the background, and deletes it where it cannot
// (https://docs.openstack.org/api-ref/compute/#create-image-createimage-action; from microversion 2.45 the answer has the id).
func (c *Client) Snapshot(ctx context.Context, projectID, id, name string, properties map[string]string) (string, error) {
	var answer struct {
		ImageID string `json:"image_id"`
	}
	err := c.service.ForProject(projectID).Do(ctx, openstack.Call{
		Operation: "create_image", Method: http.MethodPost, Path: "servers/" + openstack.Segment(id) + "/action",
		Body: map[string]any{"createImage": map[string]any{"name": name, "metadata": properties}}, Out: &answer,
	})
	return answer.ImageID, err
}

// ServersWith reads the project's servers and keeps those whose metadata has the key: Nova's own filter is neither
// indexed nor exact.
func (c *Client) ServersWith(ctx context.Context, projectID, key string) ([]placement.Server, error) {
	service := c.service.ForProject(projectID)
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	var found []placement.Server
	for {
		var page struct {
			Servers []server               `json:"servers"`
			Links   []struct{ Rel string } `json:"servers_links"`
		}
		if err := service.Get(ctx, "servers", "servers/detail", query, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Servers {
			if s.Metadata[key] != "" {
				found = append(found, s.server())
			}
		}
		if len(page.Links) == 0 || len(page.Servers) == 0 {
			return found, nil
		}
		query.Set("marker", page.Servers[len(page.Servers)-1].ID)
	}
}
