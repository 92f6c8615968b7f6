package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// nodesTried bounds how many nodes may refuse a workload before the user is told.
const nodesTried = 3

// placeHandler starts a workload: the ledger holds first, then Nova or Zun is called with the node, then the
// claim is confirmed from what Placement recorded. The workload's key on the server makes a repeat find it.
type placeHandler struct{ *Engine }

func (h *placeHandler) Kind() job.Kind { return job.Place }

func (h *placeHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	w, err := h.Store.FindWorkload(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	m := h.manager(w.Kind)
	if w.State == placement.Deleting || w.State == placement.Deleted {
		// It was deleted while an attempt died: what that one may have created is nobody's.
		return job.Result{Value: map[string]string{"state": string(w.State)}}, h.undo(ctx, m, w)
	}
	if w.State != placement.Requested && w.State != placement.Placing {
		return job.Result{Value: map[string]string{"state": string(w.State)}}, nil
	}
	if err := h.prepare(ctx, &w); err != nil {
		return job.Result{}, err
	}
	inst, err := m.find(ctx, w)
	if err != nil {
		return job.Result{}, err
	}
	if inst != nil {
		r.Logf("found %s, which an earlier attempt created", inst.id)
		*inst, err = h.await(ctx, r, m, w, inst.id)
	} else {
		inst, err = h.start(ctx, r, m, &w)
	}
	if err != nil {
		return job.Result{}, h.giveUp(ctx, m, w, err)
	}
	if inst.status == broken {
		err := errs.New(errs.Conflict, "kiln.workload.broken", "%s ended in error on %s: %s", w.Name, inst.host, inst.reason)
		return job.Result{}, h.giveUp(ctx, m, w, err)
	}
	claim, err := h.confirmed(ctx, w, *inst)
	if err != nil {
		return job.Result{}, err
	}
	r.Logf("%s runs on %s", inst.id, claim.Node)
	return h.placed(r, w, *inst, claim), nil
}

// prepare resolves the image and the amounts, and writes that placing began.
func (h *placeHandler) prepare(ctx context.Context, w *placement.Workload) error {
	if w.ImageID == "" && w.Family != "" {
		v, fallback, err := catalog.Resolve(ctx, h.Store, w.ProjectID, w.Family, w.Channel)
		if err != nil {
			return err
		}
		if w.ImageID, err = placement.ImageOf(v, w.Kind); err != nil {
			return err
		}
		w.Version = v.Name
		if fallback != "" {
			w.Note = fallback
		}
	}
	if err := h.mayUse(ctx, *w); err != nil {
		return err
	}
	if w.Kind == placement.VM {
		f, err := h.Nova.Flavor(ctx, w.Flavor)
		if err != nil {
			return err
		}
		w.Flavor, w.Resources = f.ID, f.Resources
	}
	w.State, w.UpdatedAt = placement.Placing, h.Now()
	return h.Store.UpdateWorkload(ctx, *w, placement.Requested, placement.Placing)
}

// mayUse refuses an image that the workload's project could not see by itself. Kiln calls Nova and Zun as an
// administrator, to whom Glance shows the images of every project.
func (h *placeHandler) mayUse(ctx context.Context, w placement.Workload) error {
	if w.ImageID == "" {
		return nil
	}
	hidden := errs.New(errs.NotFound, "kiln.image.not_found", "there is no image %s for the project", w.ImageID).At(errs.Where{Field: "image_id"})
	g, err := h.Glance.Image(ctx, w.ImageID)
	switch {
	case errs.Is(err, errs.NotFound):
		return hidden
	case err != nil:
		return err
	case g.Owner == w.ProjectID || g.Visibility == "public" || g.Visibility == "community":
		return nil
	case g.Visibility != "shared":
		return hidden
	}
	members, err := h.Glance.Members(ctx, w.ImageID)
	if err != nil {
		return err
	}
	if !slices.Contains(members, w.ProjectID) {
		return hidden
	}
	return nil
}

// start tries nodes, best first, until one takes the workload.
func (h *placeHandler) start(ctx context.Context, r *job.Run, m manager, w *placement.Workload) (*instance, error) {
	ask, err := h.ask(ctx, *w)
	if err != nil {
		return nil, err
	}
	// A repeat finds no server but perhaps the claim of the attempt before: nothing runs on it.
	if err := h.Store.Release(ctx, w.ID); err != nil {
		return nil, err
	}
	var last error
	for range nodesTried {
		node, err := h.hold(ctx, *w, ask)
		if err != nil {
			return nil, errors.Join(err, last)
		}
		r.Progress("starting on "+node.Name, int64(len(ask.Avoid)), nodesTried, "steps")
		inst, err := m.create(ctx, *w, node)
		if err == nil {
			inst, err = h.await(ctx, r, m, *w, inst.id)
		}
		if err == nil && inst.status == active {
			return &inst, nil
		}
		if err == nil {
			err = errs.New(errs.Conflict, "kiln.workload.broken", "it ended in error: %s", inst.reason)
		} else if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.NotFound) {
			return nil, err // the manager is away, or refuses the request itself: another node would not help
		}
		r.Warnf("node %s: %v", node.Name, err)
		last = err
		if err := h.undo(ctx, m, *w); err != nil {
			return nil, err
		}
		ask.Avoid = append(ask.Avoid, node.Name)
	}
	return nil, errs.Wrap(last, errs.Conflict, "kiln.placement.refused", "%d nodes refused %s", nodesTried, w.Name)
}

