package store

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

var claimTable = tableOf[placement.Claim](spec{
	name: "claims", resource: "claim",
	flat:    []string{"resources"},
	filters: []string{"id", "workload_id", "node", "provider_id", "consumer_id", "state"},
	sorts:   []string{"node", "state", "updated_at"},
})

// Hold implements placement.Store. A released claim of the workload is held anew; an open one on another node is
// errs.Conflict "kiln.placement.held".
func (db *DB) Hold(ctx context.Context, c placement.Claim) error {
	if c.ID == "" {
		c.ID = c.WorkloadID
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		if err := db.lockNode(ctx, c.Node); err != nil {
			return err
		}
		old, err := claimTable.find(ctx, db, c.WorkloadID, map[string]string{"workload_id": c.WorkloadID})
		known := err == nil
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if open := known && old.State != placement.ClaimReleased; open {
			if old.Node != c.Node {
				return heldElsewhere(c.WorkloadID, old.Node)
			}
			if old.Resources == c.Resources {
				return nil
			}
		}
		if err := db.room(ctx, c); err != nil {
			return err
		}
		c.State = placement.ClaimHeld
		if known {
			c.ID = old.ID
			return claimTable.update(ctx, db, c)
		}
		err = claimTable.insert(ctx, db, "", c)
		if errs.Is(err, errs.Conflict) { // another node was held for it at the same time
			return heldElsewhere(c.WorkloadID, "another node")
		}
		return err
	})
}

func heldElsewhere(workloadID, node string) error {
	return errs.New(errs.Conflict, "kiln.placement.held", "workload %s holds %s already: release that first", workloadID, node)
}

// lockNode lets one transaction at a time count a node. It writes instead of SELECT … FOR UPDATE, because Galera
// checks writes between its nodes and knows nothing of another node's read locks.
func (db *DB) lockNode(ctx context.Context, node string) error {
	n, err := db.exec(ctx, "node", node, "UPDATE `nodes` SET `holds` = `holds` + 1 WHERE `name` = ?", node)
	if err == nil && n == 0 {
		err = notFound("node", node)
	}
	return err
}

// room counts the node, without what the workload itself has there.
func (db *DB) room(ctx context.Context, c placement.Claim) error {
	n, err := db.FindNode(ctx, c.Node)
	if err != nil {
		return err
	}
	var own placement.Resources
	_, err = db.one(ctx, "claim", c.WorkloadID, []any{&own.VCPUs, &own.MemoryMB, &own.DiskGB},
		"SELECT `resources_vcpus`, `resources_memory_mb`, `resources_disk_gb` FROM `claims` WHERE `workload_id` = ? AND `node` = ? AND `state` <> 'released'",
		c.WorkloadID, c.Node)
	if err != nil {
		return err
	}
	free := n.Capacity.Sub(n.Foreign).Sub(n.Held).Add(own)
	if !c.Resources.Fits(free) {
		return errs.New(errs.Conflict, "kiln.placement.full", "node %s has %d VCPU, %d MiB of RAM and %d GiB of disk free; %d, %d and %d are needed",
			c.Node, free.VCPUs, free.MemoryMB, free.DiskGB, c.Resources.VCPUs, c.Resources.MemoryMB, c.Resources.DiskGB)
	}
	return nil
}

// Confirm implements placement.Store; errs.NotFound where nothing was held, errs.Conflict where it is released.
func (db *DB) Confirm(ctx context.Context, workloadID, consumerID string, r placement.Resources) error {
	n, err := db.exec(ctx, "claim", workloadID, "UPDATE `claims` SET `state` = 'confirmed', `consumer_id` = ?, `resources_vcpus` = ?,"+
		" `resources_memory_mb` = ?, `resources_disk_gb` = ?, `updated_at` = ? WHERE `workload_id` = ? AND `state` <> 'released'",
		consumerID, r.VCPUs, r.MemoryMB, r.DiskGB, stamp(db.now()), workloadID)
	if err != nil || n > 0 {
		return err
	}
	if _, err := db.FindClaim(ctx, workloadID); err != nil {
		return err
	}
	return errs.New(errs.Conflict, "kiln.claim.released", "the claim of workload %s is released", workloadID)
}

// Release implements placement.Store.
func (db *DB) Release(ctx context.Context, workloadID string) error {
	_, err := db.exec(ctx, "claim", workloadID, "UPDATE `claims` SET `state` = 'released', `updated_at` = ? WHERE `workload_id` = ? AND `state` <> 'released'",
		stamp(db.now()), workloadID)
	return err
}

// FindClaim implements placement.Store.
func (db *DB) FindClaim(ctx context.Context, workloadID string) (placement.Claim, error) {
	return claimTable.find(ctx, db, "of workload "+workloadID, map[string]string{"workload_id": workloadID})
}

// ListClaims implements placement.Store.
func (db *DB) ListClaims(ctx context.Context, q listing.Query) ([]placement.Claim, error) {
	return claimTable.list(ctx, db, q)
}
