package openstack

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
)

var errStalled = errors.New("no byte moved in time")

// stall ends a context where nothing moved for a time. It counts only while the other side has to move:
// what the local disk takes is not the service's fault.
type stall struct {
	mu     sync.Mutex
	timer  *time.Timer
	after  time.Duration
	cancel context.CancelCauseFunc
	done   bool
}

func newStall(ctx context.Context, after time.Duration) (context.Context, *stall) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stall{after: after, cancel: cancel}
	s.timer = time.AfterFunc(after, func() { cancel(errStalled) })
	return ctx, s
}

func (s *stall) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done {
		s.timer.Reset(s.after)
	}
}

func (s *stall) pause() { s.timer.Stop() }

func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.timer.Stop()
	s.cancel(nil)
}

// Upload sends a stream in chunks and waits for the answer. There is no limit on the whole, only on standing still.
// The body is chunked because a service takes a connection that ends early for the end of a body whose length
// it was told; a chunked one it knows to be broken.
func (s *Service) Upload(ctx context.Context, operation, path string, body io.Reader) error {
	moving, guard := newStall(ctx, s.cloud.cfg.Stall)
	defer guard.end()
	client, err := s.client(moving)
	if err != nil {
		return err
	}
	source := newUploadBody(moving, body, guard)
	defer source.stop()
	_, err = client.Request(withOperation(moving, s.about.Name, operation), http.MethodPut, s.url(client, path, nil), &gophercloud.RequestOpts{ //nolint:bodyclose // gophercloud closes it
		RawBody: source, OkCodes: []int{http.StatusNoContent, http.StatusOK},
		// An answer that comes before the body (quota, 401) then costs no upload.
		MoreHeaders: map[string]string{"Content-Type": "application/octet-stream", "Expect": "100-continue"},
	})
	if err != nil && source.failed() != nil {
		return source.failed()
	}
	return s.cloud.fault(ctx, s.about.Name, stalledOr(moving, err))
}

// stalledOr is errStalled where that ended the context: the transport only says that it was cancelled.
func stalledOr(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// uploadBody is what the transport reads. The transport waits for its reader before it gives up, so a source that
// stands still must not hold it: the source is read beside, and Read ends with the context.
type uploadBody struct {
	ctx    context.Context //nolint:containedctx // of the one upload
	guard  *stall
	blocks chan block
	rest   []byte
	mu     sync.Mutex
	ended  bool
	err    error // of the source, other than io.EOF
}

// block is one read of the source.
type block struct {
	data []byte
	err  error
}

func newUploadBody(ctx context.Context, r io.Reader, guard *stall) *uploadBody {
	b := &uploadBody{ctx: ctx, guard: guard, blocks: make(chan block)}
	go func() {
		for {
			data := make([]byte, 256<<10)
			n, err := r.Read(data)
			select {
			case b.blocks <- block{data[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return b
}

// Read implements io.Reader.
func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	ended := b.ended
	b.mu.Unlock()
	if ended {
		return 0, io.ErrClosedPipe
	}
	if len(b.rest) > 0 {
		n := copy(p, b.rest)
		b.rest = b.rest[n:]
		return n, nil
	}
	if b.blocks == nil {
		return 0, io.EOF
	}
	b.guard.pause() // a slow source is no stall of the service
	defer b.guard.wait()
	select {
	case next := <-b.blocks:
		n := copy(p, next.data)
		b.rest = next.data[n:]
		return n, b.sourceEnded(next.err)
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
}

// sourceEnded keeps the source's own error apart from the transport's.
func (b *uploadBody) sourceEnded(err error) error {
	if err == nil {
		return nil
	}
	b.blocks = nil
	if errors.Is(err, io.EOF) {
		return nil // what rest holds comes first
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	return err
}

func (b *uploadBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

func (b *uploadBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Stream is an answer whose body is read by the caller, who closes it.
type Stream struct {
	Status int // one of those that are no error
	Header http.Header
	Body   io.ReadCloser
}

// Download opens a stream: the status (one of ok) and the body, which the caller closes. Only standing still is limited.
func (s *Service) Download(ctx context.Context, operation, path string, header map[string]string, ok ...int) (int, io.ReadCloser, error) {
	st, err := s.Stream(ctx, operation, path, header, ok...)
	return st.Status, st.Body, err
}

// Stream is Download with the answer's header.
func (s *Service) Stream(ctx context.Context, operation, path string, header map[string]string, ok ...int) (Stream, error) {
	moving, guard := newStall(ctx, s.cloud.cfg.Stall)
	client, err := s.client(moving)
	if err != nil {
		guard.end()
		return Stream{}, err
	}
	resp, err := client.Request(withOperation(moving, s.about.Name, operation), http.MethodGet, s.url(client, path, nil), &gophercloud.RequestOpts{ //nolint:bodyclose // the caller closes what it reads
		KeepResponseBody: true, OkCodes: ok, MoreHeaders: header,
	})
	guard.pause()
	if err != nil {
		err = s.cloud.fault(ctx, s.about.Name, stalledOr(moving, err))
		guard.end()
		return Stream{}, err
	}
	body := &downloadBody{body: resp.Body, guard: guard, service: s, moving: moving, outer: ctx}
	return Stream{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// downloadBody counts the time only while it waits for bytes: a slow reader is no stall.
type downloadBody struct {
	body    io.ReadCloser
	guard   *stall
	service *Service
	moving  context.Context //nolint:containedctx // the life of the stream
	outer   context.Context //nolint:containedctx // the caller's, which tells a cancel from a stall
}

// Read implements io.Reader.
func (b *downloadBody) Read(p []byte) (int, error) {
	b.guard.wait()
	n, err := b.body.Read(p)
	b.guard.pause()
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.service.cloud.fault(b.outer, b.service.about.Name, stalledOr(b.moving, err))
	}
	return n, err
}

// Close implements io.Closer.
func (b *downloadBody) Close() error {
	b.guard.end()
	return b.body.Close()
}