func (h *placeHandler) ask(ctx context.Context, w placement.Workload) (placement.Ask, error) {
	ask := placement.Ask{
		Kind: w.Kind, Resources: w.Resources, Cluster: w.Cluster, Node: w.Node,
		Planted: map[string]bool{}, Near: map[string]bool{},
	}
	if w.ImageID == "" {
		return ask, nil
	}
	q := listing.All().Where("image_id", w.ImageID).Where("state", string(cache.CopyVerified))
	copies, err := listing.Read(ctx, q, h.Store.ListCopies, func(c cache.Copy) string { return c.ID })
	for _, c := range copies {
		if c.Node != "" {
			ask.Planted[c.Node] = true
		} else {
			ask.Near[c.Cluster] = true
		}
	}
	return ask, err
}

// hold takes the best node that the ledger still has room on.
func (h *placeHandler) hold(ctx context.Context, w placement.Workload, ask placement.Ask) (placement.Node, error) {
	nodes, err := h.nodes(ctx)
	if err != nil {
		return placement.Node{}, err
	}
	ranked, err := placement.Choose(nodes, ask)
	if err != nil {
		return placement.Node{}, err
	}
	for _, n := range ranked {
		err = h.Store.Hold(ctx, placement.Claim{
			ID: w.ID, WorkloadID: w.ID, Node: n.Name, ProviderID: n.ProviderID, Resources: w.Resources,
			State: placement.ClaimHeld, UpdatedAt: h.Now(),
		})
		if err == nil || errs.CodeOf(err) != "kiln.placement.full" {
			return n, err
		}
	}
	return placement.Node{}, err
}

// await asks the manager until the instance is active or broken, or PlaceTimeout is over.
func (e *Engine) await(ctx context.Context, r *job.Run, m manager, w placement.Workload, id string) (instance, error) {
	waitCtx, cancel := context.WithTimeout(ctx, e.PlaceTimeout)
	defer cancel()
	tick := time.NewTicker(e.PollEvery)
	defer tick.Stop()
	began := e.Now()
	for {
		inst, err := m.get(waitCtx, w, id)
		if err != nil && !errs.Retryable(err) {
			return inst, err
		}
		if err == nil && inst.status != starting {
			return inst, nil
		}
		r.Progress("waiting for "+id, int64(e.Now().Sub(began).Seconds()), int64(e.PlaceTimeout.Seconds()), "seconds")
		select {
		case <-waitCtx.Done():
			if ctx.Err() != nil {
				return inst, ctx.Err()
			}
			return instance{id: id, status: broken, reason: "it was not active within " + e.PlaceTimeout.String()}, nil
		case <-tick.C:
		}
	}
}

