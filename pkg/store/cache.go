package store

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

var _ cache.Store = (*DB)(nil)

var clusterTable = tableOf[cache.Cluster](spec{
	name: "clusters", resource: "cluster",
	filters: []string{"id", "name"},
	sorts:   []string{"name", "created_at", "updated_at"},
	order:   byName(),
})

var copyTable = tableOf[cache.Copy](spec{
	name: "copies", resource: "copy",
	filters: []string{"id", "cluster", "store", "node", "image_id", "state", "job_id"},
	sorts:   []string{"created_at", "updated_at", "cluster", "store", "node", "image_id", "state", "bytes"},
	order:   newestFirst,
})

// CreateCluster implements cache.Store.
func (db *DB) CreateCluster(ctx context.Context, c cache.Cluster) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		if err := clusterTable.insert(ctx, db, "", c); err != nil {
			return err
		}
		return db.claimNodes(ctx, c)
	})
}

// UpdateCluster implements cache.Store. The cluster is known by its id; errs.Conflict as in CreateCluster.
func (db *DB) UpdateCluster(ctx context.Context, c cache.Cluster) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		old, err := clusterTable.byID(ctx, db, c.ID)
		if err != nil {
			return err
		}
		if err := clusterTable.update(ctx, db, c); err != nil {
			return err
		}
		if _, err := db.exec(ctx, "cluster", old.Name, "DELETE FROM `cluster_nodes` WHERE `cluster` = ?", old.Name); err != nil {
			return err
		}
		return db.claimNodes(ctx, c)
	})
}

// claimNodes writes the cluster's nodes where each node stands once only.
func (db *DB) claimNodes(ctx context.Context, c cache.Cluster) error {
	seen := map[string]bool{}
	for _, node := range c.Nodes {
		if seen[node] {
			continue
		}
		seen[node] = true
		_, err := db.exec(ctx, "node", node, "INSERT INTO `cluster_nodes` (`node`, `cluster`) VALUES (?, ?)", node, c.Name)
		if errs.Is(err, errs.Conflict) {
			return errs.Wrap(err, errs.Conflict, "kiln.cluster.node_taken", "node %s is in another cluster", node).At(errs.Where{Field: "nodes"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FindCluster implements cache.Store.
func (db *DB) FindCluster(ctx context.Context, name string) (cache.Cluster, error) {
	return clusterTable.find(ctx, db, name, map[string]string{"name": name})
}

// ClusterOfNode implements cache.Store.
func (db *DB) ClusterOfNode(ctx context.Context, node string) (cache.Cluster, error) {
	cs, err := clusterTable.query(ctx, db, " WHERE `clusters`.`name` = (SELECT `cluster` FROM `cluster_nodes` WHERE `node` = ?)", node)
	if err != nil {
		return cache.Cluster{}, err
	}
	if len(cs) == 0 {
		return cache.Cluster{}, notFound("cluster", "of node "+node)
	}
	return cs[0], nil
}

// ListClusters implements cache.Store.
func (db *DB) ListClusters(ctx context.Context, q listing.Query) ([]cache.Cluster, error) {
	return clusterTable.list(ctx, db, q)
}

// DeleteCluster implements cache.Store.
func (db *DB) DeleteCluster(ctx context.Context, name string) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, "cluster", name, "DELETE FROM `clusters` WHERE `name` = ?", name)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("cluster", name)
		}
		copies, err := db.countOf(ctx, "copy", "SELECT COUNT(*) FROM `copies` WHERE `cluster` = ?", name)
		if err != nil {
			return err
		}
		if copies > 0 {
			return errs.New(errs.Conflict, "kiln.cluster.in_use", "cluster %s has %d copies: delete them first", name, copies)
		}
		_, err = db.exec(ctx, "cluster", name, "DELETE FROM `cluster_nodes` WHERE `cluster` = ?", name)
		return err
	})
}

// EnsureCopy implements cache.Store.
func (db *DB) EnsureCopy(ctx context.Context, c cache.Copy) (cache.Copy, error) {
	place := map[string]string{"cluster": c.Cluster, "store": c.Store, "node": c.Node, "image_id": c.ImageID}
	found, err := copyTable.find(ctx, db, c.ID, place)
	if !errs.Is(err, errs.NotFound) {
		return found, err
	}
	if c.ID == "" {
		c.ID = db.cfg.NewID()
	}
	if err := copyTable.insert(ctx, db, db.d.keep("id"), c); err != nil {
		return cache.Copy{}, err
	}
	return copyTable.find(ctx, db, c.ID, place)
}

// UpdateCopy implements cache.Store.
func (db *DB) UpdateCopy(ctx context.Context, c cache.Copy) error {
	return copyTable.update(ctx, db, c)
}

// FindCopy implements cache.Store.
func (db *DB) FindCopy(ctx context.Context, id string) (cache.Copy, error) {
	return copyTable.byID(ctx, db, id)
}

// ListCopies implements cache.Store.
func (db *DB) ListCopies(ctx context.Context, q listing.Query) ([]cache.Copy, error) {
	return copyTable.list(ctx, db, q)
}

// DeleteCopy implements cache.Store; no error where it is gone, because an eviction may run twice.
func (db *DB) DeleteCopy(ctx context.Context, id string) error {
	_, err := copyTable.delete(ctx, db, id)
	return err
}
