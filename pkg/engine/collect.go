package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Collect says which images of the cloud are read, and how many wait to be read at once.
type Collect struct {
	catalog.Selection
	// Open is how many inspections may be open at once before a sweep starts no more; 100 where it is 0. Images that
	// appear are not held up by it.
	Open int
}

// triedAgain is when an image is read again whose job failed: a worker that could not reach Glance may do so tomorrow.
const triedAgain = 24 * time.Hour

// wanted is an image whose disk has to be read.
type wanted struct {
	image  catalog.Image
	glance catalog.GlanceImage
	why    string
}

// Sweep finds what notifications lost: images that nobody read, that are gone, that were changed, and facts of an older
// reader. It may run in several engines at once.
func (e *Engine) Sweep(ctx context.Context) error {
	all, err := e.Glance.Images(ctx, nil)
	if err != nil {
		return err
	}
	rows := map[string]catalog.Image{}
	for i, err := range listing.Rows(ctx, listing.All(), e.Store.ListImageHeads, func(i catalog.Image) string { return i.ID }) {
		if err != nil {
			return err
		}
		rows[i.ID] = i
	}
	var todo []wanted
	var faults error
	for _, g := range all {
		row, known := rows[g.ID]
		delete(rows, g.ID)
		w, err := e.follow(ctx, g, row, known)
		if faults = errors.Join(faults, err); w != nil {
			todo = append(todo, *w)
		}
	}
	return errors.Join(faults, e.buryLost(ctx, rows), e.inspectSome(ctx, todo))
}

