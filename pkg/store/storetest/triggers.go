package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/store"
)

func testTriggers(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.CreateSource(ctx, build.Source{ID: "s1", ProjectID: "p1", Name: "s", CreatedAt: base, UpdatedAt: base}))
	row := build.Recipe{ID: "r1", ProjectID: "p1", Name: "web", Path: "web.yaml", Problems: []build.Problem{}, UpdatedAt: base}
	must(t, db.ReplaceRecipes(ctx, "s1", []build.Recipe{row}))
	must(t, db.LockRecipe(ctx, "r1"))
	wantErr(t, db.LockRecipe(ctx, "r2"), errs.NotFound, "kiln.recipe.not_found")
	if a, err := db.FindAgain(ctx, "r1"); err != nil || a != nil {
		t.Fatalf("no mark yet: %v, %v", a, err)
	}
	again := build.Again{RecipeID: "r1", Trigger: build.ByPush, Reason: "push", UserID: "u1", RequestID: "req-1", At: base}
	must(t, db.SetAgain(ctx, again))
	// Reading the source again keeps the mark: the row is the same.
	must(t, db.ReplaceRecipes(ctx, "s1", []build.Recipe{row}))
	got, err := db.FindAgain(ctx, "r1")
	must(t, err)
	equal(t, *got, again)
	all, err := db.ListAgain(ctx, 10)
	must(t, err)
	equal(t, all, []build.Again{again})
	must(t, db.ClearAgain(ctx, "r1"))
	must(t, db.ClearAgain(ctx, "r1"))
	if all, err := db.ListAgain(ctx, 10); err != nil || len(all) != 0 {
		t.Fatalf("cleared: %v, %v", all, err)
	}
	wantErr(t, db.SetAgain(ctx, build.Again{RecipeID: "r2"}), errs.NotFound, "kiln.recipe.not_found")

	first := build.Mark{Kind: build.BySchedule, Key: "0 3 * * *", FiredAt: base}
	must(t, db.NoteMark(ctx, "r1", first))
	must(t, db.NoteMark(ctx, "r1", build.Mark{Kind: build.ByBase, Key: "f/1", FiredAt: base}))
	first.FiredAt = at(60)
	must(t, db.NoteMark(ctx, "r1", first))
	marks, err := db.ListMarks(ctx, "r1", build.BySchedule)
	must(t, err)
	equal(t, marks, []build.Mark{first})
	must(t, db.ForgetMarks(ctx, "r1", build.BySchedule, "other"))
	if marks, err := db.ListMarks(ctx, "r1", build.BySchedule); err != nil || len(marks) != 0 {
		t.Fatalf("forgotten: %v, %v", marks, err)
	}
	must(t, db.ReplaceRecipes(ctx, "s1", nil)) // the recipe is gone, and its marks with it
	if marks, err := db.ListMarks(ctx, "r1", build.ByBase); err != nil || len(marks) != 0 {
		t.Fatalf("of a recipe that is gone: %v, %v", marks, err)
	}
	testJoinBuild(t, db)
}

func testJoinBuild(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := t.Context()
	must(t, db.AddJob(ctx, newJob("j1", job.WorkerQueue, base)))
	b := build.Build{ID: "b1", ProjectID: "p1", Recipe: "web", State: build.Queued, Trigger: build.ByPush, Reason: "one", Needs: []string{"builder=native"}, JobID: "j1", CreatedAt: base, UpdatedAt: base}
	must(t, db.CreateBuild(ctx, b))
	b.Commit, b.Reason, b.Needs, b.UpdatedAt = "c2", "one; two", []string{"gpu"}, at(1)
	if joined, err := db.JoinBuild(ctx, b); err != nil || !joined {
		t.Fatal(joined, err)
	}
	j, err := db.FindJob(ctx, "j1")
	must(t, err)
	equal(t, j.Needs, []string{"gpu"})
	begun, err := db.BeginBuild(ctx, "b1", "w1", at(2))
	must(t, err)
	if begun.State != build.Running || begun.Worker != "w1" || begun.Commit != "c2" || begun.Reason != "one; two" {
		t.Fatalf("begun: %+v", begun)
	}
	b.Reason = "three"
	if joined, err := db.JoinBuild(ctx, b); err != nil || joined {
		t.Fatal("joined a build that runs", err)
	}
	begun.State, begun.Reason = build.Succeeded, "what a worker read long ago"
	must(t, db.UpdateBuild(ctx, begun))
	got, err := db.FindBuild(ctx, "b1")
	must(t, err)
	if got.State != build.Succeeded || got.Reason != "one; two" || got.Trigger != build.ByPush {
		t.Fatalf("updated: %+v", got)
	}
	_, err = db.BeginBuild(ctx, "b2", "w1", base)
	wantErr(t, err, errs.NotFound, "kiln.build.not_found")
}

