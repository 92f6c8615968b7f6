package engine

import (
	"context"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// instance is a server or container as its manager tells it.
type instance struct {
	id     string
	host   string
	status status
	reason string
	key    string // the workload that it was made for
}

// status is what matters of a manager's many words for states.
type status int

const (
	starting status = iota
	active
	broken
)

// manager is Nova or Zun, as placing needs them.
type manager interface {
	// find returns what carries the workload's key: at most one, because nothing else writes the key.
	find(ctx context.Context, w placement.Workload) (*instance, error)
	// keyed returns everything of a project that Kiln made.
	keyed(ctx context.Context, projectID string) ([]instance, error)
	create(ctx context.Context, w placement.Workload, n placement.Node) (instance, error)
	get(ctx context.Context, w placement.Workload, id string) (instance, error)
	remove(ctx context.Context, w placement.Workload, id string) error
}

type servers struct{ nova placement.Nova }

func (s servers) find(ctx context.Context, w placement.Workload) (*instance, error) {
	found, err := s.nova.ServersByKey(ctx, w.ProjectID, w.ID)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	i := serverInstance(found[0])
	return &i, nil
}

func (s servers) keyed(ctx context.Context, projectID string) ([]instance, error) {
	found, err := s.nova.ServersByKey(ctx, projectID, "")
	all := make([]instance, len(found))
	for i, v := range found {
		all[i] = serverInstance(v)
	}
	return all, err
}

func (s servers) create(ctx context.Context, w placement.Workload, n placement.Node) (instance, error) {
	made, err := s.nova.CreateServer(ctx, w.ProjectID, placement.NewServer{
		Name: w.Name, ImageID: w.ImageID, FlavorID: w.Flavor, Host: n.NovaHost,
		Metadata: map[string]string{placement.KeyWorkload: w.ID},
	})
	return serverInstance(made), err
}

func (s servers) get(ctx context.Context, w placement.Workload, id string) (instance, error) {
	got, err := s.nova.Server(ctx, w.ProjectID, id)
	return serverInstance(got), err
}

func (s servers) remove(ctx context.Context, w placement.Workload, id string) error {
	return s.nova.DeleteServer(ctx, w.ProjectID, id)
}

func serverInstance(s placement.Server) instance {
	i := instance{id: s.ID, host: s.Host, reason: s.Fault, key: s.Metadata[placement.KeyWorkload]}
	switch s.Status {
	case "ACTIVE":
		i.status = active
	case "ERROR":
		i.status = broken
	}
	return i
}

type containers struct{ zun placement.Zun }

var errNoZun = errs.New(errs.Conflict, "kiln.placement.no_zun", "this cloud has no container service (Zun)")

func (c containers) find(ctx context.Context, w placement.Workload) (*instance, error) {
	if c.zun == nil {
		return nil, errNoZun
	}
	found, err := c.zun.ContainersByKey(ctx, w.ProjectID, w.ID)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	i := containerInstance(found[0])
	return &i, nil
}

func (c containers) keyed(ctx context.Context, projectID string) ([]instance, error) {
	if c.zun == nil {
		return nil, nil
	}
	found, err := c.zun.ContainersByKey(ctx, projectID, "")
	all := make([]instance, len(found))
	for i, v := range found {
		all[i] = containerInstance(v)
	}
	return all, err
}

func (c containers) create(ctx context.Context, w placement.Workload, n placement.Node) (instance, error) {
	ask := placement.NewContainer{
		Name: w.Name, Image: w.ImageRef, ImageDriver: "docker", Host: n.ZunHost, Command: w.Command,
		CPU: float64(w.Resources.VCPUs), MemoryMB: w.Resources.MemoryMB, DiskGB: w.Resources.DiskGB,
		Labels: map[string]string{placement.KeyWorkload: w.ID},
	}
	if w.ImageRef == "" {
		ask.Image, ask.ImageDriver = w.ImageID, "glance"
	}
	made, err := c.zun.CreateContainer(ctx, w.ProjectID, ask)
	return containerInstance(made), err
}

func (c containers) get(ctx context.Context, w placement.Workload, id string) (instance, error) {
	if c.zun == nil {
		return instance{}, errNoZun
	}
	got, err := c.zun.Container(ctx, w.ProjectID, id)
	return containerInstance(got), err
}

func (c containers) remove(ctx context.Context, w placement.Workload, id string) error {
	if c.zun == nil {
		return errNoZun
	}
	return c.zun.DeleteContainer(ctx, w.ProjectID, id)
}

// containerInstance reads Zun's words. A container that ended by itself (Stopped) did start, so it counts as active;
// one that stays in Created never ran its command and is given the whole waiting time.
func containerInstance(c placement.ContainerInfo) instance {
	i := instance{id: c.ID, host: c.Host, reason: c.Reason, key: c.Labels[placement.KeyWorkload]}
	switch strings.ToLower(c.Status) {
	case "running", "stopped", "paused":
		i.status = active
	case "error", "dead", "deleted", "unknown":
		i.status = broken
	}
	return i
}
