package engine

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Notification is what Kiln reads of a notification of Nova or Glance, out of its oslo envelope.
type Notification struct {
	EventType string          `json:"event_type"`
	Payload   json.RawMessage `json:"payload"`
}

// imageNotice is Glance's payload (glance/notifier.py format_image_notification).
type imageNotice struct {
	ID         string         `json:"id"`
	Owner      string         `json:"owner"`
	Checksum   string         `json:"checksum"`
	Properties map[string]any `json:"properties"`
}

// Notice acts on one notification. They are hints: one that is lost costs at most one SyncInterval, one that
// comes twice changes nothing.
func (e *Engine) Notice(ctx context.Context, n Notification) error {
	switch {
	case n.EventType == "image.activate":
		return e.imageAppeared(ctx, n.Payload)
	case strings.HasPrefix(n.EventType, "instance.delete.end"), strings.HasPrefix(n.EventType, "instance.live_migration_post_dest.end"),
		strings.HasPrefix(n.EventType, "instance.resize_confirm.end"), strings.HasPrefix(n.EventType, "service."):
		e.Nudge()
	}
	return nil
}

// imageAppeared asks for the facts of an image that somebody else uploaded. Kiln's own come with their facts.
func (e *Engine) imageAppeared(ctx context.Context, payload json.RawMessage) error {
	var img imageNotice
	if err := json.Unmarshal(payload, &img); err != nil || img.ID == "" {
		return nil // not an image that can be asked for; the envelope was whole, so a repeat would not help
	}
	if _, own := img.Properties[catalog.PropOrigin]; own {
		return nil
	}
	// The same bytes of the same image give the same job, so a repeated notification starts nothing.
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("inspect "+img.ID+" "+img.Checksum)).String()
	now := e.Now()
	return e.Store.AddJob(ctx, job.Job{
		ID: id, Kind: job.Inspect, Queue: job.WorkerQueue, State: job.Pending, ProjectID: img.Owner,
		Resource: "images/" + img.ID, Payload: json.RawMessage("{}"), MaxAttempts: 5, RunAfter: now, CreatedAt: now, UpdatedAt: now,
	})
}