// follow keeps the row of an image as Glance tells it, and says whether its disk has to be read.
func (e *Engine) follow(ctx context.Context, g catalog.GlanceImage, row catalog.Image, known bool) (*wanted, error) {
	if known && row.State == catalog.Gone { // it may have been deleted since the list was read
		now, err := e.Glance.Image(ctx, g.ID)
		if errs.Is(err, errs.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		g = now
	}
	if known {
		next, changed := row.InStep(g, e.Now())
		if changed {
			if err := e.changed(ctx, next); err != nil {
				return nil, err
			}
		}
		row = next
	} else {
		row = catalog.ImageOf(g, e.Now())
	}
	why := row.Due(g)
	if why == "" {
		return nil, nil
	}
	takes, err := e.Collect.Takes(g, func() ([]string, error) { return e.Glance.Members(ctx, g.ID) })
	if err != nil || !takes {
		return nil, err
	}
	if !known {
		if half, err := e.half(ctx, g); err != nil || half {
			return nil, err
		}
	}
	return &wanted{row, g, why}, nil
}

// half reports whether an image without a row is one that Kiln itself makes, or made as a further form of a version.
// They come with their facts. One of another Kiln on the same cloud is an image as any.
func (e *Engine) half(ctx context.Context, g catalog.GlanceImage) (bool, error) {
	id := g.Properties[catalog.PropJob]
	if id == "" {
		return false, nil
	}
	if _, err := e.Store.FindJob(ctx, id); errs.Is(err, errs.NotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	_, err := e.Store.VersionByImage(ctx, g.ID)
	if errs.Is(err, errs.NotFound) {
		return true, nil
	}
	return false, err
}

// changed writes the head of an image that was renamed, shared, tagged, barred, or that is back.
func (e *Engine) changed(ctx context.Context, i catalog.Image) error {
	return e.Store.InTx(ctx, func(ctx context.Context) error {
		// Whoever read the disk meanwhile knows its state better.
		now, err := e.head(ctx, i.ID)
		if err != nil {
			return err
		}
		if now != nil && now.State != catalog.Gone {
			i.State, i.Reason = now.State, now.Reason
		}
		if err := e.Store.PutImageHead(ctx, i); err != nil {
			return err
		}
		return e.desk().Tell(ctx, job.By{}, "image.updated", "images/"+i.ID, i.ProjectID, i)
	})
}

// head is the row of an image without its facts; nil for none.
func (e *Engine) head(ctx context.Context, id string) (*catalog.Image, error) {
	rows, err := e.Store.ListImageHeads(ctx, listing.Query{Limit: 1}.Where("id", id))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// mostBuried bounds how many images a round asks Glance about one by one.
const mostBuried = 500

// buryLost notes the images that Glance has no more. The list is asked for over some time, so each is asked for again.
func (e *Engine) buryLost(ctx context.Context, rows map[string]catalog.Image) error {
	var all error
	asked := 0
	for _, i := range rows {
		if i.State == catalog.Gone {
			continue
		}
		if asked++; asked > mostBuried {
			break
		}
		if _, err := e.Glance.Image(ctx, i.ID); !errs.Is(err, errs.NotFound) {
			all = errors.Join(all, err)
			continue
		}
		all = errors.Join(all, e.bury(ctx, i.ID, i.ProjectID))
	}
	return all
}

// bury notes that an image is gone; again is no error.
func (e *Engine) bury(ctx context.Context, id, projectID string) error {
	return e.Store.InTx(ctx, func(ctx context.Context) error {
		buried, err := e.Store.BuryImage(ctx, id, e.Now())
		if err != nil || !buried {
			return err
		}
		return e.desk().Tell(ctx, job.By{}, "image."+string(catalog.Gone), "images/"+id, projectID, map[string]string{"id": id})
	})
}

// inspectSome starts inspections while not too many are open: those that were never read first, the newest first.
func (e *Engine) inspectSome(ctx context.Context, todo []wanted) error {
	if len(todo) == 0 {
		return nil
	}
	open, err := e.openInspections(ctx)
	if err != nil {
		return err
	}
	slices.SortStableFunc(todo, func(a, b wanted) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.image.CreatedAt.Compare(a.image.CreatedAt))
	})
	free, started := cmp.Or(e.Collect.Open, 100)-len(open), 0
	for _, w := range todo {
		if started >= free {
			break
		}
		if open["images/"+w.image.ID] {
			continue
		}
		began, err := e.inspect(ctx, w)
		if err != nil {
			return err
		}
		if began {
			started++
		}
	}
	if started > 0 {
		e.Log.WithField("images", started).WithField("waiting", len(todo)-started).Info("images are read that no notification told of, or that are due again")
	}
	return nil
}

func rank(w wanted) int {
	if w.image.State == catalog.Waiting {
		return 0
	}
	return 1
}

// openInspections are the resources of the jobs that are open.
func (e *Engine) openInspections(ctx context.Context) (map[string]bool, error) {
	open := map[string]bool{}
	for _, state := range []job.State{job.Pending, job.Running} {
		q := listing.All().Where("kind", string(job.Inspect)).Where("state", string(state))
		rows, err := e.Store.ListJobs(ctx, q) // what is beyond MaxLimit is more than may be open anyway
		if err != nil {
			return nil, err
		}
		for _, j := range rows {
			open[j.Resource] = true
		}
	}
	return open, nil
}

// inspect starts the job that reads an image, unless one is open or failed a short while ago. Engines that do it at once
// start the same job.
func (e *Engine) inspect(ctx context.Context, w wanted) (started bool, err error) {
	err = e.Store.InTx(ctx, func(ctx context.Context) error {
		id, err := e.nextInspection(ctx, w)
		if started = err == nil && id != ""; !started {
			return err
		}
		if w.image.State == catalog.Waiting {
			if err := e.Store.PutImageHead(ctx, w.image); err != nil {
				return err
			}
		}
		_, err = e.desk().Start(ctx, job.By{}, job.Draft{
			ID: id, Kind: job.Inspect, Queue: job.WorkerQueue, ProjectID: w.image.ProjectID, Resource: "images/" + w.image.ID,
			Payload: catalog.InspectPayload{ImageID: w.image.ID},
		})
		return err
	})
	return started && err == nil, err
}

// mostTries bounds how far the jobs of an image are followed.
const mostTries = 1000

// nextInspection is the id of the job to start: each one that ended names the next. "" where none is to be started now.
func (e *Engine) nextInspection(ctx context.Context, w wanted) (string, error) {
	before := ""
	for range mostTries {
		id := catalog.InspectJob(w.image.ID, w.why, before)
		j, err := e.Store.FindJob(ctx, id)
		switch {
		case errs.Is(err, errs.NotFound):
			return id, nil
		case err != nil:
			return "", err
		case !j.State.Final(), j.State != job.Succeeded && e.Now().Sub(j.UpdatedAt) < triedAgain:
			return "", nil
		}
		before = id
	}
	return "", nil
}
