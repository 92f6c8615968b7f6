package job

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// By is who asked for a change. RequestID goes into jobs and events, so that a log tells what led to what.
type By struct {
	ProjectID string
	UserID    string
	RequestID string
}

// DefaultAttempts is how often a job is tried before it fails.
const DefaultAttempts = 5

// Desk is what a service needs to write a change, its job and its event in one transaction.
// Every service of the domain embeds one.
type Desk struct {
	Jobs   Store
	Tx     Transactor
	Events event.Recorder
	Now    func() time.Time
	NewID  func() string // random UUIDs
}

// Draft is a job as a service asks for it. ID "" takes a new one; a service that must write the id into its
// own row first takes one from NewID.
type Draft struct {
	ID        string
	Kind      Kind
	Queue     Queue
	Needs     []string // labels that the owner must have
	ProjectID string   // of the resource
	Resource  string   // "builds/<id>"
	Payload   any      // the handler's input, marshalled to JSON
	RunAfter  time.Time
}

// Start writes the job. Call it inside Tx.InTx, beside the change that it belongs to.
func (d Desk) Start(ctx context.Context, by By, draft Draft) (Job, error) {
	payload, err := json.Marshal(draft.Payload)
	if err != nil {
		return Job{}, errs.Wrap(err, errs.Internal, "kiln.job.payload", "the input of a %s job cannot be written", draft.Kind)
	}
	now := d.Now().UTC()
	j := Job{
		ID: draft.ID, Kind: draft.Kind, Queue: draft.Queue, Needs: draft.Needs, State: Pending,
		ProjectID: draft.ProjectID, UserID: by.UserID, RequestID: by.RequestID,
		Resource: draft.Resource, Payload: payload, MaxAttempts: DefaultAttempts,
		RunAfter: draft.RunAfter, CreatedAt: now, UpdatedAt: now,
	}
	if j.ID == "" {
		j.ID = d.NewID()
	}
	if j.RunAfter.IsZero() {
		j.RunAfter = now
	}
	return j, d.Jobs.AddJob(ctx, j)
}

// Tell records an event about a resource; value is its payload. Call it inside Tx.InTx.
func (d Desk) Tell(ctx context.Context, by By, kind, resource, projectID string, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return errs.Wrap(err, errs.Internal, "kiln.event.payload", "the event %s cannot be written", kind)
	}
	return d.Events.Record(ctx, event.Event{Type: kind, Resource: resource, ProjectID: projectID, RequestID: by.RequestID, Payload: payload})
}

// Open returns the job if it is known and not final; nil without an error otherwise, also for id "".
// A service uses it to join work that is under way instead of starting it twice.
func (d Desk) Open(ctx context.Context, id string) (*Job, error) {
	if id == "" {
		return nil, nil
	}
	j, err := d.Jobs.FindJob(ctx, id)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case j.State.Final():
		return nil, nil
	}
	return &j, nil
}

// OpenOf returns the newest open job of a kind, nil where there is none.
func (d Desk) OpenOf(ctx context.Context, kind Kind) (*Job, error) {
	for _, state := range []State{Pending, Running} {
		q := listing.Query{Limit: 1, Sort: []listing.Key{{Field: "created_at", Desc: true}}}
		js, err := d.Jobs.ListJobs(ctx, q.Where("kind", string(kind)).Where("state", string(state)))
		if err != nil {
			return nil, err
		}
		if len(js) > 0 {
			return &js[0], nil
		}
	}
	return nil, nil
}

// Stop asks an open job to stop and reports whether it ended at once; a final or missing one is no error.
func (d Desk) Stop(ctx context.Context, id string) (ended bool, err error) {
	if id == "" {
		return false, nil
	}
	ended, err = d.Jobs.CancelJob(ctx, id, d.Now().UTC())
	if errs.Is(err, errs.Conflict) || errs.Is(err, errs.NotFound) {
		return true, nil
	}
	return ended, err
}

// Service cancels jobs.
type Service struct {
	Desk
	// Cancelled is called, in the same transaction, for a job that ended before anybody ran it: no handler will
	// write its resource's state then. Kinds that are not in the map have nothing to write.
	Cancelled map[Kind]func(ctx context.Context, by By, j Job) error
}

// Cancel asks a job to stop: a pending one ends at once, a running one at its next heartbeat. Asking again is no
// error while it is open; a final job is errs.Conflict.
func (s *Service) Cancel(ctx context.Context, by By, id string) (Job, error) {
	var out Job
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		before, err := s.Jobs.FindJob(ctx, id)
		if err != nil {
			return err
		}
		ended, err := s.Jobs.CancelJob(ctx, id, s.Now().UTC())
		if err != nil {
			return err
		}
		if out, err = s.Jobs.FindJob(ctx, id); err != nil {
			return err
		}
		what := "job.cancel_requested"
		switch {
		case ended:
			what = "job.cancelled"
			if after := s.Cancelled[out.Kind]; after != nil {
				if err := after(ctx, by, out); err != nil {
					return err
				}
			}
		case before.CancelRequested:
			return nil
		}
		return s.Tell(ctx, by, what, "jobs/"+id, out.ProjectID, out)
	})
	return out, err
}

var placeName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?$`)

// CheckName refuses a name of a source, cluster, store or workload that could not stand in a URL and a log alike.
func CheckName(code, field, name string) error {
	if placeName.MatchString(name) {
		return nil
	}
	return errs.New(errs.Invalid, code, "%s is not a name: use 1 to 64 letters, digits, dots, dashes and underscores, beginning and ending with a letter or digit",
		fmt.Sprintf("%q", name)).At(errs.Where{Field: field})
}

// Decode reads the job's payload into v.
func (j Job) Decode(v any) error {
	if err := json.Unmarshal(j.Payload, v); err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.job.payload", "the payload of job %s cannot be read", j.ID)
	}
	return nil
}
