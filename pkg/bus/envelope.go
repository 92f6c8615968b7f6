package bus

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// osloTime is how oslo.messaging writes timestamps (oslo_messaging/notify/notifier.py, str(timeutils.utcnow())).
const osloTime = "2006-01-02 15:04:05.000000"

// Notification is one notification as oslo.messaging sends it (oslo_messaging/notify/notifier.py).
type Notification struct {
	MessageID   string          `json:"message_id"`
	PublisherID string          `json:"publisher_id"`
	EventType   string          `json:"event_type"`
	Priority    string          `json:"priority"`
	Payload     json.RawMessage `json:"payload"`
	Timestamp   string          `json:"timestamp"` // UTC, osloTime
	UniqueID    string          `json:"_unique_id,omitempty"`
	RequestID   string          `json:"_context_request_id,omitempty"`
	ProjectID   string          `json:"_context_project_id,omitempty"`
}

// Stamp is a time as notifications carry it.
func Stamp(t time.Time) string { return t.UTC().Format(osloTime) }

// At reads the timestamp; the zero time where it cannot be read.
func (n Notification) At() time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05.999999", "2006-01-02T15:04:05.999999", time.RFC3339Nano} {
		if t, err := time.ParseInLocation(layout, n.Timestamp, time.UTC); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

type envelope struct {
	Version string `json:"oslo.version"`
	Message string `json:"oslo.message"`
}

// Envelope puts a notification into oslo.messaging's envelope: JSON inside a string of JSON
// (oslo_messaging/_drivers/common.py, serialize_msg).
func Envelope(n Notification) ([]byte, error) {
	if len(n.Payload) == 0 {
		n.Payload = json.RawMessage("{}")
	}
	inner, err := json.Marshal(n)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, "kiln.bus.envelope", "the notification %s cannot be written as JSON", n.EventType)
	}
	return json.Marshal(envelope{Version: "2.0", Message: string(inner)})
}

// OpenEnvelope reads a notification of Nova, Glance or Kiln. A body without the envelope is read as the
// notification itself, as old services send it. errs.Invalid for anything else.
func OpenEnvelope(body []byte) (Notification, error) {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return Notification{}, errs.Wrap(err, errs.Invalid, "kiln.bus.envelope", "the message is not JSON")
	}
	inner := []byte(e.Message)
	if e.Version == "" && e.Message == "" {
		inner = body
	}
	var n Notification
	if err := json.NewDecoder(bytes.NewReader(inner)).Decode(&n); err != nil {
		return Notification{}, errs.Wrap(err, errs.Invalid, "kiln.bus.envelope", "the message in the envelope is not a notification")
	}
	if n.EventType == "" {
		return Notification{}, errs.New(errs.Invalid, "kiln.bus.envelope", "the message has no event_type")
	}
	return n, nil
}
