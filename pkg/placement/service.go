package placement

import (
	"context"
	"errors"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// PlacePayload is the input of a job.Place.
type PlacePayload struct {
	WorkloadID string `json:"workload_id"`
}

// RemovePayload is the input of a job.Remove.
type RemovePayload struct {
	WorkloadID string `json:"workload_id"`
}

// Service starts and removes workloads; the engine does the work.
type Service struct {
	job.Desk
	Store   Store
	Catalog catalog.Store
	// DefaultFamily stands in for a family, channel or version that does not exist; the workload's note says so.
	// "" refuses instead.
	DefaultFamily catalog.FamilyName
}

// NewWorkload is what a caller asks for. Exactly one of Family, ImageID and ImageRef names what runs.
type NewWorkload struct {
	Name      string             `json:"name"`
	Kind      Kind               `json:"kind"`
	Family    catalog.FamilyName `json:"family"`
	Channel   string             `json:"channel"`
	ImageID   string             `json:"image_id"`
	ImageRef  string             `json:"image_ref"`
	Command   []string           `json:"command"`
	Flavor    string             `json:"flavor"`
	Cluster   string             `json:"cluster"`
	Node      string             `json:"node"`
	Resources Resources          `json:"resources"`
}

// CreateWorkload writes a workload in the caller's project and the job that places it. The family and channel
// mean a version from this moment on; what a channel points to later does not change it.
func (s *Service) CreateWorkload(ctx context.Context, by job.By, n NewWorkload) (Workload, error) {
	if err := n.check(); err != nil {
		return Workload{}, err
	}
	now := s.Now().UTC()
	asked := Workload{
		ID: s.NewID(), ProjectID: by.ProjectID, UserID: by.UserID, Name: n.Name, Kind: n.Kind, Family: n.Family, Channel: n.Channel,
		ImageID: n.ImageID, ImageRef: n.ImageRef, Command: n.Command, Flavor: n.Flavor, Cluster: n.Cluster, Node: n.Node,
		Resources: n.Resources, State: Requested, JobID: s.NewID(), CreatedAt: now, UpdatedAt: now,
	}
	var w Workload
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		w = asked // the transaction may run more than once
		if err := s.resolve(ctx, &w); err != nil {
			return err
		}
		if err := s.Store.CreateWorkload(ctx, w); err != nil {
			return err
		}
		if err := s.start(ctx, by, w, job.Place, PlacePayload{WorkloadID: w.ID}); err != nil {
			return err
		}
		return s.Tell(ctx, by, "workload.requested", "workloads/"+w.ID, w.ProjectID, w)
	})
	return w, err
}

// resolve finds the version that the family and channel mean, or that of the configured default.
func (s *Service) resolve(ctx context.Context, w *Workload) error {
	if w.Family == "" {
		return s.mayStart(ctx, w.ImageID)
	}
	v, note, err := catalog.Resolve(ctx, s.Catalog, w.ProjectID, w.Family, w.Channel)
	if errs.Is(err, errs.NotFound) && s.DefaultFamily != "" {
		asked := strings.TrimSuffix(string(w.Family)+" "+w.Channel, " ")
		if v, note, err = catalog.Resolve(ctx, s.Catalog, w.ProjectID, s.DefaultFamily, ""); err == nil {
			note = strings.TrimSuffix("there is no "+asked+"; the default family "+string(s.DefaultFamily)+" was used. "+note, " ")
			note = strings.TrimSuffix(note, ".")
		}
	}
	if errs.Is(err, errs.NotFound) {
		return errs.New(errs.Invalid, "kiln.workload.family", "there is no version %q of a family %q in your project", w.Channel, w.Family).
			At(errs.Where{Field: "family"})
	}
	if err != nil {
		return err
	}
	w.Family, w.Version, w.Note = v.Family, v.Name, note
	w.ImageID, err = ImageOf(v, w.Kind)
	return err
}

// mayStart refuses the image of a version that is revoked or deleted.
func (s *Service) mayStart(ctx context.Context, imageID string) error {
	if imageID == "" {
		return nil
	}
	v, err := s.Catalog.VersionByImage(ctx, imageID)
	if errs.Is(err, errs.NotFound) {
		return nil // no version, or a container's: its engine finds out whether the image is there
	}
	if err != nil {
		return err
	}
	err = v.MayUse()
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.At(errs.Where{Field: "image_id"})
	}
	return err
}

