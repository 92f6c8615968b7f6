package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
)

func asError(err error, target **errs.Error) bool { return errors.As(err, target) }

// Result is what a handler hands back: a value for the job's row, and the writes that must commit with it.
type Result struct {
	Value any
	Apply func(ctx context.Context) error // nil where there is nothing to write
	// After runs once the job's end is committed, for what other services are told then. It may be lost by a
	// crash, so a sweep must exist that does the same; its error is only logged.
	After func(ctx context.Context) error
}

// Handler runs the jobs of one kind. Run must be safe to start again from the beginning at any moment.
// It must stop soon after ctx ends: the lease was lost, a cancel was asked for, or the program stops.
type Handler interface {
	Kind() Kind
	Run(ctx context.Context, r *Run) (Result, error)
}

// FailedHandler is a Handler that writes something about a job that ended without success
// (the build's own state, say). It runs in the transaction that ends the job.
type FailedHandler interface {
	Failed(ctx context.Context, j Job, state State, f *Failure) error
}

// Waker tells that a queue may have work. Losing a call costs at most one poll interval.
type Waker interface {
	// Wake returns a channel that receives after work was announced for one of the queues.
	// The subscription ends with ctx.
	Wake(ctx context.Context, queues []Queue) (<-chan struct{}, error)
}

// Run is one attempt at a job, as its handler sees it.
type Run struct {
	Job   Job
	Log   logrus.FieldLogger // the program's log, with the job's fields; Logf and Warnf write to the job's own log
	mu    sync.Mutex
	prog  Progress
	lines []LogLine
	seq   int64
	now   func() time.Time
}

// Decode reads the job's payload into v.
func (r *Run) Decode(v any) error {
	if err := json.Unmarshal(r.Job.Payload, v); err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.job.payload", "the payload of job %s cannot be read", r.Job.ID)
	}
	return nil
}

// Progress says how far the work is; it is cheap and may be called for every block.
func (r *Run) Progress(stage string, done, total int64, unit string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prog = Progress{Stage: stage, Done: done, Total: total, Unit: unit}
}

// Metered is body, telling the progress of the stage in bytes for what is read of it. Total is what it will be.
func (r *Run) Metered(stage string, body io.Reader, total int64) io.Reader {
	return &meter{run: r, stage: stage, body: body, total: total}
}

type meter struct {
	run         *Run
	stage       string
	body        io.Reader
	done, total int64
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	m.done += int64(n)
	m.run.Progress(m.stage, m.done, m.total, "bytes")
	return n, err
}

// Logf adds a line to the job's log at level info.
func (r *Run) Logf(format string, args ...any) { r.say("info", fmt.Sprintf(format, args...)) }

// Warnf adds a line to the job's log at level warning.
func (r *Run) Warnf(format string, args ...any) { r.say("warning", fmt.Sprintf(format, args...)) }

// Write makes a Run an io.Writer for the output of commands: each line is one log line.
func (r *Run) Write(p []byte) (int, error) {
	for _, line := range splitLines(p) {
		r.say("info", line)
	}
	return len(p), nil
}

func (r *Run) say(level, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	r.lines = append(r.lines, LogLine{Seq: r.seq, At: r.now(), Level: level, Text: text})
}

func (r *Run) take() (Progress, []LogLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines = nil
	return r.prog, lines
}

func (r *Run) putBack(lines []LogLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(lines, r.lines...)
}

// Runner leases jobs of some queues and runs them, Parallel at a time, until its context ends.
type Runner struct {
	Store    Store
	Waker    Waker
	Handlers []Handler
	Queues   []Queue
	Labels   func() []string // what this owner has, asked before each lease; nil for nothing
	Owner    string          // unique for each process: "<host>:<pid>:<random>"; each lease adds a number of its own
	Events   event.Recorder
	Observe  func(kind Kind, err error, took time.Duration) // told of each attempt; may be nil
	Parallel int
	Lease    time.Duration // how long a silent owner keeps a job
	Beat     time.Duration // how often it renews; well below Lease
	Poll     time.Duration // how often it looks without being woken
	Backoff  func(attempt int) time.Duration
	Now      func() time.Time
	Log      logrus.FieldLogger

	leases atomic.Int64
}

