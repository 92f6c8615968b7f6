package store

import (
	"context"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

var _ placement.Store = (*DB)(nil)

var nodeTable = tableOf[placement.Node](spec{
	name: "nodes", resource: "node", key: "name",
	flat:    []string{"capacity", "foreign"},
	skip:    []string{"held"},
	from:    "`nodes` LEFT JOIN `cluster_nodes` ON `cluster_nodes`.`node` = `nodes`.`name`",
	exprs:   map[string]string{"cluster": "COALESCE(`cluster_nodes`.`cluster`, '')"},
	filters: []string{"name", "cluster", "provider_id", "nova_host", "zun_host", "up", "disabled"},
	sorts:   []string{"name", "cluster", "updated_at"},
	order:   byName(),
})

var workloadTable = tableOf[placement.Workload](spec{
	name: "workloads", resource: "workload",
	flat: []string{"resources"},
	filters: []string{"id", "user_id", "name", "kind", "family", "channel", "version", "image_id", "image_ref", "flavor",
		"cluster", "node", "state", "external_id", "job_id"},
	sorts: []string{"created_at", "updated_at", "name", "kind", "family", "node", "state"},
	order: newestFirst,
})

// PutNode implements placement.Store.
func (db *DB) PutNode(ctx context.Context, n placement.Node) error {
	n.AgentSeen = nil // that of a new row; SeenNode has the word
	return nodeTable.insert(ctx, db, nodeTable.replaceTail(db, "agent_seen"), n)
}

// SeenNode implements placement.Store; errs.NotFound until PutNode wrote the node.
func (db *DB) SeenNode(ctx context.Context, name string, at time.Time) error {
	n, err := db.exec(ctx, "node", name, "UPDATE `nodes` SET `agent_seen` = ? WHERE `name` = ?", stamp(at), name)
	if err == nil && n == 0 {
		err = notFound("node", name)
	}
	return err
}

// FindNode implements placement.Store.
func (db *DB) FindNode(ctx context.Context, name string) (placement.Node, error) {
	n, err := nodeTable.byID(ctx, db, name)
	if err != nil {
		return n, err
	}
	ns := []placement.Node{n}
	err = db.fillHeld(ctx, ns)
	return ns[0], err
}

// ListNodes implements placement.Store.
func (db *DB) ListNodes(ctx context.Context, q listing.Query) ([]placement.Node, error) {
	ns, err := nodeTable.list(ctx, db, q)
	if err != nil {
		return nil, err
	}
	return ns, db.fillHeld(ctx, ns)
}

func (db *DB) fillHeld(ctx context.Context, ns []placement.Node) error {
	if len(ns) == 0 {
		return nil
	}
	at, args := map[string]int{}, make([]any, len(ns))
	for i, n := range ns {
		at[n.Name], args[i] = i, n.Name
	}
	return db.each(ctx, "claim", "", func(r *sqlx.Rows) error {
		var node string
		var h placement.Resources
		if err := r.Scan(&node, &h.VCPUs, &h.MemoryMB, &h.DiskGB); err != nil {
			return err
		}
		ns[at[node]].Held = h
		return nil
	}, "SELECT `node`, SUM(`resources_vcpus`), SUM(`resources_memory_mb`), SUM(`resources_disk_gb`) FROM `claims`"+
		" WHERE `state` <> 'released' AND `node` IN ("+marks(len(args))+") GROUP BY `node`", args...)
}

// CreateWorkload implements placement.Store.
func (db *DB) CreateWorkload(ctx context.Context, w placement.Workload) error {
	return workloadTable.insert(ctx, db, "", w)
}

// UpdateWorkload implements placement.Store.
func (db *DB) UpdateWorkload(ctx context.Context, w placement.Workload, from ...placement.WorkloadState) error {
	if len(from) == 0 {
		return workloadTable.update(ctx, db, w)
	}
	return db.InTx(ctx, func(ctx context.Context) error {
		// The row is locked by a write that changes nothing: two writers that read the same state do not both pass.
		args := []any{w.ID}
		for _, state := range from {
			args = append(args, string(state))
		}
		n, err := db.exec(ctx, "workload", w.ID, "UPDATE `workloads` SET `state` = `state` WHERE `id` = ? AND `state` IN (?"+strings.Repeat(", ?", len(from)-1)+")", args...)
		if err != nil {
			return err
		}
		if n > 0 {
			return workloadTable.update(ctx, db, w)
		}
		now, err := db.FindWorkload(ctx, w.ID)
		if err != nil {
			return err
		}
		return errs.New(errs.Conflict, placement.CodeMoved, "workload %s is %s by now", w.ID, now.State)
	})
}

// FindWorkload implements placement.Store.
func (db *DB) FindWorkload(ctx context.Context, id string) (placement.Workload, error) {
	return workloadTable.byID(ctx, db, id)
}

// ListWorkloads implements placement.Store.
func (db *DB) ListWorkloads(ctx context.Context, q listing.Query) ([]placement.Workload, error) {
	return workloadTable.list(ctx, db, q)
}
