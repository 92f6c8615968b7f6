package api

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func recipeProject(r build.Recipe) string { return r.ProjectID }
func buildProject(b build.Build) string   { return b.ProjectID }

func (a *api) listRecipes(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "recipes", a.Store.ListRecipes, func(r build.Recipe) string { return r.ID })
}

func (a *api) showRecipe(ctx context.Context, req *Request[None]) (Response, error) {
	r, err := owned(ctx, req, "recipe", req.Param("id"), a.Store.FindRecipe, recipeProject)
	return ok(r), err
}

// recipeText is a recipe that is in no source yet.
type recipeText struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// validateRecipe answers 400 with every fault of the text at once. What needs the whole repository
// (from another recipe, files) is found when its source is read.
func (a *api) validateRecipe(_ context.Context, req *Request[recipeText]) (Response, error) {
	path := req.Body.Path
	if path == "" {
		path = "recipe.yaml"
	}
	r, err := recipe.Parse(path, []byte(req.Body.Content))
	if err != nil {
		return Response{}, err
	}
	return ok(map[string]any{"recipe": r}), nil
}

func (a *api) listBuilds(ctx context.Context, req *Request[None]) (Response, error) {
	return page(ctx, req, "builds", a.Store.ListBuilds, func(b build.Build) string { return b.ID })
}

// newBuild names a recipe by its id, or by the names of its source and itself.
type newBuild struct {
	RecipeID string `json:"recipe_id"`
	Source   string `json:"source"`
	Recipe   string `json:"recipe"`
	Force    bool   `json:"force"`
}

func (a *api) createBuild(ctx context.Context, req *Request[newBuild]) (Response, error) {
	r, err := a.recipeOf(ctx, req)
	if err != nil {
		return Response{}, err
	}
	b, err := a.builds.RequestBuild(ctx, req.By, r.ID, req.Body.Force)
	return accepted("/v1/builds/"+b.ID, b), err
}

func (a *api) recipeOf(ctx context.Context, req *Request[newBuild]) (build.Recipe, error) {
	n := req.Body
	switch {
	case n.RecipeID != "" && n.Source == "" && n.Recipe == "":
		r, err := owned(ctx, req, "recipe", n.RecipeID, a.Store.FindRecipe, recipeProject)
		return r, inBody(err, "recipe_id")
	case n.RecipeID == "" && n.Source != "" && n.Recipe != "":
		return a.builds.RecipeByName(ctx, req.Caller.ProjectID, n.Source, n.Recipe)
	}
	return build.Recipe{}, errs.New(errs.Invalid, "kiln.build.recipe", "name a recipe by recipe_id, or by source and recipe").At(errs.Where{Field: "recipe_id"})
}

func (a *api) showBuild(ctx context.Context, req *Request[None]) (Response, error) {
	b, err := owned(ctx, req, "build", req.Param("id"), a.Store.FindBuild, buildProject)
	if err != nil {
		return Response{}, err
	}
	shown, err := a.waiting(ctx, b)
	return ok(shown), err
}

// inBody makes a thing that was named in the body and is not there a fault of the body: 404 is about the path.
func inBody(err error, field string) error {
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	return errs.New(errs.Invalid, errs.CodeOf(err), "%s", err.Error()).At(errs.Where{Field: field})
}
