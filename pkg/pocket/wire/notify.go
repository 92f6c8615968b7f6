package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Notify receives every notification: the topic exchange (nova, glance), the routing key
// (notifications.info, versioned_notifications.error, …) and oslo.messaging's envelope as body.
type Notify func(exchange, routingKey string, body []byte)

// Notification is one notification before it is put into its envelope.
type Notification struct {
	Exchange  string // nova, glance
	Topic     string // notifications, versioned_notifications
	Publisher string // e.g. image.localhost, nova-compute:node1
	Event     string // e.g. image.activate
	Priority  string // INFO or ERROR; "" is INFO
	Payload   any
	Caller    *Caller // adds the _context_ keys that Nova sends; nil leaves them out (Glance)
	RequestID string  // for _context_request_id
}

// oslo keeps the order of these keys; our consumers do not care, people who compare samples do.
type osloMessage struct {
	MessageID   string `json:"message_id"`
	PublisherID string `json:"publisher_id"`
	EventType   string `json:"event_type"`
	Priority    string `json:"priority"`
	Payload     any    `json:"payload"`
	Timestamp   string `json:"timestamp"`
	UniqueID    string `json:"_unique_id"`
}

// Emit puts a notification into the envelope {"oslo.version":"2.0","oslo.message":"<JSON in a string>"} and
// hands it to the hook; without a hook nothing happens.
func (k Kit) Emit(n Notification) {
	if k.Notify == nil {
		return
	}
	if n.Priority == "" {
		n.Priority = "INFO"
	}
	now := k.Clock()
	inner, err := json.Marshal(osloMessage{
		MessageID: k.NewID(), PublisherID: n.Publisher, EventType: n.Event, Priority: n.Priority, Payload: n.Payload,
		Timestamp: now.UTC().Format("2006-01-02 15:04:05.000000"), UniqueID: Hex(k.NewID()),
	})
	if err == nil && n.Caller != nil {
		inner, err = withContext(inner, *n.Caller, n.RequestID, now)
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(struct {
			Version string `json:"oslo.version"`
			Message string `json:"oslo.message"`
		}{"2.0", string(inner)})
	}
	if err != nil {
		k.Log.WithError(err).WithField("event", n.Event).Error("cannot encode a notification")
		return
	}
	k.Notify(n.Exchange, n.Topic+"."+strings.ToLower(n.Priority), body)
}

func withContext(inner []byte, c Caller, requestID string, now time.Time) ([]byte, error) {
	extra, err := json.Marshal(map[string]any{
		"_context_user": c.UserID, "_context_user_id": c.UserID, "_context_user_name": c.UserName,
		"_context_project": c.ProjectID, "_context_project_id": c.ProjectID, "_context_project_name": c.ProjectName,
		"_context_user_domain": "default", "_context_project_domain": "default", "_context_roles": c.Roles,
		"_context_is_admin": c.Admin(), "_context_request_id": requestID, "_context_timestamp": MicroStamp(now),
	})
	if err != nil {
		return nil, fmt.Errorf("encode the context: %w", err)
	}
	return append(append(inner[:len(inner)-1], ','), extra[1:]...), nil
}

// Hex is a UUID without its dashes, as Keystone writes ids of users and projects.
func Hex(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }
