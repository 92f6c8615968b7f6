package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

func jobProject(j job.Job) string { return j.ProjectID }

func (a *api) listJobs(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "jobs", a.Store.ListJobs, func(j job.Job) string { return j.ID })
}

func (a *api) showJob(ctx context.Context, req *Request[None]) (Response, error) {
	j, err := owned(ctx, req, "job", req.Param("id"), a.Store.FindJob, jobProject)
	return ok(j), err
}

// showJobLog gives lines after a sequence number, and the number to ask with next. The state tells whether
// more lines can come.
func (a *api) showJobLog(ctx context.Context, req *Request[None]) (Response, error) {
	j, err := owned(ctx, req, "job", req.Param("id"), a.Store.FindJob, jobProject)
	if err != nil {
		return Response{}, err
	}
	return a.logOf(ctx, req, j)
}

func (a *api) logOf(ctx context.Context, req *Request[None], j job.Job) (_ Response, err error) {
	after, limit := int64(0), int64(listing.MaxLimit)
	if req.Query.Has("after_seq") {
		if after, err = wholeNumber(req.Query, "after_seq", 0); err != nil {
			return Response{}, err
		}
	}
	if req.Query.Has("limit") {
		if limit, err = wholeNumber(req.Query, "limit", 1); err != nil {
			return Response{}, err
		}
	}
	lines, err := a.Store.JobLog(ctx, j.ID, after, int(min(limit, listing.MaxLimit)))
	if len(lines) > 0 {
		after = lines[len(lines)-1].Seq
	}
	return ok(map[string]any{"log": lines, "last_seq": after, "state": j.State}), err
}

func (a *api) cancelJob(ctx context.Context, req *Request[None]) (Response, error) {
	j, err := owned(ctx, req, "job", req.Param("id"), a.Store.FindJob, jobProject)
	if err != nil {
		return Response{}, err
	}
	j, err = a.jobs.Cancel(ctx, req.By, j.ID)
	return accepted("/v1/jobs/"+j.ID, j), err
}
