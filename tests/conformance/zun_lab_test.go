package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/pocket/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/pocket/zun"
)

// zunSample is one recorded request with its answer.
type zunSample struct {
	File    string
	As      string `json:"as"`
	Request struct {
		Method, Path string
		Headers      map[string]string
		Body         any
	} `json:"request"`
	Response struct {
		Status  int
		Headers map[string]string
		Body    any
	} `json:"response"`
}

// zunSamples reads every recorded sample. The bodies are kept by container, so that a case can make the container
// that a sample is about from any sample that shows it.
func zunSamples(t *testing.T) (samples map[string]zunSample, containers map[string]map[string]any) {
	t.Helper()
	files, err := filepath.Glob("testdata/zun/*.json")
	if err != nil {
		t.Fatal(err)
	}
	samples, containers = map[string]zunSample{}, map[string]map[string]any{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if name == "index" {
			continue
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sample := zunSample{File: name}
		if err := json.Unmarshal(raw, &sample); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		samples[name] = sample
		keepContainer(containers, sample.Response.Body)
		if body, isMap := sample.Response.Body.(map[string]any); isMap {
			list, _ := body["containers"].([]any)
			for _, entry := range list {
				keepContainer(containers, entry)
			}
		}
	}
	return samples, containers
}

// keepContainer prefers a view that names its host.
func keepContainer(containers map[string]map[string]any, body any) {
	view, isMap := body.(map[string]any)
	if !isMap || view["task_state"] == nil && view["cpu_policy"] == nil {
		return
	}
	for _, key := range []string{"uuid", "name"} {
		ident, _ := view[key].(string)
		if old := containers[ident]; old == nil || old["host"] == nil && view["host"] != nil {
			containers[ident] = view
		}
	}
}

// labTokens: the token is the role of the sample.
type labTokens struct{}

func (labTokens) Check(token string) (wire.Caller, bool) {
	role, other := strings.CutSuffix(token, " of another project")
	caller := wire.Caller{UserID: wire.Hex(uuid.NewSHA1(uuid.Nil, []byte(token)).String()), UserName: token, ProjectName: "lab"}
	if other {
		caller.ProjectName = "other"
	}
	caller.ProjectID = wire.Hex(uuid.NewSHA1(uuid.Nil, []byte(caller.ProjectName)).String())
	switch role {
	case "admin":
		caller.Roles = []string{"admin", "member", "reader"}
	case "member":
		caller.Roles = []string{"member", "reader"}
	case "reader":
		caller.Roles = []string{"reader"}
	default:
		return wire.Caller{}, false
	}
	return caller, true
}

func (labTokens) Issue(string, string, time.Duration) (string, error) {
	return "", errors.New("not in this laboratory")
}

// labImages is a Glance with two docker archives, found by the names and by the ids of the samples.
type labImages struct{}

func (labImages) Get(_ wire.Caller, id string) (wire.Image, error) {
	switch id {
	case "labzun-glance", "labzun-big", "79ef80ec-cd19-49be-9422-0ff1ff5d73a3":
		return wire.Image{
			ID: id, Name: "labzun/forglance:1.0", Status: "active", DiskFormat: "raw", ContainerFormat: "docker", Size: 7,
			Checksum: "9fb064c27312eac6b70d83b446b46c21",
		}, nil
	}
	return wire.Image{}, wire.ErrImageNotFound
}

func (l labImages) Open(c wire.Caller, id string) (wire.Image, io.ReadCloser, error) {
	image, err := l.Get(c, id)
	return image, io.NopCloser(strings.NewReader("archive")), err
}

// labDocker has the images labzun/* and no registry, like the laboratory.
type labDocker struct{ refuseStart, refusePull error }

func (d *labDocker) Pull(_, image, policy string) error {
	repo, _, _ := strings.Cut(image, ":")
	switch {
	case d.refusePull != nil:
		return d.refusePull
	case strings.HasPrefix(image, "labzun/") && policy != "always":
		return nil
	case policy == "never":
		return fmt.Errorf("Image %s not present with pull policy of Never", repo)
	}
	return fmt.Errorf("Cannot download image from docker: Error on pulling image: %s", image)
}

func (d *labDocker) Create(zun.Spec) error { return nil }
func (d *labDocker) Start(zun.Spec) error  { return d.refuseStart }

// overtaken is a Placement that refuses a claim which looked possible, as in a race.
type overtaken struct{ wire.Placement }

func (overtaken) Claim(wire.Claim) error { return wire.ErrNoCapacity }

// zunLab is one fresh container service with the laboratory's three hosts.
type zunLab struct {
	t          *testing.T
	server     *zun.Server
	placement  *placement.Service
	docker     *labDocker
	url        string
	containers map[string]map[string]any
	ours       map[string]string // recorded text to ours
}

type labOptions struct {
	frozen bool // background steps never happen
	raced  bool
	vcpus  int64
}

func newZunLab(t *testing.T, containers map[string]map[string]any, opt labOptions) *zunLab {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if opt.vcpus == 0 {
		opt.vcpus = 16
	}
	lab := &zunLab{t: t, docker: &labDocker{}, containers: containers, ours: map[string]string{}}
	kit := wire.Kit{
		Service: "container", IdentityURL: "http://identity.test", Clock: time.Now, NewID: uuid.NewString, Tokens: labTokens{}, Images: labImages{}, Log: log,
	}
	for _, name := range []string{"zun1", "zun2", "vm"} {
		kit.Nodes = append(kit.Nodes, wire.Node{Name: name, VCPUs: opt.vcpus, MemoryMB: 24105, DiskGB: 201})
	}
	lab.placement = placement.New(kit)
	kit.Placement = lab.placement
	if opt.raced {
		kit.Placement = overtaken{lab.placement}
	}
	var recorder wire.Recorder
	var faults wire.Faults
	front := httptest.NewUnstartedServer(nil)
	lab.url = "http://" + front.Listener.Addr().String()
	kit.URL = lab.url
	delay := time.Millisecond
	if opt.frozen {
		delay = time.Hour
	}
	server, err := zun.New(zun.Deps{Kit: kit, Delay: delay, RPCTimeout: 20 * time.Millisecond, Docker: lab.docker})
	if err != nil {
		t.Fatal(err)
	}
	lab.server = server
	front.Config.Handler = kit.Edge(&recorder, &faults, server)
	front.Start()
	t.Cleanup(func() {
		front.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// replace puts our ids into a recorded text.
func (l *zunLab) replace(text string) string {
	for recorded, own := range l.ours {
		text = strings.ReplaceAll(text, recorded, own)
	}
	return text
}

// labReply is an answer without its body, which has been read.
type labReply struct {
	StatusCode int
	Status     string
	Header     http.Header
}

// call sends a request; a nil body sends none, a string goes as it is.
func (l *zunLab) call(as, method, path string, headers map[string]string, body any) (labReply, any) {
	l.t.Helper()
	var payload io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(v)
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			l.t.Fatal(err)
		}
		payload = strings.NewReader(l.replace(string(raw)))
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, payload)
	if err != nil {
		l.t.Fatal(err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	req.Header.Del("X-Auth-Token")
	if as != "nobody" {
		req.Header.Set("X-Auth-Token", as)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	reply := labReply{StatusCode: resp.StatusCode, Status: resp.Status, Header: resp.Header}
	if len(raw) == 0 {
		return reply, ""
	}
	var decoded any
	if err := json.Unmarshal(raw, &decoded); err != nil {
		l.t.Fatalf("%s %s answered no JSON: %q", method, path, raw)
	}
	return reply, decoded
}

var newestZun = map[string]string{"OpenStack-API-Version": "container 1.40", "Content-Type": "application/json"}

// make creates the container that the samples show under a recorded uuid or name, with changes.
func (l *zunLab) make(recorded string, run bool, changes map[string]any) string {
	l.t.Helper()
	seen := l.containers[recorded]
	if seen == nil {
		name := recorded
		if uuid.Validate(recorded) == nil {
			name = "unseen"
		}
		seen = map[string]any{"image": "labzun/busybox:1.0", "name": name, "uuid": recorded, "image_pull_policy": "never", "host": "zun1"}
	}
	body := map[string]any{"name": recorded}
	for _, key := range []string{
		"name", "image", "cpu", "memory", "command", "environment", "labels", "host", "image_driver", "image_pull_policy",
		"workdir", "entrypoint", "auto_heal", "cpu_policy", "restart_policy",
	} {
		if seen[key] != nil {
			body[key] = seen[key]
		}
	}
	if policy, isMap := body["restart_policy"].(map[string]any); isMap && len(policy) == 0 {
		delete(body, "restart_policy")
	}
	if name, _ := seen["hostname"].(string); name != "" && len(name) < 12 {
		body["hostname"] = name
	}
	maps.Copy(body, changes)
	maps.DeleteFunc(body, func(_ string, value any) bool { return value == nil })
	path := "/v1/containers"
	if run {
		path += "?run=true"
	}
	resp, answer := l.call("admin", http.MethodPost, path, newestZun, body)
	view, _ := answer.(map[string]any)
	id, _ := view["uuid"].(string)
	if resp.StatusCode != http.StatusAccepted || id == "" {
		l.t.Fatalf("make %s: %s %v", recorded, resp.Status, answer)
	}
	if old, _ := seen["uuid"].(string); old != "" {
		l.ours[old] = id
	}
	return id
}

// until waits for a status, and that nothing is under way.
func (l *zunLab) until(id, status string) {
	l.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	var view map[string]any
	for time.Now().Before(deadline) {
		_, answer := l.call("admin", http.MethodGet, "/v1/containers/"+id, newestZun, nil)
		view, _ = answer.(map[string]any)
		if view["status"] == status && view["task_state"] == nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	l.t.Fatalf("container %s never became %s: %v", id, status, view)
}

// act runs an action and waits for the status that it leads to.
func (l *zunLab) act(id, action, status string) {
	l.t.Helper()
	resp, answer := l.call("admin", http.MethodPost, "/v1/containers/"+id+"/"+action, newestZun, nil)
	if resp.StatusCode != http.StatusAccepted {
		l.t.Fatalf("%s: %s %v", action, resp.Status, answer)
	}
	l.until(id, status)
}

func (l *zunLab) untilReason(id, reason string) { l.untilField(id, "status_reason", reason) }

func (l *zunLab) untilField(id, field string, value any) {
	l.t.Helper()
	var view map[string]any
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		_, answer := l.call("admin", http.MethodGet, "/v1/containers/"+id, newestZun, nil)
		if view, _ = answer.(map[string]any); view[field] == value {
			return
		}
	}
	l.t.Fatalf("%s of container %s never became %v: %v", field, id, value, view)
}

// waitImage waits until a pull has succeeded, where it can.
func (l *zunLab) waitImage(id string, glance bool) {
	l.t.Helper()
	for range 50 {
		_, answer := l.call("admin", http.MethodGet, "/v1/images/"+id, newestZun, nil)
		view, _ := answer.(map[string]any)
		if view["image_id"] != nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
		if !glance {
			return
		}
	}
}
