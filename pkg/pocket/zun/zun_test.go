package zun_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/pocket/zun"
)

// lab is a pocket cloud with one node and an admin's token.
type lab struct {
	*pocket.Cloud
	t     *testing.T
	token string
}

func newLab(t *testing.T, deps zun.Deps) *lab {
	t.Helper()
	deps.Delay = time.Millisecond
	cloud, err := pocket.Start(t.Context(), pocket.Config{
		Dir: t.TempDir(), Zun: true, Container: deps, Nodes: []wire.Node{{Name: "node1", VCPUs: 2, MemoryMB: 2048, DiskGB: 20}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{Cloud: cloud, t: t}
	header, _ := l.call(http.MethodPost, cloud.AuthURL()+"/auth/tokens", map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": "admin", "password": "kiln", "domain": map[string]string{"id": "default"}},
		}},
		"scope": map[string]any{"project": map[string]any{"name": "admin", "domain": map[string]string{"id": "default"}}},
	}}, http.StatusCreated)
	l.token = header.Get("X-Subject-Token")
	return l
}

func (l *lab) call(method, url string, body any, status int) (http.Header, map[string]any) {
	l.t.Helper()
	raw, isBytes := body.([]byte)
	media := "application/octet-stream"
	if !isBytes {
		media = "application/json"
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
	req.Header.Set("OpenStack-API-Version", "container 1.40")
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

func (l *lab) containers(path string) string { return l.URL() + "/container/v1/containers" + path }

// create makes a container and waits for a status.
func (l *lab) create(body map[string]any, status string) map[string]any {
	l.t.Helper()
	_, made := l.call(http.MethodPost, l.containers("?run=true"), body, http.StatusAccepted)
	var view map[string]any
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		_, view = l.call(http.MethodGet, l.containers("/"+fmt.Sprint(made["uuid"])), nil, http.StatusOK)
		if view["status"] == status && view["task_state"] == nil {
			return view
		}
	}
	l.t.Fatalf("never became %s: %v", status, view)
	return nil
}

// remove deletes a container and waits until it is gone.
func (l *lab) remove(view map[string]any) {
	l.t.Helper()
	l.call(http.MethodDelete, l.containers("/"+fmt.Sprint(view["uuid"])+"?force=true"), nil, http.StatusNoContent)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, listed := l.call(http.MethodGet, l.containers(""), nil, http.StatusOK); fmt.Sprint(listed["containers"]) == "[]" {
			return
		}
	}
	l.t.Fatal("the container was never gone")
}

// holds are the resources of a consumer by class.
func (l *lab) holds(view map[string]any) string {
	l.t.Helper()
	_, answer := l.call(http.MethodGet, l.URL()+"/placement/allocations/"+fmt.Sprint(view["uuid"]), nil, http.StatusOK)
	all, _ := answer["allocations"].(map[string]any)
	for _, entry := range all {
		one, _ := entry.(map[string]any)
		return fmt.Sprint(one["resources"])
	}
	return ""
}

// TestCharges: CPUs are charged whole, rounded up; resize and PATCH never change the allocation.
func TestCharges(t *testing.T) {
	l := newLab(t, zun.Deps{DiskQuota: true})
	for cpu, charged := range map[float64]int{0.1: 1, 0.5: 1, 1: 1, 1.2: 2} {
		view := l.create(map[string]any{"image": "busybox", "cpu": cpu, "memory": 64, "disk": 3}, "Running")
		want := fmt.Sprintf("map[DISK_GB:3 MEMORY_MB:64 VCPU:%d]", charged)
		if got := l.holds(view); got != want {
			t.Errorf("%v CPUs hold %s, want %s", cpu, got, want)
		}
		if view["host"] != "node1" {
			t.Errorf("host is %v", view["host"])
		}
		l.call(http.MethodPatch, l.containers("/"+fmt.Sprint(view["uuid"])), map[string]any{"cpu": 2, "memory": 128}, http.StatusOK)
		if got := l.holds(view); got != want {
			t.Errorf("after PATCH it holds %s, want %s", got, want)
		}
		l.remove(view)
		if got := l.holds(view); got != "" {
			t.Errorf("after the delete it still holds %s", got)
		}
	}
}

// refusal refuses one step.
type refusal struct{ pull, create error }

func (r refusal) Pull(string, string, string) error { return r.pull }
func (r refusal) Create(zun.Spec) error             { return r.create }
func (refusal) Start(zun.Spec) error                { return nil }

// TestLeaks: a failed pull keeps host and allocation until DELETE; where Docker refuses the create, the host becomes
// null and DELETE orphans the allocation.
func TestLeaks(t *testing.T) {
	for name, c := range map[string]struct {
		docker refusal
		host   any
		after  string
	}{
		"pull":   {refusal{pull: errors.New("no registry")}, "node1", ""},
		"create": {refusal{create: errors.New("no")}, nil, "map[MEMORY_MB:64 VCPU:1]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, zun.Deps{Docker: c.docker})
			view := l.create(map[string]any{"image": "busybox", "cpu": 1, "memory": 64}, "Error")
			if view["host"] != c.host {
				t.Errorf("host is %v, want %v", view["host"], c.host)
			}
			if got := l.holds(view); got != "map[MEMORY_MB:64 VCPU:1]" {
				t.Errorf("the failed container holds %q", got)
			}
			l.remove(view)
			if got := l.holds(view); got != c.after {
				t.Errorf("after the delete: %q, want %q", got, c.after)
			}
		})
	}
}

// TestGlanceImage: an image of Glance has to be of the container format docker.
func TestGlanceImage(t *testing.T) {
	l := newLab(t, zun.Deps{})
	upload := func(format string) string {
		_, made := l.call(http.MethodPost, l.URL()+"/image/v2/images", map[string]any{"name": "i", "disk_format": "raw", "container_format": format}, http.StatusCreated)
		id := fmt.Sprint(made["id"])
		l.call(http.MethodPut, l.URL()+"/image/v2/images/"+id+"/file", []byte("archive"), http.StatusNoContent)
		return id
	}
	good, bad := upload("docker"), upload("bare")
	l.create(map[string]any{"image": good, "image_driver": "glance", "cpu": 1}, "Running")
	failed := l.create(map[string]any{"image": bad, "image_driver": "glance", "cpu": 1}, "Error")
	if failed["status_reason"] == nil {
		t.Error("an image that is no archive fails without a reason")
	}
	_, pulled := l.call(http.MethodPost, l.URL()+"/container/v1/images", map[string]any{"repo": good, "host": "node1"}, http.StatusAccepted)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		_, row := l.call(http.MethodGet, l.URL()+"/container/v1/images/"+fmt.Sprint(pulled["uuid"]), nil, http.StatusOK)
		if row["image_id"] != nil && row["size"] == "7" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pull never ended: %v", row)
		}
	}
}

// TestFull: where nothing fits, the answer is 202 with the status Error at once, without an allocation.
func TestFull(t *testing.T) {
	l := newLab(t, zun.Deps{})
	l.create(map[string]any{"image": "busybox", "cpu": 2, "host": "node1"}, "Running")
	_, made := l.call(http.MethodPost, l.containers("?run=true"), map[string]any{"image": "busybox", "cpu": 1, "host": "node1"}, http.StatusAccepted)
	if made["status"] != "Error" || made["status_reason"] != "There are not enough hosts available." {
		t.Errorf("status %v, reason %v", made["status"], made["status_reason"])
	}
	if got := l.holds(made); got != "" {
		t.Errorf("it holds %s", got)
	}
}