// ImageOf is the image of a version that a workload of the kind starts from.
func ImageOf(v catalog.Version, k Kind) (string, error) {
	if k == Container {
		return v.ContainerImage()
	}
	return v.ImageID, nil
}

func (s *Service) start(ctx context.Context, by job.By, w Workload, kind job.Kind, payload any) error {
	_, err := s.Start(ctx, by, job.Draft{
		ID: w.JobID, Kind: kind, Queue: job.EngineQueue, ProjectID: w.ProjectID, Resource: "workloads/" + w.ID, Payload: payload,
	})
	return err
}

// DeleteWorkload starts the removal of a workload and stops its placing. Again while it is under way joins the job;
// errs.Conflict where it is deleted already.
func (s *Service) DeleteWorkload(ctx context.Context, by job.By, id string) (Workload, error) {
	var w Workload
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if w, err = s.Store.FindWorkload(ctx, id); err != nil {
			return err
		}
		switch w.State {
		case Deleted:
			return errs.New(errs.Conflict, "kiln.workload.deleted", "workload %s is deleted already", id)
		case Deleting:
			if open, err := s.Open(ctx, w.JobID); err != nil || open != nil {
				return err
			}
		default:
			if _, err := s.Stop(ctx, w.JobID); err != nil {
				return err
			}
		}
		from := w.State
		w.State, w.Error, w.JobID, w.UpdatedAt = Deleting, "", s.NewID(), s.Now().UTC()
		if err := s.Store.UpdateWorkload(ctx, w, from); err != nil {
			return err
		}
		if err := s.start(ctx, by, w, job.Remove, RemovePayload{WorkloadID: w.ID}); err != nil {
			return err
		}
		return s.Tell(ctx, by, "workload.deleting", "workloads/"+w.ID, w.ProjectID, w)
	})
	return w, err
}

// PlaceCancelled writes the end of a workload whose placing was cancelled before it ran.
func (s *Service) PlaceCancelled(ctx context.Context, by job.By, j job.Job) error {
	return s.cancelled(ctx, by, j, "cancelled on request before it was placed")
}

// RemoveCancelled tells that a workload was not removed: what runs of it still runs, and may be deleted again.
func (s *Service) RemoveCancelled(ctx context.Context, by job.By, j job.Job) error {
	return s.cancelled(ctx, by, j, "its removal was cancelled: delete it again")
}

func (s *Service) cancelled(ctx context.Context, by job.By, j job.Job, why string) error {
	var p PlacePayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	w, err := s.Store.FindWorkload(ctx, p.WorkloadID)
	if err != nil || w.JobID != j.ID {
		return err
	}
	w.State, w.Error, w.UpdatedAt = Errored, why, s.Now().UTC()
	if err := s.Store.UpdateWorkload(ctx, w); err != nil {
		return err
	}
	return s.Tell(ctx, by, "workload.error", "workloads/"+w.ID, w.ProjectID, w)
}

func (n NewWorkload) check() error {
	if err := job.CheckName("kiln.workload.name", "name", n.Name); err != nil {
		return err
	}
	refuse := func(field, detail string) error {
		return errs.New(errs.Invalid, "kiln.workload."+field, "%s", detail).At(errs.Where{Field: field})
	}
	named := 0
	for _, what := range []string{string(n.Family), n.ImageID, n.ImageRef} {
		if what != "" {
			named++
		}
	}
	switch {
	case n.Kind != VM && n.Kind != Container:
		return refuse("kind", "the kind of a workload is vm or container")
	case named != 1:
		return refuse("family", "name exactly one of family, image_id and image_ref")
	case n.Channel != "" && n.Family == "":
		return refuse("channel", "a channel or version needs its family")
	case n.Kind == VM && n.ImageRef != "":
		return refuse("image_ref", "a VM starts from a family or an image_id")
	case n.Kind == VM && n.Flavor == "":
		return refuse("flavor", "a VM needs the id or the name of a flavor")
	case n.Kind == VM && len(n.Command) > 0:
		return refuse("command", "only containers have a command")
	case n.Kind == VM && n.Resources != (Resources{}):
		return refuse("resources", "the resources of a VM are those of its flavor")
	case n.Kind == Container && n.Flavor != "":
		return refuse("flavor", "only VMs have a flavor; say resources")
	case n.Kind == Container && (n.Resources.VCPUs < 1 || n.Resources.MemoryMB < 4 || n.Resources.DiskGB < 0):
		return refuse("resources", "a container needs at least 1 vcpus and 4 memory_mb")
	}
	return nil
}
