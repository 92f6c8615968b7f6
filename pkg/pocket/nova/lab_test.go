package nova_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// lab is a pocket cloud with an admin's token and its notifications.
type lab struct {
	*pocket.Cloud
	t     *testing.T
	token string
	nodes []wire.Node

	mu   sync.Mutex
	seen []note
	hold func(n note) // where set, the sender of a notification waits for it
}

// note is one notification, decoded.
type note struct {
	exchange, key string
	message       map[string]any
}

func newLab(t *testing.T, deps nova.Deps, driver string) *lab {
	t.Helper()
	l := &lab{t: t}
	dir := t.TempDir()
	for _, name := range []string{"node1", "node2"} {
		l.nodes = append(l.nodes, wire.Node{
			Name: name, VCPUs: 2, MemoryMB: 2048, DiskGB: 20, Driver: driver, InstancesPath: dir + "/" + name,
		})
	}
	cloud, err := pocket.Start(t.Context(), pocket.Config{Dir: dir + "/state", Nodes: l.nodes, Compute: deps, Notify: l.note})
	if err != nil {
		t.Fatal(err)
	}
	l.Cloud = cloud
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	header, _ := l.call(http.MethodPost, cloud.AuthURL()+"/auth/tokens", map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": "admin", "password": "kiln", "domain": map[string]string{"id": "default"}},
		}},
		"scope": map[string]any{"project": map[string]any{"name": "admin", "domain": map[string]string{"id": "default"}}},
	}}, http.StatusCreated)
	l.token = header.Get("X-Subject-Token")
	return l
}

func (l *lab) note(exchange, key string, body []byte) {
	var envelope struct {
		Message string `json:"oslo.message"`
	}
	n := note{exchange: exchange, key: key}
	if json.Unmarshal(body, &envelope) != nil || json.Unmarshal([]byte(envelope.Message), &n.message) != nil {
		l.t.Errorf("a notification that cannot be read: %s", body)
	}
	l.mu.Lock()
	l.seen = append(l.seen, n)
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		hold(n)
	}
}

// notes are the notifications of an event so far.
func (l *lab) notes(key, event string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for _, n := range l.seen {
		if n.key == key && n.message["event_type"] == event {
			out = append(out, n.message)
		}
	}
	return out
}

// call sends JSON, or bytes as they are, and wants a status.
func (l *lab) call(method, url string, body any, status int) (http.Header, map[string]any) {
	l.t.Helper()
	media := "application/json"
	raw, isBytes := body.([]byte)
	if isBytes {
		media = "application/octet-stream"
	} else if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			l.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, url, bytes.NewReader(raw))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", media)
	req.Header.Set("X-Auth-Token", l.token)
	req.Header.Set("OpenStack-API-Version", "compute 2.93, placement 1.39")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if resp.StatusCode != status {
		l.t.Fatalf("%s %s: %s, want %d: %s", method, url, resp.Status, status, answer)
	}
	decoded := map[string]any{}
	_ = json.Unmarshal(answer, &decoded) // not every answer has JSON
	return resp.Header, decoded
}

// image uploads bytes as a new image.
func (l *lab) image(format string, data []byte) string {
	l.t.Helper()
	_, made := l.call(http.MethodPost, l.URL()+"/image/v2/images", map[string]any{"name": "i", "disk_format": format, "container_format": "bare"}, http.StatusCreated)
	id := fmt.Sprint(made["id"])
	l.call(http.MethodPut, l.URL()+"/image/v2/images/"+id+"/file", data, http.StatusNoContent)
	return id
}

// boot creates a server of kiln.tiny and waits for a status.
func (l *lab) boot(image, host, status string) map[string]any {
	l.t.Helper()
	return l.until(l.create(image, host), status)
}

func (l *lab) create(image, host string) string {
	l.t.Helper()
	_, flavors := l.call(http.MethodGet, l.compute("/flavors"), nil, http.StatusOK)
	list, _ := flavors["flavors"].([]any)
	tiny, _ := list[0].(map[string]any)
	_, made := l.call(http.MethodPost, l.compute("/servers"), map[string]any{"server": map[string]any{
		"name": "guest", "imageRef": image, "flavorRef": tiny["id"], "networks": "none", "host": host,
	}}, http.StatusAccepted)
	view, _ := made["server"].(map[string]any)
	return fmt.Sprint(view["id"])
}

func (l *lab) until(id, status string) map[string]any {
	l.t.Helper()
	var server map[string]any
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, shown := l.call(http.MethodGet, l.compute("/servers/"+id), nil, http.StatusOK)
		server, _ = shown["server"].(map[string]any)
		if server["status"] == status {
			return server
		}
	}
	l.t.Fatalf("server %s never became %s: %v", id, status, server)
	return nil
}

// remove deletes a server and waits until nothing holds its allocation.
func (l *lab) remove(id string) {
	l.t.Helper()
	l.call(http.MethodDelete, l.compute("/servers/"+id), nil, http.StatusNoContent)
	l.eventually("the server is gone", func() bool {
		_, listed := l.call(http.MethodGet, l.compute("/servers"), nil, http.StatusOK)
		return !strings.Contains(fmt.Sprint(listed), id)
	})
}

func (l *lab) eventually(what string, done func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	l.t.Fatalf("never: %s", what)
}

func (l *lab) holds(id string) string {
	l.t.Helper()
	_, answer := l.call(http.MethodGet, l.URL()+"/placement/allocations/"+id, nil, http.StatusOK)
	return fmt.Sprint(answer["allocations"])
}

func (l *lab) compute(path string) string { return l.URL() + "/compute/v2.1" + path }

// downloads counts the reads of an image's bytes in the request log.
func (l *lab) downloads(image string) int {
	n := 0
	for _, r := range l.Requests() {
		if r.Service == "image" && r.Method == http.MethodGet && r.Path == "/v2/images/"+image+"/file" {
			n++
		}
	}
	return n
}
