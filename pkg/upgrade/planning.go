package upgrade

import (
	"context"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// PlanPayload is the input of a job.UpgradePlan.
type PlanPayload struct {
	ImageIDs []string `json:"image_ids"`
	Policy   Policy   `json:"policy"`
}

// maxPlanned bounds the images of one request.
const maxPlanned = 20_000

// Planning starts finding out what upgrades would do, and keeps the answers.
type Planning struct {
	job.Desk
	Plans PlanStore
}

// Request starts one job that plans the upgrade of the images under a policy. Nothing is changed but the plans that
// are kept, one for each image.
func (s *Planning) Request(ctx context.Context, by job.By, imageIDs []string, p Policy) (job.Job, error) {
	var j job.Job
	if err := p.Check(); err != nil {
		return j, err
	}
	ids := slices.Clone(imageIDs)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case len(ids) == 0:
		return j, errs.New(errs.Invalid, "kiln.plan.no_images", "there is no image to plan an upgrade for")
	case len(ids) > maxPlanned:
		return j, errs.New(errs.Invalid, "kiln.plan.too_many", "%d images are more than one request may have, which is %d", len(ids), maxPlanned)
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) (err error) {
		j, err = s.Start(ctx, by, job.Draft{
			Kind: job.UpgradePlan, Queue: job.WorkerQueue, ProjectID: by.ProjectID, Resource: "upgrades/plans", Payload: PlanPayload{ImageIDs: ids, Policy: p},
		})
		return err
	})
	return j, err
}

// FindPlan is the last plan of an image; errs.NotFound where none was made.
func (s *Planning) FindPlan(ctx context.Context, imageID string) (Plan, error) {
	return s.Plans.FindPlan(ctx, imageID)
}
