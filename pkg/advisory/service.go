package advisory

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/job"
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
