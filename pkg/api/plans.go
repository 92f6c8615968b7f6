package api

import (
	"context"
	"encoding/json"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// planRecipe answers with the job: the plan is its result.
func (a *api) planRecipe(ctx context.Context, req *Request[None]) (Response, error) {
	r, err := owned(ctx, req, "recipe", req.Param("id"), a.Store.FindRecipe, recipeProject)
	if err != nil {
		return Response{}, err
	}
	j, err := a.builds.RequestPlan(ctx, req.By, r.ID)
	return accepted("/v1/jobs/"+j.ID, j), err
}

func (a *api) showRecipeSchema(context.Context, *Request[None]) (Response, error) {
	schema, err := recipe.Schema()
	return ok(json.RawMessage(schema)), err
}