// Serve works until ctx ends and then waits for the attempts that are under way to stop. What they had
// not finished is leased again by the next owner as soon as it is given back here.
func (r *Runner) Serve(ctx context.Context) error {
	r.defaults()
	wake, err := r.Waker.Wake(ctx, r.Queues)
	if err != nil {
		r.Log.WithError(err).Warning("no wake-ups from the bus for now; polling goes on")
	}
	slots := make(chan struct{}, r.Parallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(r.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case slots <- struct{}{}:
		}
		j, err := r.lease(ctx)
		if err != nil && ctx.Err() == nil {
			r.Log.WithError(err).Warning("cannot look for jobs; trying again")
		}
		if j != nil {
			wg.Go(func() {
				defer func() { <-slots }()
				r.attempt(ctx, *j)
			})
			continue
		}
		<-slots
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-tick.C:
		}
	}
}

func (r *Runner) defaults() {
	if r.Parallel < 1 {
		r.Parallel = 1
	}
	setDuration(&r.Lease, 30*time.Second)
	setDuration(&r.Beat, r.Lease/6)
	setDuration(&r.Poll, 5*time.Second)
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Backoff == nil {
		r.Backoff = func(attempt int) time.Duration {
			b := backoff.NewExponentialBackOff()
			b.InitialInterval, b.MaxInterval = 2*time.Second, 5*time.Minute
			d := b.InitialInterval
			for range attempt {
				d = b.NextBackOff()
			}
			return d
		}
	}
}

func setDuration(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

func (r *Runner) lease(ctx context.Context) (*Job, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	now := r.Now()
	// Two attempts of one process at the same job (the first one's lease ran out) must not pass for each other.
	owner := fmt.Sprintf("%s#%d", r.Owner, r.leases.Add(1))
	var labels []string
	if r.Labels != nil {
		labels = r.Labels()
	}
	return r.Store.LeaseJob(ctx, r.Queues, labels, owner, now, now.Add(r.Lease))
}

func (r *Runner) handler(kind Kind) Handler {
	for _, h := range r.Handlers {
		if h.Kind() == kind {
			return h
		}
	}
	return nil
}

// attempt runs one leased job to its end or gives it back.
func (r *Runner) attempt(ctx context.Context, j Job) {
	log := r.Log.WithFields(logrus.Fields{"job": j.ID, "kind": string(j.Kind), "request_id": j.RequestID})
	run := &Run{Job: j, Log: log, prog: j.Progress, now: r.Now, seq: int64(j.Attempt) * 1_000_000}
	workCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		r.heartbeat(workCtx, run, stop)
	}()
	log.WithField("attempt", j.Attempt).Info("job started")
	began := r.Now()
	result, err := r.call(workCtx, run)
	if r.Observe != nil {
		r.Observe(j.Kind, err, r.Now().Sub(began))
	}
	cause := context.Cause(workCtx)
	stop(nil)
	<-beats
	// The program may be stopping: what the attempt came to is still written, within a bound.
	endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	r.flush(endCtx, run)
	if err := r.end(endCtx, ctx, run, result, err, cause); err != nil {
		log.WithError(err).Warning("the job's end could not be written; its lease will run out and it will run again")
	}
}

var (
	errCancelAsked = errs.New(errs.Cancelled, "kiln.job.cancelled", "the job was cancelled on request")
	errNoHandler   = errs.New(errs.Internal, "kiln.job.no_handler", "no handler for this kind of job here")
)

func (r *Runner) call(ctx context.Context, run *Run) (res Result, err error) {
	h := r.handler(run.Job.Kind)
	if h == nil {
		return Result{}, errNoHandler
	}
	if run.Job.Attempt > run.Job.MaxAttempts {
		// Only an owner that died in silence leads here: a job that kills its workers must not do so for ever.
		return Result{}, errs.New(errs.Conflict, "kiln.job.owners_died", "%d attempts ended without a word: the job may be what kills its worker", run.Job.MaxAttempts)
	}
	// A defect in a handler must not take the other jobs of this process down with it.
	defer func() {
		if p := recover(); p != nil {
			run.Log.WithField("stack", string(debug.Stack())).Error("job panicked")
			err = errs.New(errs.Internal, "kiln.job.panic", "the job met a defect in Kiln: %v", p)
		}
	}()
	return h.Run(ctx, run)
}

