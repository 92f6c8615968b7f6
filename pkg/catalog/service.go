package catalog

import (
	"context"
	"errors"
	"regexp"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// InspectPayload is the input of a job.Inspect.
type InspectPayload struct {
	ImageID string `json:"image_id"`
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
	if len(description) > 1024 {
		return Family{}, errs.New(errs.Invalid, "kiln.family.description", "a description has 1024 characters at most").At(errs.Where{Field: "description"})
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

var channelName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Promote lets the channel of a family point to one of its versions and returns the family as it is then.
// Promoting what stands there already changes nothing. errs.Conflict for a revoked version.
func (s *Service) Promote(ctx context.Context, by job.By, f Family, channel, version string) (Family, error) {
	out := f
	if !channelName.MatchString(channel) {
		return Family{}, errs.New(errs.Invalid, "kiln.channel.name",
			"%q is not the name of a channel: use 1 to 31 lower case letters, digits and dashes, beginning with a letter", channel).At(errs.Where{Field: "channel"})
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		v, err := s.Store.FindVersion(ctx, f.ID, version)
		if errs.Is(err, errs.NotFound) {
			return errs.New(errs.Invalid, "kiln.version.not_found", "family %s has no version %q", f.Name, version).At(errs.Where{Field: "version"})
		}
		if err != nil {
			return err
		}
		if v.State == Revoked {
			return errs.New(errs.Conflict, "kiln.version.revoked", "version %s of %s is revoked", version, f.Name)
		}
		before := f.Channels[channel]
		if before == version {
			return nil
		}
		if err := s.Store.SetChannel(ctx, f.ID, channel, version); err != nil {
			return err
		}
		if out, err = s.Store.FamilyByID(ctx, f.ID); err != nil {
			return err
		}
		return s.Tell(ctx, by, "family.promoted", "families/"+string(f.Name), f.ProjectID,
			map[string]string{"family": string(f.Name), "channel": channel, "version": version, "before": before})
	})
	return out, err
}

// Revoke forbids that a version is started or built from again; again is no error. errs.Conflict while a channel points to it.
func (s *Service) Revoke(ctx context.Context, by job.By, f Family, version string) (Version, error) {
	var v Version
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if v, err = s.Store.FindVersion(ctx, f.ID, version); err != nil || v.State == Revoked {
			return err
		}
		for channel, name := range f.Channels {
			if name == version {
				return errs.New(errs.Conflict, "kiln.version.in_channel", "channel %s points to version %s: promote another version first", channel, version)
			}
		}
		if err := s.Store.SetVersionState(ctx, v.ID, v.State, Revoked); err != nil {
			return err
		}
		v.State = Revoked
		return s.Tell(ctx, by, "version.revoked", "families/"+string(f.Name)+"/versions/"+version, f.ProjectID, v)
	})
	return v, err
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
	i = Image{ID: g.ID, ProjectID: g.Owner, Name: g.Name, State: Waiting, Size: g.Size, CreatedAt: g.CreatedAt.UTC(), UpdatedAt: s.Now().UTC()}
	if g.HashAlgo != "" && g.HashValue != "" {
		i.Digest = g.HashAlgo + ":" + g.HashValue
	}
	return i, nil
}

// Inspecting is an image with the job that reads its disk.
type Inspecting struct {
	Image
	JobID string `json:"job_id"`
}

// Inspect starts reading the disk of an image, which Kiln keeps from then on. What was known stays until then.
func (s *Service) Inspect(ctx context.Context, by job.By, i Image) (Inspecting, error) {
	out := Inspecting{Image: i}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		i.State, i.Reason, i.UpdatedAt = Waiting, "", s.Now().UTC()
		if err := s.Store.PutImage(ctx, i); err != nil {
			return err
		}
		j, err := s.Start(ctx, by, job.Draft{
			Kind: job.Inspect, Queue: job.WorkerQueue, ProjectID: i.ProjectID, Resource: "images/" + i.ID, Payload: InspectPayload{ImageID: i.ID},
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
