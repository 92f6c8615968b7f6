package cache

import (
	"context"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Wanted says where copies of an image shall be.
type Wanted struct {
	ImageID   string
	ProjectID string // of the image: the jobs and events belong to it
	Cluster   string
	Nodes     []string // also into Nova's cache of these nodes
	AllNodes  bool     // also into Nova's cache of every node of the cluster
}

// WarmUp starts one job for each store of the cluster and one for each node asked for, and returns all those copies.
// A copy that is verified stays as it is, and a job that is under way is joined; a failed one is started again.
// errs.Invalid where the cluster or a node of it does not exist; errs.Conflict while a copy is being evicted.
func (s *Service) WarmUp(ctx context.Context, by job.By, w Wanted) ([]Copy, error) {
	var out []Copy
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		out = nil
		c, err := s.Store.FindCluster(ctx, w.Cluster)
		if errs.Is(err, errs.NotFound) {
			return errs.New(errs.Invalid, "kiln.cluster.not_found", "there is no cluster %q", w.Cluster).At(errs.Where{Field: "cluster"})
		}
		if err != nil {
			return err
		}
		places, err := places(c, w)
		if err != nil {
			return err
		}
		for _, place := range places {
			p, err := s.ensure(ctx, by, w, place)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// places lists the stores first: an agent that plants on a node finds the copy of its cluster then.
func places(c Cluster, w Wanted) ([]Copy, error) {
	nodes := w.Nodes
	if w.AllNodes {
		nodes = c.Nodes
	}
	if len(c.Stores) == 0 && len(nodes) == 0 {
		return nil, errs.New(errs.Conflict, "kiln.cluster.no_stores", "cluster %s has no stores, and no nodes were named", c.Name)
	}
	var out []Copy
	for _, st := range c.Stores {
		out = append(out, Copy{Cluster: c.Name, Store: st.Name, ImageID: w.ImageID})
	}
	for i, node := range nodes {
		if !slices.Contains(c.Nodes, node) {
			return nil, errs.New(errs.Invalid, "kiln.cluster.node", "node %q is not in cluster %s", node, c.Name).
				At(errs.Where{Field: "nodes[" + strconv.Itoa(i) + "]"})
		}
		if !slices.Contains(nodes[:i], node) {
			out = append(out, Copy{Cluster: c.Name, Store: NovaCache, Node: node, ImageID: w.ImageID})
		}
	}
	return out, nil
}

// ensure makes the copy's row and its job where neither a good copy nor a running job is there.
func (s *Service) ensure(ctx context.Context, by job.By, w Wanted, place Copy) (Copy, error) {
	now := s.Now().UTC()
	fresh := place
	fresh.ID, fresh.JobID, fresh.State, fresh.CreatedAt, fresh.UpdatedAt = s.NewID(), s.NewID(), CopyQueued, now, now
	p, err := s.Store.EnsureCopy(ctx, fresh)
	if err != nil {
		return Copy{}, err
	}
	if p.ID != fresh.ID {
		if p.State == CopyVerified {
			return p, nil
		}
		open, err := s.Open(ctx, p.JobID)
		switch {
		case err != nil:
			return Copy{}, err
		case open != nil && p.State == CopyEvicting:
			return Copy{}, errs.New(errs.Conflict, "kiln.copy.evicting", "copy %s is being evicted: wait for job %s", p.ID, p.JobID)
		case open != nil:
			return p, nil
		}
		p.State, p.Error, p.JobID, p.UpdatedAt = CopyQueued, "", fresh.JobID, now
		if err := s.Store.UpdateCopy(ctx, p); err != nil {
			return Copy{}, err
		}
	}
	draft := job.Draft{
		ID: p.JobID, Kind: job.WarmUp, Queue: job.ClusterQueue(p.Cluster), ProjectID: w.ProjectID,
		Resource: "copies/" + p.ID, Payload: WarmUpPayload{CopyID: p.ID},
	}
	if p.Node != "" {
		draft.Kind, draft.Queue, draft.Payload = job.Plant, job.NodeQueue(p.Node), PlantPayload{CopyID: p.ID}
	}
	if _, err := s.Start(ctx, by, draft); err != nil {
		return Copy{}, err
	}
	return p, s.Tell(ctx, by, "copy.queued", "copies/"+p.ID, w.ProjectID, p)
}

// Evict starts the removal of a copy; projectID is that of its image. Again while it is under way joins the job.
// errs.Conflict while the copy is being made.
func (s *Service) Evict(ctx context.Context, by job.By, id, projectID string) (Copy, error) {
	return s.evict(ctx, by, id, projectID, false)
}

// EvictUnused is Evict for copies that no disk is cloned from: one that has clones stays as it is, with the number in
// its Error, and the job fails with CodeClones.
func (s *Service) EvictUnused(ctx context.Context, by job.By, id, projectID string) (Copy, error) {
	return s.evict(ctx, by, id, projectID, true)
}

func (s *Service) evict(ctx context.Context, by job.By, id, projectID string, spare bool) (Copy, error) {
	var p Copy
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if p, err = s.Store.FindCopy(ctx, id); err != nil {
			return err
		}
		open, err := s.Open(ctx, p.JobID)
		switch {
		case err != nil:
			return err
		case open != nil && p.State == CopyEvicting:
			return nil
		case open != nil:
			return errs.New(errs.Conflict, "kiln.copy.busy", "copy %s is being made: wait for job %s or cancel it", p.ID, p.JobID)
		}
		p.State, p.Error, p.JobID, p.UpdatedAt = CopyEvicting, "", s.NewID(), s.Now().UTC()
		if err := s.Store.UpdateCopy(ctx, p); err != nil {
			return err
		}
		queue := job.ClusterQueue(p.Cluster)
		if p.Node != "" {
			queue = job.NodeQueue(p.Node)
		}
		if _, err := s.Start(ctx, by, job.Draft{
			ID: p.JobID, Kind: job.Evict, Queue: queue, ProjectID: projectID, Resource: "copies/" + p.ID, Payload: EvictPayload{CopyID: p.ID, Spare: spare},
		}); err != nil {
			return err
		}
		return s.Tell(ctx, by, "copy.evicting", "copies/"+p.ID, projectID, p)
	})
	return p, err
}

// Cancelled writes the end of a warm-up, a plant or an eviction whose job was cancelled before it ran.
func (s *Service) Cancelled(ctx context.Context, by job.By, j job.Job) error {
	var payload WarmUpPayload // all three are the copy's id
	if err := j.Decode(&payload); err != nil {
		return err
	}
	p, err := s.Store.FindCopy(ctx, payload.CopyID)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// An eviction that never ran leaves the copy as good as it was; a copy that was never made is a failed one.
	p.State, p.Error = CopyFailed, "cancelled on request before it started"
	if j.Kind == job.Evict && p.VerifiedAt != nil {
		p.State, p.Error = CopyVerified, ""
	}
	p.UpdatedAt = s.Now().UTC()
	if err := s.Store.UpdateCopy(ctx, p); err != nil {
		return err
	}
	return s.Tell(ctx, by, "copy.cancelled", "copies/"+p.ID, j.ProjectID, p)
}

// first looks through all copies of a cluster, page by page.
func (s *Service) first(ctx context.Context, cluster string, match func(Copy) bool) (*Copy, error) {
	for c, err := range listing.Rows(ctx, listing.All().Where("cluster", cluster), s.Store.ListCopies, func(c Copy) string { return c.ID }) {
		if err != nil {
			return nil, err
		}
		if match(c) {
			return &c, nil
		}
	}
	return nil, nil
}
