package job

import (
	"context"
	"time"
)

// LogQuery asks for log lines, the newest first.
type LogQuery struct {
	ProjectID string // "" for every project, which only callers that policy lets may ask
	JobID     string
	Text      string // that a line has in it, whatever its case; "" for any
	Since     time.Time
	Until     time.Time // exclusive; zero times are no bounds
	Marker    *LogHit   // the last hit of the page before: its At, JobID and Seq
	Limit     int
}

// LogHit is a line with the job that said it.
type LogHit struct {
	JobID    string `json:"job_id"`
	Kind     Kind   `json:"kind"`
	Resource string `json:"resource"` // "builds/<id>"
	LogLine
}

// LogStore searches what jobs said; the newest lines come first.
type LogStore interface {
	SearchLog(ctx context.Context, q LogQuery) ([]LogHit, error)
}
