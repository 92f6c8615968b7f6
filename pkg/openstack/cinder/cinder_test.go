package cinder_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cinder"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/pocket"
)

// volume is one row as the API reference shows it (GET /v3/{project_id}/volumes/detail).
const volume = `{"id": "%s", "name": "", "size": 75, "status": "in-use", "user_id": "32779452fcd34ae1a53a797ac8a1e064", "bootable": "true",
"attachments": [{"server_id": "f4fda93b-06e0-4743-8117-bc8bcecd651b", "attachment_id": "3b4db356-253d-4fab-bfa0-e3626c0b8405",
 "attached_at": "2013-06-05T18:20:00.000000", "host_name": null, "volume_id": "2edbc2f4-1507-44f8-ac0d-eed1d2608d38", "device": "/dev/vda", "id": "2edbc2f4"}],
"links": [], "availability_zone": "nova", "os-vol-host-attr:host": null, "encrypted": false, "replication_status": "disabled", "snapshot_id": null,
"os-vol-tenant-attr:tenant_id": "bab7d5c60cd041a0a36f7c4b6e1dd978", "source_volid": null, "metadata": {}, "description": null, "multiattach": false,
"created_at": "2013-06-05T18:20:00.000000", "updated_at": null, "volume_type": null, "consistencygroup_id": null, "os-vol-mig-status-attr:migstat": null%s}`

func row(id, image string) string {
	if image == "" {
		return fmt.Sprintf(volume, id, "")
	}
	return fmt.Sprintf(volume, id, `, "volume_image_metadata": {"image_id": "`+image+`", "image_name": "web", "checksum": "x", "container_format": "bare", "disk_format": "raw", "size": "1"}`)
}

// keystoneWith puts a volume service into a Keystone's answers; url "" leaves it out.
func keystoneWith(t *testing.T, url string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/auth/tokens", func(w http.ResponseWriter, _ *http.Request) {
		catalog := []any{}
		if url != "" {
			catalog = append(catalog, map[string]any{"type": "volumev3", "name": "cinderv3", "id": "c", "endpoints": []any{
				map[string]any{"interface": "internal", "url": url, "region": "R", "region_id": "R", "id": "e"}}})
		}
		w.Header().Set("X-Subject-Token", "token")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": map[string]any{"expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog,
			"project": map[string]any{"id": "p", "name": "service", "domain": map[string]any{"id": "default"}}}})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestVolumesOfAnImage(t *testing.T) {
	var asked []string
	block := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery)
		if r.URL.Query().Get("marker") == "" {
			fmt.Fprintf(w, `{"volumes": [%s, %s], "volumes_links": [{"rel": "next", "href": "x"}]}`, row("v1", "i1"), row("v2", ""))
			return
		}
		fmt.Fprintf(w, `{"volumes": [%s, %s]}`, row("v3", "i2"), row("v4", "i1"))
	}))
	t.Cleanup(block.Close)
	for _, endpoint := range []string{"/v3/p", "/v3"} {
		asked = nil
		c := cinder.New(cloudtest.As(t, openstack.Config{AuthURL: keystoneWith(t, block.URL+endpoint).URL}))
		found, err := c.UsersOfImage(t.Context(), "i1")
		if err != nil || !slices.Equal(found, []string{"v1", "v4"}) {
			t.Errorf("%v %v", found, err)
		}
		if len(asked) != 2 || !strings.HasPrefix(asked[0], endpoint+"/volumes/detail?all_tenants=1") || !strings.Contains(asked[1], "marker=v2") {
			t.Errorf("asked %q", asked)
		}
		asked = nil
		if counts, err := c.ImagesInUse(t.Context()); err != nil || !maps.Equal(counts, map[string]int{"i1": 2, "i2": 1}) || len(asked) != 2 {
			t.Errorf("servers from volumes: %v, %v, asked %q", counts, err, asked)
		}
	}
}

func TestNoVolumeService(t *testing.T) {
	c := cinder.New(cloudtest.As(t, openstack.Config{AuthURL: keystoneWith(t, "").URL}))
	if _, err := c.UsersOfImage(t.Context(), "i1"); errs.CodeOf(err) != "kiln.cinder.no_endpoint" {
		t.Errorf("without the service: %v", err)
	}
	_, kiln := cloudtest.Pocket(t, pocket.Config{})
	if _, err := cinder.New(kiln).UsersOfImage(t.Context(), "i1"); errs.CodeOf(err) != "kiln.cinder.no_endpoint" {
		t.Errorf("on the pocket cloud: %v", err)
	}
}

func TestVolumeServiceThatIsAway(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := cinder.New(cloudtest.As(t, openstack.Config{AuthURL: keystoneWith(t, gone.URL+"/v3").URL, Tries: 1}))
	if _, err := c.UsersOfImage(t.Context(), "i1"); !errs.Is(err, errs.Unavailable) || errs.CodeOf(err) == "kiln.cinder.no_endpoint" {
		t.Errorf("a service that is away is not one that is not there: %v", err)
	}
}
