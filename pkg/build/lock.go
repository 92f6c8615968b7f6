package build

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// LockPayload is the input of a job.Lock.
type LockPayload struct {
	RecipeID string `json:"recipe_id"`
}

// RequestLock starts the job that pins the packages of a recipe; its result holds the lock's text. Where one of the
// recipe is under way already, that job is joined. A recipe with problems is refused with all of them.
func (s *Service) RequestLock(ctx context.Context, by job.By, recipeID string) (job.Job, error) {
	var j job.Job
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		r, err := s.Store.FindRecipe(ctx, recipeID)
		if err != nil {
			return err
		}
		if err := problems(r); err != nil {
			return err
		}
		resource := "recipes/" + r.ID
		for _, state := range []job.State{job.Pending, job.Running} {
			open, err := s.Jobs.ListJobs(ctx, listing.Query{Limit: 1}.Where("kind", string(job.Lock)).Where("resource", resource).Where("state", string(state)))
			if err != nil {
				return err
			}
			if len(open) > 0 {
				j = open[0]
				return nil
			}
		}
		j, err = s.Start(ctx, by, job.Draft{
			Kind: job.Lock, Queue: job.WorkerQueue, Needs: r.Spec.Builder.Needs, ProjectID: r.ProjectID,
			Resource: resource, Payload: LockPayload{RecipeID: r.ID},
		})
		return err
	})
	return j, err
}
