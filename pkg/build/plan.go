package build

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/job"
)

// PlanPayload is the input of a job.Plan.
type PlanPayload struct {
	RecipeID string `json:"recipe_id"`
}

// Plan is the result of a job.Plan: what a build of the recipe would do now, on the worker that looked.
type Plan struct {
	Commit      string        `json:"commit"`
	Builder     string        `json:"builder"`
	Worker      string        `json:"worker"`
	InputDigest string        `json:"input_digest"`
	Unchanged   string        `json:"unchanged"` // version that the same inputs made: a build would make nothing; "" for none
	Steps       []PlannedStep `json:"steps"`
}

// RequestPlan starts the job that finds out what a build would do; it builds nothing. A recipe with problems is refused
// with all of them.
func (s *Service) RequestPlan(ctx context.Context, by job.By, recipeID string) (job.Job, error) {
	var j job.Job
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		r, err := s.Store.FindRecipe(ctx, recipeID)
		if err != nil {
			return err
		}
		if err := problems(r); err != nil {
			return err
		}
		whole, err := s.resolved(ctx, r)
		if err != nil {
			return err
		}
		_, needs := needsOf(whole)
		j, err = s.Start(ctx, by, job.Draft{
			Kind: job.Plan, Queue: job.WorkerQueue, Needs: needs, ProjectID: r.ProjectID,
			Resource: "recipes/" + r.ID, Payload: PlanPayload{RecipeID: r.ID},
		})
		return err
	})
	return j, err
}
