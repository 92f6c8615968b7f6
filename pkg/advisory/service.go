package advisory

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// JobPayload is the input of a job.Advisories. ImageIDs names images whose pending fixes are worked out again
// afterwards; empty means every inspected image.
type JobPayload struct {
	ImageIDs []string `json:"image_ids,omitempty"`
}

// Service starts reading the published fixes.
type Service struct {
	job.Desk
}

// Refresh starts reading the repositories' published fixes, or joins the job that does so already.
func (s *Service) Refresh(ctx context.Context, by job.By) (job.Job, error) {
	var out job.Job
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		open, err := s.OpenOf(ctx, job.Advisories)
		if err != nil {
			return err
		}
		if open != nil {
			out = *open
			return nil
		}
		out, err = s.Start(ctx, by, job.Draft{
			Kind: job.Advisories, Queue: job.WorkerQueue, ProjectID: by.ProjectID, Resource: "advisories", Payload: JobPayload{},
		})
		if err != nil {
			return err
		}
		return s.Tell(ctx, by, "advisory.refreshing", "advisories", by.ProjectID, out)
	})
	return out, err
}

// Images lists images without their facts.
type Images interface {
	ListImageHeads(ctx context.Context, q listing.Query) ([]catalog.Image, error)
}

// Schedule starts reading the published fixes every so often, where there is an image to compare with them. Any number
// of engines may run it: those that look at the same time start the same job.
type Schedule struct {
	*Service
	Images Images
	Every  time.Duration
}

// Round looks whether a reading is due. The first one is due when the oldest image has been known for as long.
func (s *Schedule) Round(ctx context.Context) error {
	newest := listing.Query{Limit: 1, Sort: []listing.Key{{Field: "created_at", Desc: true}}}
	last, err := s.Jobs.ListJobs(ctx, newest.Where("kind", string(job.Advisories)))
	if err != nil {
		return err
	}
	images, err := s.Images.ListImageHeads(ctx, listing.Query{Limit: 1, Sort: []listing.Key{{Field: "updated_at"}}}.Where("state", string(catalog.Inspected)))
	if err != nil || len(images) == 0 {
		return err
	}
	since := images[0].UpdatedAt
	if len(last) > 0 {
		if !last[0].State.Final() {
			return nil
		}
		since = last[0].CreatedAt
	}
	if s.Now().Sub(since) < s.Every {
		return nil
	}
	window := s.Now().UTC().Truncate(s.Every)
	by := job.By{RequestID: "req-" + s.NewID()}
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		j, err := s.Start(ctx, by, job.Draft{
			ID:   uuid.NewSHA1(uuid.NameSpaceURL, []byte("advisories "+window.Format(time.RFC3339))).String(),
			Kind: job.Advisories, Queue: job.WorkerQueue, Resource: "advisories", Payload: JobPayload{},
		})
		if err != nil {
			return err
		}
		return s.Tell(ctx, by, "advisory.refreshing", "advisories", "", j)
	})
}
