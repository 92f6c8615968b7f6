package engine

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// imageNotice is Glance's payload (glance/notifier.py format_image_notification).
type imageNotice struct {
	ID         string         `json:"id"`
	Owner      string         `json:"owner"`
	Checksum   string         `json:"checksum"`
	Properties map[string]any `json:"properties"`
}

// Notice acts on one notification of Nova or Glance. They are hints: one that is lost costs at most one SyncInterval, one that
// comes twice changes nothing.
func (e *Engine) Notice(ctx context.Context, eventType string, payload json.RawMessage) error {
	switch {
	case eventType == "image.activate":
		return e.imageAppeared(ctx, payload)
	case strings.HasPrefix(eventType, "instance.delete.end"), strings.HasPrefix(eventType, "instance.live_migration_post_dest.end"),
		strings.HasPrefix(eventType, "instance.resize_confirm.end"), strings.HasPrefix(eventType, "service."):
		e.Nudge()
	}
	return nil
}

// imageAppeared asks for the facts of an image that somebody else uploaded. Kiln's own come with their facts.
func (e *Engine) imageAppeared(ctx context.Context, payload json.RawMessage) error {
	var img imageNotice
	if err := json.Unmarshal(payload, &img); err != nil || img.ID == "" {
		return nil //nolint:nilerr // not an image that can be asked for; the envelope was whole, so a repeat would not help
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
