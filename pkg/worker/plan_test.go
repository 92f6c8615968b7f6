package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// plan asks for the plan of a recipe and lets the worker find it out.
func (s *shop) plan(r build.Recipe) build.Plan {
	s.t.Helper()
	j, err := s.builds.RequestPlan(s.t.Context(), s.by(), r.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	s.drain()
	if j, err = s.db.FindJob(s.t.Context(), j.ID); err != nil || j.State != job.Succeeded {
		s.t.Fatal(j.State, j.Error, err)
	}
	var p build.Plan
	if err := json.Unmarshal(j.Result, &p); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// planning is a builder whose second step is cached.
type planning struct{ *fakeBuilder }

func (planning) Plan(_ context.Context, req build.Request) ([]build.PlannedStep, error) {
	if req.Recipe.Name != "web" || req.Seed == "" {
		return nil, errors.New("the request is not that of a build")
	}
	return []build.PlannedStep{{Name: "bootstrap"}, {Name: "packages", Recipe: "web", Key: "sha256:1", Cached: true}}, nil
}

func TestPlanTellsWhatABuildWouldDo(t *testing.T) {
	s := newShop(t)
	s.deps.Name = "w1"
	s.deps.Builders = map[string]build.Builder{recipe.DefaultBuilder: planning{s.builder}}
	r := s.synced()
	before := s.plan(r)
	if before.Commit != "c1" || before.Worker != "w1" || before.Builder != "double" || before.InputDigest == "" || before.Unchanged != "" || len(before.Steps) != 2 || !before.Steps[1].Cached {
		t.Errorf("plan %+v", before)
	}
	if got := s.images(); len(got) != 0 {
		t.Errorf("a plan made images: %+v", got)
	}
	if all, err := s.db.ListBuilds(t.Context(), listing.All()); err != nil || len(all) != 0 {
		t.Errorf("a plan made builds: %+v, %v", all, err)
	}
	b := s.build(r, false)
	after := s.plan(r)
	if after.Unchanged != b.VersionName || b.VersionName == "" || after.InputDigest != before.InputDigest {
		t.Errorf("after the build of %s: %+v", b.VersionName, after)
	}
}
