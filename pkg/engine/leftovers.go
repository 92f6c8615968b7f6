package engine

import (
	"context"
	"errors"
	"time"

	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// lateFor is how long after a workload's removal something of it may still turn up: a request that Nova or Zun had
// accepted from an engine that died, and finishes late.
const lateFor = 15 * time.Minute

// sweepInstances deletes what carries the key of a workload that was deleted a short while ago. Only projects with
// such a workload are looked at.
func (e *Engine) sweepInstances(ctx context.Context) error {
	type place struct {
		kind    placement.Kind
		project string
	}
	gone := map[string]placement.Workload{}
	places := map[place]bool{}
	q := listing.All().Where("state", string(placement.Deleted))
	q.Sort = []listing.Key{{Field: "updated_at", Desc: true}}
	for w, err := range listing.Rows(ctx, q, e.Store.ListWorkloads, func(w placement.Workload) string { return w.ID }) {
		if err != nil {
			return err
		}
		if e.Now().Sub(w.UpdatedAt) > lateFor {
			break
		}
		gone[w.ID] = w
		places[place{w.Kind, w.ProjectID}] = true
	}
	var all error
	for p := range places {
		m := e.manager(p.kind)
		found, err := m.keyed(ctx, p.project)
		all = errors.Join(all, err)
		for _, inst := range found {
			if w, ours := gone[inst.key]; ours {
				e.Log.WithField("workload", w.ID).WithField("instance", inst.id).Warning("removing what turned up of a deleted workload")
				all = errors.Join(all, m.remove(ctx, w, inst.id))
			}
		}
	}
	return all
}
