// Package client is the Go client of Kiln's REST API, used by the kiln command and the demo.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Microversion is the one that this client speaks.
const Microversion = "provisioning 1.1"

// maxAnswer bounds one answer that is read into memory.
const maxAnswer = 64 << 20

// rawTimeout bounds one call of Raw: what it reads may be some hundred MiB.
const rawTimeout = 10 * time.Minute

// Client calls one Kiln API. It is safe for many goroutines.
type Client struct {
	Endpoint string                                    // without /v1: "http://host:9790"
	Token    func(ctx context.Context) (string, error) // Keystone token of the caller
	HTTP     *http.Client                              // http.DefaultClient where nil
	Timeout  time.Duration                             // of one call; 60 s where 0; streams are not bounded by it
}

// Error is an answer of the API that is not a success.
type Error struct {
	Status    int
	RequestID string
	Faults    []Fault
}

// Fault is one entry of the API's error body.
type Fault struct {
	Code   string     `json:"code"`
	Status int        `json:"status"`
	Title  string     `json:"title"`
	Detail string     `json:"detail"`
	Where  errs.Where `json:"where"`
}

// Error is the faults, one a line, with the request id for the operator's log.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Faults)+1)
	for _, f := range e.Faults {
		text := f.Detail
		if w := f.Where.String(); w != "" {
			text = w + ": " + text
		}
		lines = append(lines, text)
	}
	if len(lines) == 0 {
		lines = append(lines, fmt.Sprintf("the API answered %d %s", e.Status, http.StatusText(e.Status)))
	}
	if e.RequestID != "" {
		lines[len(lines)-1] += " (" + e.RequestID + ")"
	}
	return strings.Join(lines, "\n")
}

// Get reads one resource: Get(ctx, c, "/v1/builds/…", &build).
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodGet, path, nil, out)
}

// Post sends in and reads the answer into out; both may be nil.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPost, path, in, out)
}

// Put sends in and reads the answer into out; both may be nil.
func (c *Client) Put(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPut, path, in, out)
}

// Patch sends in and reads the answer into out; both may be nil.
func (c *Client) Patch(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPatch, path, in, out)
}

// Delete removes a resource; out may be nil.
func (c *Client) Delete(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodDelete, path, nil, out)
}

// Raw reads an answer that is no JSON of Kiln's, of at most limit bytes, as it was before it was packed for the way.
func (c *Client) Raw(ctx context.Context, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, rawTimeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "*/*")
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, err
}

// List reads every page of a list: List[build.Build](ctx, c, "builds", url.Values{"state": {"failed"}}).
func List[T any](ctx context.Context, c *Client, plural string, query url.Values) ([]T, error) {
	return ListAt[T](ctx, c, "/v1/"+plural, plural, query)
}

// ListAt is List for a list below another resource.
func ListAt[T any](ctx context.Context, c *Client, path, plural string, query url.Values) ([]T, error) {
	var all []T
	next := path
	if len(query) > 0 {
		next += "?" + query.Encode()
	}
	for next != "" {
		var page map[string]json.RawMessage
		if err := c.Get(ctx, next, &page); err != nil {
			return nil, err
		}
		var rows []T
		if err := json.Unmarshal(page[plural], &rows); err != nil {
			return nil, fmt.Errorf("the API's list of %s cannot be read: %w", plural, err)
		}
		all = append(all, rows...)
		next = nextLink(page[plural+"_links"])
	}
	return all, nil
}

func nextLink(data json.RawMessage) string {
	var links []struct{ Rel, Href string }
	if len(data) == 0 || json.Unmarshal(data, &links) != nil {
		return ""
	}
	for _, l := range links {
		if u, err := url.Parse(l.Href); err == nil && l.Rel == "next" {
			return u.RequestURI() // the endpoint that the caller chose, not the name that the API has for itself
		}
	}
	return ""
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.Endpoint, "/")+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("OpenStack-API-Version", Microversion)
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != nil {
		token, err := c.Token(ctx)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Auth-Token", token)
	}
	return req, nil
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Openstack-Request-Id")}
	var body struct {
		Errors []Fault `json:"errors"`
	}
	if data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err == nil && json.Unmarshal(data, &body) == nil {
		e.Faults = body.Errors
	}
	return nil, e
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil || out == nil || len(data) == 0 {
		return err
	}
	return json.Unmarshal(data, out)
}

// fullPage is how many log lines tell that there are more.
const fullPage = 1000

// JobUpdate is what WaitJob tells: the job as it is now, and the log lines since the last time.
type JobUpdate struct {
	Job   job.Job
	Lines []job.LogLine
}

// WaitJob follows a job until it ends, asking every interval, and returns it. A job that failed or was cancelled
// is an error with its reason. A call that fails because the API is away is repeated until ctx ends.
func (c *Client) WaitJob(ctx context.Context, id string, every time.Duration, tell func(JobUpdate)) (job.Job, error) {
	var seq int64
	for {
		var u JobUpdate
		err := c.Get(ctx, "/v1/jobs/"+id, &u.Job)
		if err == nil {
			u.Lines, err = c.JobLog(ctx, id, seq)
		}
		switch {
		case err == nil:
			if n := len(u.Lines); n > 0 {
				seq = u.Lines[n-1].Seq
			}
			if tell != nil {
				tell(u)
			}
			if len(u.Lines) > 0 && (u.Job.State.Final() || len(u.Lines) >= fullPage) {
				continue // what it said at last may be more than one page
			}
			if u.Job.State.Final() {
				return u.Job, ended(u.Job)
			}
		case !away(err):
			return job.Job{}, err
		}
		select {
		case <-ctx.Done():
			return job.Job{}, ctx.Err()
		case <-time.After(every):
		}
	}
}

func ended(j job.Job) error {
	if j.State == job.Succeeded {
		return nil
	}
	if j.Error == nil {
		return fmt.Errorf("job %s of %s is %s", j.ID, j.Resource, j.State)
	}
	return fmt.Errorf("job %s of %s %s: %s", j.ID, j.Resource, j.State, j.Error.Detail)
}

func away(err error) bool {
	e, ok := err.(*Error) //nolint:errorlint // call returns it bare
	return !ok || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusBadGateway
}

// JobLog reads the lines of a job's log after seq.
func (c *Client) JobLog(ctx context.Context, id string, after int64) ([]job.LogLine, error) {
	var out struct {
		Log []job.LogLine `json:"log"`
	}
	err := c.Get(ctx, "/v1/jobs/"+id+"/log?after_seq="+strconv.FormatInt(after, 10), &out)
	return out.Log, err
}

// Events follows the event stream from after on until ctx ends, the stream breaks, or see returns an error.
func (c *Client) Events(ctx context.Context, after int64, see func(event.Event) error) error {
	req, err := c.request(ctx, http.MethodGet, "/v1/events?after="+strconv.FormatInt(after, 10), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		var e event.Event
		if err := json.Unmarshal([]byte(strings.TrimSpace(data)), &e); err != nil {
			return fmt.Errorf("an event cannot be read: %w", err)
		}
		if err := see(e); err != nil {
			return err
		}
	}
	return lines.Err()
}
