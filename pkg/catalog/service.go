package catalog

import (
	"context"
	"errors"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// InspectPayload is the input of a job.Inspect.
type InspectPayload struct {
	ImageID string `json:"image_id"`
	All     bool   `json:"all,omitempty"` // also the facts for which much of the image is read
}

// ImageFinder is the one thing that the service asks of Glance.
type ImageFinder interface {
	Image(ctx context.Context, id string) (GlanceImage, error)
}

// Service keeps families and channels, and has images inspected.
type Service struct {
	job.Desk
	Store  Store
	Glance ImageFinder // nil: only images that Kiln knows
}

// CreateFamily makes a family in the caller's project. errs.Conflict where the name is taken there.
func (s *Service) CreateFamily(ctx context.Context, by job.By, name FamilyName, description string) (Family, error) {
	if err := name.Check(); err != nil {
		if e, ok := errors.AsType[*errs.Error](err); ok {
			e.Where.Field = "name" // the caller's word for it; recipes say family
		}
		return Family{}, err
	}
	if err := checkDescription(description); err != nil {
		return Family{}, err
	}
	now := s.Now().UTC()
	f := Family{ID: s.NewID(), ProjectID: by.ProjectID, Name: name, Description: description, Channels: map[string]string{}, CreatedAt: now, UpdatedAt: now}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.CreateFamily(ctx, f); err != nil {
			return err
		}
		return s.Tell(ctx, by, "family.created", "families/"+string(f.Name), f.ProjectID, f)
	})
	return f, err
}

func checkDescription(text string) error {
	if len(text) > 1024 {
		return errs.New(errs.Invalid, "kiln.family.description", "a description has 1024 characters at most").At(errs.Where{Field: "description"})
	}
	return nil
}

// FindImage finds an image: one that Kiln knows, or else one that Glance knows (not kept then).
// Its ProjectID is Glance's owner.
func (s *Service) FindImage(ctx context.Context, id string) (Image, error) {
	i, err := s.Store.FindImage(ctx, id)
	if err == nil || !errs.Is(err, errs.NotFound) || s.Glance == nil {
		return i, err
	}
	g, err := s.Glance.Image(ctx, id)
	if err != nil {
		return Image{}, err
	}
	return ImageOf(g, s.Now()), nil
}

// imageLister is a Glance that can be asked for more than one image.
type imageLister interface {
	Images(ctx context.Context, filter map[string]string) ([]GlanceImage, error)
}

// Lint holds an image, as Glance has it now, against the metadata standard: see Lint and LintReport.Unique.
func (s *Service) Lint(ctx context.Context, id string) (LintReport, error) {
	if s.Glance == nil {
		return LintReport{}, errs.New(errs.Unavailable, "kiln.image.no_glance", "the image service is not known here")
	}
	g, err := s.Glance.Image(ctx, id)
	if err != nil {
		return LintReport{}, err
	}
	r := Lint(g, s.Now())
	if all, can := s.Glance.(imageLister); can && generic(g) {
		same := map[string]string{"visibility": "public", "os_hidden": "false", "os_purpose": "generic"}
		for _, name := range []string{"os_distro", "os_version", "architecture"} {
			if value := g.Properties[name]; value != "" {
				same[name] = value
			}
		}
		others, err := all.Images(ctx, same)
		if err != nil {
			return LintReport{}, err
		}
		r.Unique(g, others)
	}
	return r, nil
}

// Inspecting is an image with the job that reads its disk.
type Inspecting struct {
	Image
	JobID string `json:"job_id"`
}

// Inspect starts reading the disk of an image, which Kiln keeps from then on. What was known stays until then.
func (s *Service) Inspect(ctx context.Context, by job.By, i Image) (Inspecting, error) {
	if i.State == Gone {
		return Inspecting{}, errs.New(errs.Conflict, "kiln.image.deleted", "image %s was deleted in Glance", i.ID)
	}
	out := Inspecting{Image: i}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		i.State, i.Reason, i.UpdatedAt = Waiting, "", s.Now().UTC()
		if err := s.Store.PutImage(ctx, i); err != nil {
			return err
		}
		j, err := s.Start(ctx, by, job.Draft{
			Kind: job.Inspect, Queue: job.WorkerQueue, ProjectID: i.ProjectID, Resource: "images/" + i.ID, Payload: InspectPayload{ImageID: i.ID, All: true},
		})
		if err != nil {
			return err
		}
		out = Inspecting{Image: i, JobID: j.ID}
		return s.Tell(ctx, by, "image.inspecting", "images/"+i.ID, i.ProjectID, map[string]string{"id": i.ID, "job_id": j.ID})
	})
	return out, err
}

// InspectCancelled puts an image back to what its facts say after its job was cancelled before it ran.
func (s *Service) InspectCancelled(ctx context.Context, by job.By, j job.Job) error {
	var p InspectPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	i, err := s.Store.FindImage(ctx, p.ImageID)
	if err != nil || i.Facts == nil {
		return err
	}
	i.State, i.UpdatedAt = Inspected, s.Now().UTC()
	if err := s.Store.PutImage(ctx, i); err != nil {
		return err
	}
	return s.Tell(ctx, by, "image.inspect_cancelled", "images/"+i.ID, i.ProjectID, map[string]string{"id": i.ID})
}