// undo removes what the manager may have made, waits until it is gone, and only then frees the ledger.
func (e *Engine) undo(ctx context.Context, m manager, w placement.Workload) error {
	inst, err := m.find(ctx, w)
	if err != nil {
		return err
	}
	if inst != nil {
		if err := e.destroy(ctx, m, w, inst.id); err != nil {
			return err
		}
	}
	return e.Store.Release(ctx, w.ID)
}

// giveUp cleans up after an attempt that will not be repeated; what may be repeated is left for the repeat.
func (h *placeHandler) giveUp(ctx context.Context, m manager, w placement.Workload, cause error) error {
	cancelled := ctx.Err() != nil
	if !cancelled && errs.Retryable(cause) {
		return cause
	}
	if cancelled && !h.cancelAsked(ctx, w) {
		return cause // the program stops: the next owner goes on from here
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(cause, h.undo(clean, m, w))
}

func (h *placeHandler) cancelAsked(ctx context.Context, w placement.Workload) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	j, err := h.Store.FindJob(ctx, w.JobID)
	return err == nil && j.CancelRequested
}

// confirmed reads the allocation back from Placement and finds the node that it is on.
func (h *placeHandler) confirmed(ctx context.Context, w placement.Workload, inst instance) (placement.Claim, error) {
	held, err := h.Providers.Allocation(ctx, inst.id)
	if err != nil {
		return placement.Claim{}, err
	}
	nodes, err := h.nodes(ctx)
	if err != nil {
		return placement.Claim{}, err
	}
	for _, n := range nodes {
		if amount, ok := held[n.ProviderID]; ok {
			return placement.Claim{
				ID: w.ID, WorkloadID: w.ID, Node: n.Name, ProviderID: n.ProviderID, ConsumerID: inst.id,
				Resources: amount, State: placement.ClaimConfirmed, UpdatedAt: h.Now(),
			}, nil
		}
	}
	return placement.Claim{}, errs.New(errs.Unavailable, "kiln.placement.no_allocation", "Placement has no allocation of %s on a node that Kiln knows", inst.id)
}

func (h *placeHandler) placed(r *job.Run, w placement.Workload, inst instance, c placement.Claim) job.Result {
	return job.Result{
		Value: map[string]string{"node": c.Node, "id": inst.id},
		Apply: func(ctx context.Context) error {
			// An adopted instance may hold nothing in the ledger yet, or stand on another node than was held.
			old, err := h.Store.FindClaim(ctx, w.ID)
			if err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
			if err != nil || old.Node != c.Node || old.State == placement.ClaimReleased {
				if err := h.Store.Release(ctx, w.ID); err != nil {
					return err
				}
				held := c
				held.State, held.ConsumerID = placement.ClaimHeld, ""
				if err := h.Store.Hold(ctx, held); err != nil {
					return err
				}
			}
			if err := h.Store.Confirm(ctx, w.ID, inst.id, c.Resources); err != nil {
				return err
			}
			w.State, w.Node, w.ExternalID, w.Resources, w.Error, w.UpdatedAt = placement.Active, c.Node, inst.id, c.Resources, "", h.Now()
			// A delete that came meanwhile wins: its own job removes what was started here.
			if err := h.Store.UpdateWorkload(ctx, w, placement.Placing); err != nil {
				return err
			}
			return h.Store.Record(ctx, event.Event{Type: "workload.active", Resource: "workloads/" + w.ID, ProjectID: w.ProjectID, RequestID: r.Job.RequestID})
		},
	}
}

// Failed keeps the reason on the workload.
func (h *placeHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	w, err := h.Store.FindWorkload(ctx, j.ResourceID())
	if err != nil || w.State != placement.Placing && w.State != placement.Requested {
		return err
	}
	w.State, w.Error, w.UpdatedAt = placement.Errored, f.Detail, h.Now()
	if err := h.Store.UpdateWorkload(ctx, w, placement.Placing, placement.Requested); err != nil {
		return err
	}
	return h.Store.Record(ctx, event.Event{Type: "workload.error", Resource: "workloads/" + w.ID, ProjectID: w.ProjectID, RequestID: j.RequestID})
}
