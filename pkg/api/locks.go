package api

import "context"

// lockRecipe answers with the job: the lock is its result.
func (a *api) lockRecipe(ctx context.Context, req *Request[None]) (Response, error) {
	r, err := owned(ctx, req, "recipe", req.Param("id"), a.Store.FindRecipe, recipeProject)
	if err != nil {
		return Response{}, err
	}
	j, err := a.builds.RequestLock(ctx, req.By, r.ID)
	return accepted("/v1/jobs/"+j.ID, j), err
}
