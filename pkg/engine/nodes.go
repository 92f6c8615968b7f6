package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// SyncNodes reads nodes from Nova, Zun and Placement, counts what others than the ledger hold of each, and
// settles claims whose consumer is gone or changed.
func (e *Engine) SyncNodes(ctx context.Context) error {
	providers, err := e.Providers.Providers(ctx)
	if err != nil {
		return err
	}
	hypervisors, err := e.Nova.Hypervisors(ctx)
	if err != nil {
		return err
	}
	var zunHosts []string
	if e.Zun != nil {
		if zunHosts, err = e.Zun.Hosts(ctx); err != nil {
			e.zunIsAway(err)
		}
	}
	claims, err := e.openClaims(ctx)
	if err != nil {
		return err
	}
	var all error
	there := map[string]bool{}
	for _, p := range providers {
		there[p.ID] = true
		n := placement.Node{Name: p.Name, ProviderID: p.ID, Capacity: p.Capacity, UpdatedAt: e.Now()}
		for _, h := range hypervisors {
			if h.Hostname == p.Name {
				n.NovaHost, n.Up, n.Disabled = h.Host, h.Up, h.Disabled
			}
		}
		if slices.Contains(zunHosts, p.Name) {
			n.ZunHost = p.Name
			n.Up = n.Up || n.NovaHost == ""
		}
		if n.NovaHost == "" && n.ZunHost == "" {
			continue // not a compute node: a shared disk, a network agent
		}
		all = errors.Join(all, e.syncNode(ctx, n, claims))
	}
	for _, c := range claims {
		if c.ConsumerID != "" && !there[c.ProviderID] {
			all = errors.Join(all, e.settle(ctx, c)) // the node left the cloud, or came back under another provider
		}
	}
	return all
}

// zunIsAway says it once: a cloud may have no Zun at all. Zun's API waits for dead hosts; VMs are placed all the same.
func (e *Engine) zunIsAway(err error) {
	if text := err.Error(); text != e.zunSaid {
		e.zunSaid = text
		e.Log.WithError(err).Warning("Zun does not list its hosts; nodes keep no container manager for now")
	}
}

func (e *Engine) openClaims(ctx context.Context) ([]placement.Claim, error) {
	var all []placement.Claim
	for _, state := range []placement.ClaimState{placement.ClaimHeld, placement.ClaimConfirmed} {
		q := listing.All().Where("state", string(state))
		claims, err := listing.Read(ctx, q, e.Store.ListClaims, func(c placement.Claim) string { return c.ID })
		if err != nil {
			return nil, err
		}
		all = append(all, claims...)
	}
	return all, nil
}

func (e *Engine) nodes(ctx context.Context) ([]placement.Node, error) {
	return listing.Read(ctx, listing.All(), e.Store.ListNodes, func(n placement.Node) string { return n.Name })
}

func (e *Engine) syncNode(ctx context.Context, n placement.Node, claims []placement.Claim) error {
	consumers, err := e.Providers.Consumers(ctx, n.ProviderID)
	if err != nil {
		return err
	}
	ours := map[string]placement.Claim{}
	for _, c := range claims {
		if c.ConsumerID != "" && c.ProviderID == n.ProviderID {
			ours[c.ConsumerID] = c
		}
	}
	var all error
	for id, held := range consumers {
		c, known := ours[id]
		switch {
		case !known:
			n.Foreign = n.Foreign.Add(held)
		case c.Resources != held:
			all = errors.Join(all, e.Store.Confirm(ctx, c.WorkloadID, id, held))
		}
	}
	if err := e.Store.PutNode(ctx, n); err != nil {
		return errors.Join(all, err)
	}
	for id, c := range ours {
		if _, there := consumers[id]; !there {
			all = errors.Join(all, e.settle(ctx, c))
		}
	}
	return all
}

// settle looks at a confirmed claim that Placement does not have: where its manager does not know the instance
// either, somebody deleted it behind Kiln's back.
func (e *Engine) settle(ctx context.Context, c placement.Claim) error {
	w, err := e.Store.FindWorkload(ctx, c.WorkloadID)
	if err != nil {
		return err
	}
	if w.State != placement.Active && w.State != placement.Errored {
		return nil // a job works on it
	}
	_, err = e.manager(w.Kind).get(ctx, w, c.ConsumerID)
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	e.Log.WithField("workload", w.ID).Warning("the workload was deleted outside Kiln; its claim is released")
	return e.Store.InTx(ctx, func(ctx context.Context) error { return e.gone(ctx, w, "workload.vanished", "") })
}
