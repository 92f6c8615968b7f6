package conformance

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// notification is one message as a consumer sees it, out of its envelope.
type notification struct {
	key      string
	envelope map[string]any
	message  map[string]any
	payload  any
}

// listener collects notifications. The zero value is ready.
type listener struct {
	mu   sync.Mutex
	seen map[string][]notification // by exchange
}

func (l *listener) add(exchange, key string, body []byte) {
	n := notification{key: key}
	if json.Unmarshal(body, &n.envelope) != nil {
		return
	}
	inner, _ := n.envelope["oslo.message"].(string)
	if json.Unmarshal([]byte(inner), &n.message) != nil {
		return
	}
	n.payload = n.message["payload"]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string][]notification{}
	}
	l.seen[exchange] = append(l.seen[exchange], n)
}

// about answers the notifications of an exchange that name an id, in the order in which they came.
func (l *listener) about(exchange, id string) []notification {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.seen[exchange]), func(n notification) bool {
		return at(n.payload, "id") != id && at(n.payload, "image_id") != id
	})
}

// listenReal binds a queue of its own to an exchange of the real cloud.
func (l *listener) listenReal(t *testing.T, exchange string) {
	t.Helper()
	conn, err := amqp.Dial(os.Getenv("KILN_TEST_RABBIT_URL"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.QueueBind(queue.Name, "#", exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	messages, err := channel.ConsumeWithContext(t.Context(), queue.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for m := range messages {
			l.add(exchange, m.RoutingKey, m.Body)
		}
	}()
}

const imagePayload = "id name status created_at updated_at min_disk min_ram protected checksum owner disk_format container_format size " +
	"virtual_size is_public visibility properties tags deleted deleted_at"

// testNotifications follows one image from its creation to its end.
func testNotifications(t *testing.T, target Target) {
	if target.Real {
		target.listener.listenReal(t, "glance")
	}
	demo, admin := login(t, target, "demo", "demo"), login(t, target, "admin", "admin")
	g := &glanceUsers{demo: demo, admin: admin}
	id := demo.post(t, "image", "/v2/images", map[string]any{"name": "conformance-" + uuid.NewString(), "disk_format": "raw",
		"container_format": "bare", "kiln_family": "web"}).want(t, http.StatusCreated).text("id")
	file := "/v2/images/" + id + "/file"
	stores := values(demo.get(t, "image", "/v2/info/stores").want(t, http.StatusOK).list("stores"), "id")
	demo.put(t, "image", file, bytes.Repeat([]byte("kiln"), 1000)).want(t, http.StatusNoContent)
	// Glance tells of the end of an upload and of a download when its answer has gone out: another call may be told of before.
	awaitNotification(t, target.listener, id, "image.update", 6)
	demo.get(t, "image", file).want(t, http.StatusOK)
	awaitNotification(t, target.listener, id, "image.send", 7)
	g.patch(t, demo, id, "add", "kiln_more", "1").want(t, http.StatusOK)
	admin.post(t, "image", "/v2/images/"+id+"/import", copyTo(stores[1])).want(t, http.StatusAccepted)
	g.settle(t, id)
	demo.delete(t, "image", "/v2/images/"+id).want(t, http.StatusNoContent)

	got := awaitNotification(t, target.listener, id, "image.delete", 1)
	var events []string
	for _, n := range got {
		events = append(events, n.message["event_type"].(string))
		checkNotification(t, n)
	}
	want := []string{
		"image.create", "image.update", "image.prepare", "image.upload", "image.activate", "image.update", // create and upload
		"image.send", "image.update", // download, patch
		"image.update", "image.update", "image.prepare", "image.upload", "image.update", "image.update", // a copy: no image.activate
		"image.delete",
	}
	if !slices.Equal(events, want) {
		t.Fatalf("events:\n got %v\nwant %v", events, want)
	}
	for n, backend := range map[int]string{2: stores[0], 10: stores[1]} {
		if at(got[n].payload, "backend") != backend {
			t.Errorf("image.prepare names %v, want %s", at(got[n].payload, "backend"), backend)
		}
	}
	if importing := render(at(got[11].payload, "os_glance_importing_to_stores")); importing != render([]string{stores[1]}) {
		t.Errorf("the copy's image.upload says it goes to %s", importing)
	}
}

// awaitNotification waits until at least so many were told about an image, the last one of this type.
func awaitNotification(t *testing.T, l *listener, id, last string, least int) []notification {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := l.about("glance", id)
		if len(got) >= least && got[len(got)-1].message["event_type"] == last {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s about %s came; %d others did", last, id, len(got))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func checkNotification(t *testing.T, n notification) {
	t.Helper()
	event := n.message["event_type"].(string)
	as := func(v any) *reply { return &reply{what: event, body: v} }
	as(n.envelope).keys(t, "", "oslo.version oslo.message")
	if n.envelope["oslo.version"] != "2.0" || n.key != "notifications.info" {
		t.Errorf("%s: version %v, key %s", event, n.envelope["oslo.version"], n.key)
	}
	as(n.message).keys(t, "", "message_id publisher_id event_type priority payload timestamp _unique_id").equal(t, "priority", "INFO").
		equal(t, "publisher_id", "image.localhost")
	switch event {
	case "image.send":
		as(n.payload).keys(t, "", "bytes_sent image_id owner_id receiver_tenant_id receiver_user_id").equal(t, "bytes_sent", 4000)
	case "image.prepare":
		as(n.payload).keys(t, "", imagePayload+" os_glance_importing_to_stores os_glance_failed_import backend")
	case "image.upload":
		as(n.payload).keys(t, "", imagePayload+" os_glance_importing_to_stores os_glance_failed_import")
	default:
		as(n.payload).keys(t, "", imagePayload)
	}
	if event == "image.activate" {
		as(n.payload).equal(t, "status", "active").equal(t, "size", 4000).equal(t, "properties", map[string]string{"kiln_family": "web"})
	}
	if event == "image.delete" {
		as(n.payload).equal(t, "status", "deleted").equal(t, "deleted", true)
	}
}
