package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

func workerProject(shownWorker) string { return "" }

// shownWorker is a worker with whether it is there now.
type shownWorker struct {
	build.Worker
	Up bool `json:"up"`
}

func (a *api) shown(w build.Worker) shownWorker { return shownWorker{Worker: w, Up: w.Up(a.Now())} }

func (a *api) listWorkers(ctx context.Context, req *Request[None]) (Response, error) {
	find := func(ctx context.Context, q listing.Query) ([]shownWorker, error) {
		ws, err := a.Store.ListWorkers(ctx, q)
		out := make([]shownWorker, len(ws))
		for i, w := range ws {
			out[i] = a.shown(w)
		}
		return out, err
	}
	return page(ctx, req, "workers", find, func(w shownWorker) string { return w.Name })
}

func (a *api) showWorker(ctx context.Context, req *Request[None]) (Response, error) {
	find := func(ctx context.Context, name string) (shownWorker, error) {
		w, err := a.Store.FindWorker(ctx, name)
		return a.shown(w), err
	}
	w, err := owned(ctx, req, "worker", req.Param("name"), find, workerProject)
	return ok(w), err
}

// shownBuild is a build with what it waits for.
type shownBuild struct {
	build.Build
	WaitingFor string `json:"waiting_for,omitempty"`
}

// waiting tells why nobody has begun a queued build; other states wait for nothing.
func (a *api) waiting(ctx context.Context, b build.Build) (shownBuild, error) {
	out := shownBuild{Build: b}
	if b.State != build.Queued {
		return out, nil
	}
	var err error
	out.WaitingFor, err = build.WaitingFor(ctx, a.Store, b.Needs, a.Now())
	return out, err
}
