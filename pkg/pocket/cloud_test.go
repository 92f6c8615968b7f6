package pocket_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// TestDownloadsInTheProcessAreSeen: what a node fetches without HTTP stands in the request log like any download and is
// notified, and what it has already is not fetched again.
func TestDownloadsInTheProcessAreSeen(t *testing.T) {
	var sends atomic.Int64
	cloud := start(t, pocket.Config{
		Nodes: []wire.Node{{Name: "node1", VCPUs: 4, MemoryMB: 4096, DiskGB: 20}},
		Notify: func(_, _ string, body []byte) {
			if strings.Contains(string(body), `\"event_type\":\"image.send\"`) {
				sends.Add(1)
			}
		},
	})
	demo, admin := login(t, cloud, "demo", "demo"), login(t, cloud, "admin", "admin")
	url := newImage(t, cloud, demo)
	if resp, err := upload(t, url, demo, []byte("a small disk")); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("upload: %v, %v", resp, err)
	}
	image := url[strings.LastIndex(url, "/")+1:]
	aggregates := cloud.URL() + "/compute/v2.1/os-aggregates"
	for _, step := range []struct{ path, body string }{
		{"", `{"aggregate":{"name":"a","availability_zone":null}}`},
		{"/1/action", `{"add_host":{"host":"node1"}}`},
		{"/1/images", `{"cache":[{"id":"` + image + `"}]}`},
		{"/1/images", `{"cache":[{"id":"` + image + `"}]}`},
	} {
		if resp := sendJSON(t, http.MethodPost, aggregates+step.path, admin, step.body); resp.StatusCode >= http.StatusBadRequest {
			t.Fatalf("%s: %s: %s", step.path, resp.Status, body(t, resp))
		}
	}
	for deadline := time.Now().Add(10 * time.Second); sends.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := cloud.Close(); err != nil { // waits for what still runs
		t.Fatal(err)
	}
	downloads := slices.DeleteFunc(cloud.Requests(), func(r wire.Request) bool {
		return r.Service != pocket.Image || r.Method != http.MethodGet || !strings.HasSuffix(r.Path, image+"/file")
	})
	if len(downloads) != 1 || !downloads[0].InProcess || downloads[0].BytesOut != int64(len("a small disk")) {
		t.Errorf("downloads: %+v", downloads)
	}
	if sends.Load() != 1 {
		t.Errorf("%d notifications image.send", sends.Load())
	}
}

func postJSON(t *testing.T, url, token, body string) reply {
	t.Helper()
	return sendJSON(t, http.MethodPost, url, token, body)
}

func sendJSON(t *testing.T, method, url, token, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("OpenStack-API-Version", "placement 1.39, compute 2.93")
	resp, err := exchange(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestClaimsRace: of twenty claims at once for four places, four are granted.
func TestClaimsRace(t *testing.T) {
	cloud := start(t, pocket.Config{})
	token := login(t, cloud, "kiln", "service")
	base := cloud.URL() + "/placement"
	var made struct{ UUID string }
	if err := json.Unmarshal([]byte(body(t, postJSON(t, base+"/resource_providers", token, `{"name":"node"}`))), &made); err != nil {
		t.Fatal(err)
	}
	provider := base + "/resource_providers/" + made.UUID
	if resp := sendJSON(t, http.MethodPut, provider+"/inventories", token,
		`{"resource_provider_generation":0,"inventories":{"VCPU":{"total":4}}}`); resp.StatusCode != http.StatusOK {
		t.Fatalf("inventory: %s", resp.Status)
	}
	claim := `{"allocations":{"` + made.UUID + `":{"resources":{"VCPU":1}}},"project_id":"p","user_id":"u","consumer_generation":null,"consumer_type":"INSTANCE"}`
	var granted, refused atomic.Int64
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			switch sendJSON(t, http.MethodPut, base+"/allocations/"+uuid.NewString(), token, claim).StatusCode {
			case http.StatusNoContent:
				granted.Add(1)
			case http.StatusConflict:
				refused.Add(1)
			}
		})
	}
	group.Wait()
	if granted.Load() != 4 || refused.Load() != 16 {
		t.Errorf("%d granted, %d refused", granted.Load(), refused.Load())
	}
	if got := body(t, do(t, http.MethodGet, provider+"/usages", token, "")); !strings.Contains(got, `"VCPU":4`) {
		t.Errorf("usages: %s", got)
	}
}
