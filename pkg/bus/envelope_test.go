package bus_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func TestEnvelope(t *testing.T) {
	t.Parallel()
	when := time.Date(2026, 3, 29, 1, 30, 0, 5000, time.UTC)
	in := bus.Notification{
		MessageID: "m1", PublisherID: "kiln.host", EventType: "build.succeeded", Priority: "INFO", Timestamp: bus.Stamp(when),
		UniqueID: "u1", RequestID: "req-1", ProjectID: "p1", Payload: json.RawMessage(`{"quote":"\"ü"}`),
	}
	body, err := bus.Envelope(in)
	if err != nil {
		t.Fatal(err)
	}
	var outer map[string]string
	if err := json.Unmarshal(body, &outer); err != nil || outer["oslo.version"] != "2.0" || len(outer) != 2 {
		t.Fatalf("%s %v", body, err)
	}
	var inner map[string]any
	if err := json.Unmarshal([]byte(outer["oslo.message"]), &inner); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp", "_unique_id"} {
		if inner[key] == nil {
			t.Errorf("oslo.messaging needs %s", key)
		}
	}
	out, err := bus.OpenEnvelope(body)
	if err != nil || string(out.Payload) != string(in.Payload) || out.RequestID != "req-1" || !out.At().Equal(when) {
		t.Fatalf("%+v %v", out, err)
	}
	bare, err := bus.OpenEnvelope([]byte(outer["oslo.message"]))
	if err != nil || bare.EventType != in.EventType {
		t.Fatalf("without the envelope: %+v %v", bare, err)
	}
}

// TestOpenNovaNotification reads a body as Nova (Zed) sends it, shortened.
func TestOpenNovaNotification(t *testing.T) {
	t.Parallel()
	body := `{"oslo.version": "2.0", "oslo.message": "{\"message_id\": \"6f8f0c6e-8b3c-4d0e-9a30-1f3f0b8a2c11\", \"publisher_id\": \"nova-compute:cmp-1\",` +
		` \"event_type\": \"instance.create.end\", \"priority\": \"INFO\", \"payload\": {\"nova_object.name\": \"InstanceCreatePayload\",` +
		` \"nova_object.data\": {\"uuid\": \"u\", \"host\": \"cmp-1\"}}, \"timestamp\": \"2026-03-29 01:30:00.123456\", \"_unique_id\": \"aa\"}"}`
	n, err := bus.OpenEnvelope([]byte(body))
	if err != nil || n.EventType != "instance.create.end" || n.PublisherID != "nova-compute:cmp-1" || n.At().Nanosecond() != 123456000 {
		t.Fatalf("%+v %v", n, err)
	}
	var payload struct {
		Data map[string]string `json:"nova_object.data"`
	}
	if err := json.Unmarshal(n.Payload, &payload); err != nil || payload.Data["host"] != "cmp-1" {
		t.Fatal(payload, err)
	}
}

func FuzzOpenEnvelope(f *testing.F) {
	for _, seed := range []string{"", "{}", "[]", "null", `{"oslo.version":"2.0"}`, `{"oslo.version":"2.0","oslo.message":"[]"}`, `{"event_type":"a","timestamp":1}`, `{"event_type":"a"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := bus.OpenEnvelope(body)
		if err != nil && !errs.Is(err, errs.Invalid) {
			t.Fatalf("%v", err)
		}
		if err == nil && n.EventType == "" {
			t.Fatal("a notification without a type")
		}
	})
}