// end writes how the attempt ended: success, cancel, a retry later, or failure.
func (r *Runner) end(ctx, serveCtx context.Context, run *Run, res Result, err, cause error) error {
	j, now := run.Job, r.Now()
	switch {
	case errors.Is(cause, ErrLeaseLost):
		return ErrLeaseLost
	case err == nil:
		value, merr := json.Marshal(res.Value)
		if merr != nil {
			return merr
		}
		apply := func(ctx context.Context) error {
			if res.Apply != nil {
				if err := res.Apply(ctx); err != nil {
					return err
				}
			}
			return r.tell(ctx, j, Succeeded)
		}
		err = r.Store.FinishJob(ctx, j.ID, j.LeaseOwner, now, Outcome{State: Succeeded, Result: value}, apply)
		if err == nil {
			run.Log.Info("job succeeded")
			r.after(ctx, run, res)
		}
		if err == nil || errors.Is(err, ErrLeaseLost) {
			return err
		}
	case errors.Is(cause, errCancelAsked):
		return r.fail(ctx, j, now, Cancelled, FailureOf(errCancelAsked))
	case serveCtx.Err() != nil:
		run.Log.Info("job given back because the program stops")
		return r.Store.ReleaseJob(ctx, j.ID, j.LeaseOwner, now, now, nil)
	}
	run.Log.WithError(err).WithField("attempt", j.Attempt).Warning("job attempt failed")
	run.say("error", err.Error())
	r.flush(ctx, run)
	if errs.Retryable(err) && j.Attempt < j.MaxAttempts {
		return r.Store.ReleaseJob(ctx, j.ID, j.LeaseOwner, now, now.Add(r.Backoff(j.Attempt)), FailureOf(err))
	}
	return r.fail(ctx, j, now, Failed, FailureOf(err))
}

func (r *Runner) after(ctx context.Context, run *Run, res Result) {
	if res.After == nil {
		return
	}
	if err := res.After(ctx); err != nil {
		run.Log.WithError(err).Warning("what follows the job was not done; the next sweep does it")
	}
}

func (r *Runner) fail(ctx context.Context, j Job, now time.Time, s State, f *Failure) error {
	return r.Store.FinishJob(ctx, j.ID, j.LeaseOwner, now, Outcome{State: s, Error: f}, func(ctx context.Context) error {
		if h, ok := r.handler(j.Kind).(FailedHandler); ok {
			if err := h.Failed(ctx, j, s, f); err != nil {
				return err
			}
		}
		return r.tell(ctx, j, s)
	})
}

// tell records how the job ended, in the transaction that ends it.
func (r *Runner) tell(ctx context.Context, j Job, s State) error {
	if r.Events == nil {
		return nil
	}
	return r.Events.Record(ctx, event.Event{Type: "job." + string(s), Resource: "jobs/" + j.ID, ProjectID: j.ProjectID, RequestID: j.RequestID})
}

// heartbeat renews the lease until ctx ends. A database that is away for less than the lease costs nothing;
// past it the attempt stops, because another owner may have the job by then.
func (r *Runner) heartbeat(ctx context.Context, run *Run, stop context.CancelCauseFunc) {
	tick := time.NewTicker(r.Beat)
	defer tick.Stop()
	renewed := r.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := r.Now()
		p, lines := run.take()
		callCtx, cancel := context.WithTimeout(ctx, r.Beat)
		asked, err := r.Store.Heartbeat(callCtx, run.Job.ID, run.Job.LeaseOwner, now, now.Add(r.Lease), p)
		if err == nil && len(lines) > 0 {
			if lerr := r.Store.AppendJobLog(callCtx, run.Job.ID, lines); lerr != nil {
				run.putBack(lines)
			}
		} else {
			run.putBack(lines)
		}
		cancel()
		switch {
		case err == nil:
			renewed = now
		case errors.Is(err, ErrLeaseLost) || r.Now().Sub(renewed) > r.Lease:
			stop(ErrLeaseLost)
			return
		}
		if asked {
			stop(errCancelAsked)
			return
		}
	}
}

// flush writes what the attempt said since the last heartbeat.
func (r *Runner) flush(ctx context.Context, run *Run) {
	p, lines := run.take()
	now := r.Now()
	if _, err := r.Store.Heartbeat(ctx, run.Job.ID, run.Job.LeaseOwner, now, now.Add(r.Lease), p); err != nil {
		run.Log.WithError(err).Debug("the last progress of the job was not written")
	}
	if len(lines) == 0 {
		return
	}
	if err := r.Store.AppendJobLog(ctx, run.Job.ID, lines); err != nil {
		run.Log.WithError(err).Warning("log lines of the job were not written")
	}
}

func splitLines(p []byte) []string {
	var out []string
	start := 0
	for i, c := range p {
		if c == '\n' || c == '\r' {
			if i > start {
				out = append(out, string(p[start:i]))
			}
			start = i + 1
		}
	}
	if start < len(p) {
		out = append(out, string(p[start:]))
	}
	return out
}
