// Package event is what Kiln tells the world: one line for each thing that happened to a resource.
// Events are written in the transaction of the change itself, so there is none for work that was rolled back.
package event

import (
	"context"
	"encoding/json"
	"time"
)

// Event is one thing that happened. ID grows by commit order of the store and is the SSE event id.
type Event struct {
	ID        int64           `json:"id"`
	Type      string          `json:"type"`     // "<resource>.<what>": "build.succeeded", "job.progress"
	Resource  string          `json:"resource"` // path below /v1: "builds/6d2f…"
	ProjectID string          `json:"project_id"`
	RequestID string          `json:"request_id"`
	Payload   json.RawMessage `json:"payload,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
}

// Recorder appends events; inside store's InTx the event commits with the change that it tells of.
// The id and the time are given by the store.
type Recorder interface {
	Record(ctx context.Context, e Event) error
}

// Log reads events back in order of their ids.
type Log interface {
	// After returns up to limit events with id > after. projectID "" means all projects.
	After(ctx context.Context, after int64, projectID string, limit int) ([]Event, error)
	// LastID is the id of the newest event, 0 where there is none.
	LastID(ctx context.Context) (int64, error)
}