func testUrgentFixes(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var all []advisory.Advisory
	var ps []advisory.Pending
	for i, urgency := range []string{"low", "high", "", "emergency"} {
		id := fmt.Sprintf("a%d", i)
		all = append(all, advisory.Advisory{ID: id, Package: "p" + id, Urgency: urgency, CVEs: []string{}, CreatedAt: base, UpdatedAt: base})
		ps = append(ps, advisory.Pending{AdvisoryID: id, Package: "p" + id})
	}
	must(t, db.PutAdvisories(ctx, all))
	must(t, db.ReplacePending(ctx, "i1", ps))
	must(t, db.ReplacePending(ctx, "i2", ps[:1]))
	got, err := db.UrgentFixes(ctx, "i1", []string{"high", "critical", "emergency"})
	must(t, err)
	equal(t, got, []build.Fix{{AdvisoryID: "a1", Package: "pa1", Urgency: "high"}, {AdvisoryID: "a3", Package: "pa3", Urgency: "emergency"}})
	for image, urgencies := range map[string][]string{"i2": {"high"}, "i1": nil} {
		if got, err := db.UrgentFixes(ctx, image, urgencies); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", image, got, err)
		}
	}
}

func testJobLogSearch(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 2)
	for i := range 2 {
		must(t, db.AppendJobLog(ctx, fmt.Sprintf("j%02d", i), []job.LogLine{
			{Seq: 1, At: at(10), Level: "info", Text: "Get:1 NGINX 50% of a_b"}, {Seq: 2, At: at(10), Level: "info", Text: "nginx is there!"}, {Seq: 3, At: at(20 + i), Level: "error", Text: "axb"},
		}))
	}
	find := func(q job.LogQuery) string {
		t.Helper()
		q.Limit = 100
		hits, err := db.SearchLog(ctx, q)
		must(t, err)
		var out strings.Builder
		for _, h := range hits {
			fmt.Fprintf(&out, "%s:%d ", h.JobID[2:], h.Seq)
		}
		return out.String()
	}
	marker := &job.LogHit{JobID: "j01", LogLine: job.LogLine{Seq: 1, At: at(10)}}
	for what, c := range map[string]struct {
		q    job.LogQuery
		want string
	}{
		"all":         {job.LogQuery{}, "1:3 0:3 1:2 1:1 0:2 0:1 "},
		"case":        {job.LogQuery{Text: "nGinx"}, "1:2 1:1 0:2 0:1 "},
		"underline":   {job.LogQuery{Text: "a_b"}, "1:1 0:1 "},
		"per cent":    {job.LogQuery{Text: "50%"}, "1:1 0:1 "},
		"exclamation": {job.LogQuery{Text: "there!"}, "1:2 0:2 "},
		"job":         {job.LogQuery{JobID: "j00", Text: "nginx"}, "0:2 0:1 "},
		"project":     {job.LogQuery{ProjectID: "p2"}, ""},
		"since":       {job.LogQuery{ProjectID: "p1", Since: at(21)}, "1:3 "},
		"until":       {job.LogQuery{Until: at(20), Text: "axb"}, ""},
		"marker":      {job.LogQuery{Marker: marker}, "0:2 0:1 "},
	} {
		if got := find(c.q); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

func testJobLogPrune(t *testing.T, db *store.DB) {
	ctx := t.Context()
	addJobs(t, db, 3) // j00 ended long ago, j01 a while ago, j02 runs still
	for i := range 3 {
		j := lease(t, db, "w", at(100))
		must(t, db.AppendJobLog(ctx, j.ID, []job.LogLine{{Seq: 1, At: at(i), Level: "info", Text: "x"}}))
		if i < 2 {
			must(t, db.FinishJob(ctx, j.ID, "w", at(100+1000*i), job.Outcome{State: job.Succeeded}, noApply))
		}
	}
	for _, want := range []int{1, 0} {
		n, err := db.PruneJobLogs(ctx, at(500))
		must(t, err)
		if n != want {
			t.Fatalf("%d logs removed, want %d", n, want)
		}
	}
	hits, err := db.SearchLog(ctx, job.LogQuery{Limit: 10, Since: base.Add(-time.Hour)})
	must(t, err)
	if len(hits) != 2 || hits[0].JobID != "j02" || hits[1].JobID != "j01" {
		t.Fatalf("left: %+v", hits)
	}
	if _, err := db.FindJob(ctx, "j00"); err != nil {
		t.Errorf("the job itself: %v", err)
	}
}
