package cache

import (
	"context"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// WarmUpPayload is the input of a job.WarmUp.
type WarmUpPayload struct {
	CopyID string `json:"copy_id"`
}

// PlantPayload is the input of a job.Plant.
type PlantPayload struct {
	CopyID string `json:"copy_id"`
}

// EvictPayload is the input of a job.Evict.
type EvictPayload struct {
	CopyID string `json:"copy_id"`
	Spare  bool   `json:"spare,omitempty"` // a copy that clones hang on stays, and the job fails with CodeClones
}

// CodeClones is the code of an eviction that spared a copy, because disks are cloned from it.
const CodeClones = "kiln.copy.clones"

// Service keeps clusters and starts warm-ups.
type Service struct {
	job.Desk
	Store Store
}

// NewCluster is what a caller gives of a cluster.
type NewCluster struct {
	Name   string      `json:"name"`
	Nodes  []string    `json:"nodes"`
	Stores []StoreSpec `json:"stores"`
}

// Change is what a caller changes of a cluster; nil parts stay.
type Change struct {
	Nodes  *[]string    `json:"nodes"`
	Stores *[]StoreSpec `json:"stores"`
}

// CreateCluster makes a cluster. errs.Conflict where the name is taken or a node is in another cluster.
func (s *Service) CreateCluster(ctx context.Context, by job.By, n NewCluster) (Cluster, error) {
	now := s.Now().UTC()
	c := Cluster{ID: s.NewID(), Name: n.Name, Nodes: n.Nodes, Stores: n.Stores, CreatedAt: now, UpdatedAt: now}
	if err := check(c); err != nil {
		return Cluster{}, err
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.CreateCluster(ctx, c); err != nil {
			return err
		}
		return s.Tell(ctx, by, "cluster.created", "clusters/"+c.Name, "", c)
	})
	return c, err
}

// UpdateCluster changes nodes and stores. errs.Conflict where a node is in another cluster, or copies are in a
// store or on a node that would go.
func (s *Service) UpdateCluster(ctx context.Context, by job.By, name string, change Change) (Cluster, error) {
	var c Cluster
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if c, err = s.Store.FindCluster(ctx, name); err != nil {
			return err
		}
		if change.Nodes != nil {
			c.Nodes = *change.Nodes
		}
		if change.Stores != nil {
			c.Stores = *change.Stores
		}
		if err := check(c); err != nil {
			return err
		}
		if err := s.keepsCopies(ctx, c); err != nil {
			return err
		}
		c.UpdatedAt = s.Now().UTC()
		if err := s.Store.UpdateCluster(ctx, c); err != nil {
			return err
		}
		return s.Tell(ctx, by, "cluster.updated", "clusters/"+c.Name, "", c)
	})
	return c, err
}

// DeleteCluster removes a cluster. errs.Conflict while copies are in it.
func (s *Service) DeleteCluster(ctx context.Context, by job.By, name string) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		c, err := s.Store.FindCluster(ctx, name)
		if err != nil {
			return err
		}
		if err := s.Store.DeleteCluster(ctx, name); err != nil {
			return err
		}
		return s.Tell(ctx, by, "cluster.deleted", "clusters/"+name, "", c)
	})
}

func (s *Service) keepsCopies(ctx context.Context, c Cluster) error {
	for _, copied := range []struct {
		name  string
		taken func(Copy) bool
	}{
		{"store", func(p Copy) bool {
			return p.Node == "" && !slices.ContainsFunc(c.Stores, func(st StoreSpec) bool { return st.Name == p.Store })
		}},
		{"node", func(p Copy) bool { return p.Node != "" && !slices.Contains(c.Nodes, p.Node) }},
	} {
		lost, err := s.first(ctx, c.Name, copied.taken)
		if err != nil {
			return err
		}
		if lost != nil {
			return errs.New(errs.Conflict, "kiln.cluster.copies", "copy %s of image %s is in a %s that would leave cluster %s: delete the copy first",
				lost.ID, lost.ImageID, copied.name, c.Name)
		}
	}
	return nil
}

func check(c Cluster) error {
	if err := job.CheckName("kiln.cluster.name", "name", c.Name); err != nil {
		return err
	}
	for i, node := range c.Nodes {
		field := "nodes[" + strconv.Itoa(i) + "]"
		if node == "" || len(node) > 255 {
			return errs.New(errs.Invalid, "kiln.cluster.node", "a node's name has 1 to 255 characters").At(errs.Where{Field: field})
		}
		if slices.Contains(c.Nodes[:i], node) {
			return errs.New(errs.Invalid, "kiln.cluster.node", "node %q is named twice", node).At(errs.Where{Field: field})
		}
	}
	for i, st := range c.Stores {
		field := "stores[" + strconv.Itoa(i) + "]"
		if err := job.CheckName("kiln.cluster.store", field+".name", st.Name); err != nil {
			return err
		}
		same := func(o StoreSpec) bool { return o.Name == st.Name }
		switch {
		case st.Name == NovaCache:
			return errs.New(errs.Invalid, "kiln.cluster.store", "%q is the name of Nova's own caches", st.Name).At(errs.Where{Field: field + ".name"})
		case slices.ContainsFunc(c.Stores[:i], same):
			return errs.New(errs.Invalid, "kiln.cluster.store", "store %q is named twice", st.Name).At(errs.Where{Field: field + ".name"})
		case st.Type != "ceph" && st.Type != "directory":
			return errs.New(errs.Invalid, "kiln.cluster.store", "the type of a store is ceph or directory").At(errs.Where{Field: field + ".type"})
		case st.Type == "ceph" && st.Pool == "":
			return errs.New(errs.Invalid, "kiln.cluster.store", "a ceph store needs its pool").At(errs.Where{Field: field + ".pool"})
		}
	}
	return nil
}
