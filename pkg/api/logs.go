package api

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// searchedDays is how far back log lines are looked for where the caller names neither a time nor a build.
const searchedDays = 7

// searchLogs finds lines that jobs of the project said, the newest first.
func (a *api) searchLogs(ctx context.Context, req *Request[None]) (Response, error) {
	q, err := a.logQuery(ctx, req)
	if err != nil {
		return Response{}, err
	}
	find := func(ctx context.Context, l listing.Query) ([]job.LogHit, error) {
		q.Limit = l.Limit
		return a.Store.SearchLog(ctx, q)
	}
	return page(ctx, req, "logs", find, func(h job.LogHit) string {
		return strings.Join([]string{strconv.FormatInt(h.At.UnixMicro(), 10), strconv.FormatInt(h.Seq, 10), h.JobID}, ".")
	})
}

func (a *api) logQuery(ctx context.Context, req *Request[None]) (q job.LogQuery, err error) {
	f := req.List.Filter
	q = job.LogQuery{ProjectID: req.List.ProjectID, JobID: f["job_id"], Text: f["text"]}
	if len(q.Text) > 200 {
		return q, errs.New(errs.Invalid, "kiln.request.query", "a text to look for has 200 bytes at most").At(errs.Where{Field: "text"})
	}
	for key, into := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if f[key] == "" {
			continue
		}
		if *into, err = time.Parse(time.RFC3339, f[key]); err != nil {
			return q, errs.New(errs.Invalid, "kiln.request.query", "%s is a time such as 2026-01-31T12:00:00Z", key).At(errs.Where{Field: key})
		}
	}
	if id := f["build_id"]; id != "" {
		b, err := owned(ctx, req, "build", id, a.Store.FindBuild, buildProject)
		if err != nil {
			return q, inBody(err, "build_id")
		}
		if q.JobID != "" && q.JobID != b.JobID {
			return q, errs.New(errs.Invalid, "kiln.request.query", "job_id and build_id do not belong together").At(errs.Where{Field: "job_id"})
		}
		q.JobID = b.JobID
	}
	if q.JobID == "" && q.Since.IsZero() {
		q.Since = a.Now().AddDate(0, 0, -searchedDays)
	}
	if req.List.Marker != "" {
		if q.Marker, err = readHit(req.List.Marker); err != nil {
			return q, err
		}
	}
	return q, nil
}

// readHit reads the marker that a page ended with.
func readHit(marker string) (*job.LogHit, error) {
	parts := strings.SplitN(marker, ".", 3)
	refuse := errs.New(errs.Invalid, "kiln.query.marker", "the marker is not one of this list").At(errs.Where{Field: "marker"})
	if len(parts) != 3 {
		return nil, refuse
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return nil, refuse
	}
	seq, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return nil, refuse
	}
	return &job.LogHit{JobID: parts[2], LogLine: job.LogLine{Seq: seq, At: time.UnixMicro(at).UTC()}}, nil
}

// showBuildLog is the log of the build's job.
func (a *api) showBuildLog(ctx context.Context, req *Request[None]) (Response, error) {
	b, err := owned(ctx, req, "build", req.Param("id"), a.Store.FindBuild, buildProject)
	if err != nil {
		return Response{}, err
	}
	j, err := a.Store.FindJob(ctx, b.JobID)
	if err != nil {
		return Response{}, err
	}
	return a.logOf(ctx, req, j)
}
