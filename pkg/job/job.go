// Package job is durable background work: who may run it, what it said, how far it is, how it ended.
//
// A job is a row. Whoever leases the row by a guarded update runs it; a lease that is not renewed is
// free for another, so a killed worker costs time and never work. Results are written only while the
// lease is held (Store.Finish).
package job

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Kind names what a job does; each kind has one Handler.
type Kind string

// The kinds of jobs.
const (
	SyncSource  Kind = "source.sync"      // worker: read the recipes of a git source
	Build       Kind = "build"            // worker: recipe to published image
	Plan        Kind = "plan"             // worker: what a build would do
	Lock        Kind = "lock"             // worker: pin the packages of a recipe
	Inspect     Kind = "inspect"          // worker: facts of a Glance image
	Advisories  Kind = "advisory.refresh" // worker: read the repositories' published fixes
	Upgrade     Kind = "upgrade"          // worker: a new version, offline
	UpgradePlan Kind = "upgrade.plan"     // worker: what upgrades would do
	WarmUp      Kind = "warmup"           // agent of a cluster: a verified copy in the cluster's store
	Plant       Kind = "plant"            // agent of a node: a copy in Nova's image cache
	Place       Kind = "place"            // engine: start a workload on a node
	Remove      Kind = "remove"           // engine: delete a workload
	Evict       Kind = "evict"            // agent: remove a copy
	Settle      Kind = "family.settle"    // engine: show, hide and bar images in Glance as the catalog says
	Retain      Kind = "family.retention" // engine: delete the versions that nothing keeps
)

// Queue says who runs a job: "worker", "engine", "cluster.<name>" (any agent of it) or "node.<name>".
type Queue string

// The queues of the control plane.
const (
	WorkerQueue Queue = "worker"
	EngineQueue Queue = "engine"
)

// ClusterQueue is the queue that the agents of a cluster share.
func ClusterQueue(name string) Queue { return Queue("cluster." + name) }

// NodeQueue is the queue of the one agent of a node.
func NodeQueue(name string) Queue { return Queue("node." + name) }

// State is where a job is in its life.
type State string

// The states. Pending and Running are open; the others are final.
const (
	Pending   State = "pending"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Final reports whether no one will work on the job again.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Progress is how far a job is. Total 0 means that the end is not known.
type Progress struct {
	Stage string `json:"stage"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit"` // "bytes" or "steps"
}

// Failure is why a job failed, in the words of the API's errors.
type Failure struct {
	Code   string     `json:"code"`
	Detail string     `json:"detail"`
	Where  errs.Where `json:"where"`
}

// FailureOf turns an error into what the job's row keeps.
func FailureOf(err error) *Failure {
	var e *errs.Error
	f := &Failure{Code: errs.CodeOf(err), Detail: err.Error()}
	if asError(err, &e) {
		f.Where = e.Where
	}
	return f
}

// Job is one row of work.
type Job struct {
	ID              string          `json:"id"`
	Kind            Kind            `json:"kind"`
	Queue           Queue           `json:"queue"`
	Needs           []string        `json:"needs,omitempty"` // labels that its owner must have; see Fits
	State           State           `json:"state"`
	ProjectID       string          `json:"project_id"`
	UserID          string          `json:"user_id"`
	RequestID       string          `json:"request_id"`
	Resource        string          `json:"resource"` // what it works on: "builds/<id>"
	Payload         json.RawMessage `json:"-"`        // the handler's own input
	Attempt         int             `json:"attempt"`  // 0 before the first start
	MaxAttempts     int             `json:"max_attempts"`
	CancelRequested bool            `json:"cancel_requested"`
	LeaseOwner      string          `json:"lease_owner"`
	LeaseExpires    *time.Time      `json:"lease_expires"`
	RunAfter        time.Time       `json:"run_after"`
	Progress        Progress        `json:"progress"`
	Result          json.RawMessage `json:"result,omitempty"`
	Error           *Failure        `json:"error,omitempty"`
	CreatedAt       time.Time       `json:"created_at"`
	UpdatedAt       time.Time       `json:"updated_at"`
	StartedAt       *time.Time      `json:"started_at"`
	FinishedAt      *time.Time      `json:"finished_at"`
}

// ResourceID is the id at the end of Resource: what the job works on.
func (j Job) ResourceID() string { return j.Resource[strings.LastIndexByte(j.Resource, '/')+1:] }

// LogLine is one line that a job said.
type LogLine struct {
	Seq   int64     `json:"seq"` // grows within one job
	At    time.Time `json:"at"`
	Level string    `json:"level"` // "info", "warning", "error"
	Text  string    `json:"text"`
}

// ErrLeaseLost is returned by Heartbeat, Release and Finish when another owner has the job by now:
// the work must stop at once and nothing of it may be written.
var ErrLeaseLost = errs.New(errs.Conflict, "kiln.job.lease_lost", "the lease of the job is held by another owner")

// Outcome is how one attempt ended.
type Outcome struct {
	State  State           // Succeeded, Failed or Cancelled
	Result json.RawMessage // for Succeeded
	Error  *Failure        // for Failed
}

// Store keeps jobs. Every write is guarded by state and lease owner, so each may be repeated safely.
type Store interface {
	// AddJob writes a pending job and, in the same transaction, the outbox row that wakes its queue.
	// A job with the same id exists already: no error, nothing changes.
	AddJob(ctx context.Context, j Job) error
	// LeaseJob takes the oldest due job of the queues: pending with run_after <= now, or running with an
	// expired lease. It returns nil without an error where none is due. Attempt is counted up.
	// A job whose needs the labels do not meet is left for another owner.
	LeaseJob(ctx context.Context, queues []Queue, labels []string, owner string, now, until time.Time) (*Job, error)
	// Heartbeat renews the lease, writes progress, and tells whether a cancel was asked for.
	Heartbeat(ctx context.Context, id, owner string, now, until time.Time, p Progress) (cancel bool, err error)
	// ReleaseJob gives the job back for a later attempt at runAfter, keeping the failure for people to see. Without
	// a failure (the program stops) the attempt does not count.
	ReleaseJob(ctx context.Context, id, owner string, now, runAfter time.Time, f *Failure) error
	// FinishJob ends the job and runs apply in the same transaction (ctx carries it); nothing of either is
	// written where the lease is lost (ErrLeaseLost) or apply fails.
	FinishJob(ctx context.Context, id, owner string, now time.Time, o Outcome, apply func(ctx context.Context) error) error
	// CancelJob asks an open job to stop: a pending one is cancelled at once (true), a running one at its
	// next heartbeat (false). A final job: errs.Conflict.
	CancelJob(ctx context.Context, id string, now time.Time) (ended bool, err error)
	AppendJobLog(ctx context.Context, id string, lines []LogLine) error
	JobLog(ctx context.Context, id string, afterSeq int64, limit int) ([]LogLine, error)
	FindJob(ctx context.Context, id string) (Job, error) // errs.NotFound
	ListJobs(ctx context.Context, q listing.Query) ([]Job, error)
}

// Transactor runs fn in one transaction that ctx carries: every store call made with that ctx is part of it.
// Nested calls join the outer one. A serialization conflict is retried a bounded number of times.
type Transactor interface {
	InTx(ctx context.Context, fn func(ctx context.Context) error) error
}
