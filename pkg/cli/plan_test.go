package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/cli"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func local(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := cli.New(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// Every fault of a folder is told at once, those that only the whole folder shows too.
func TestValidateTellsEveryFaultOfAFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"recipes/base.yaml":  "name: base\nfrom: {release: bookworm}\n",
		"recipes/bad.yaml":   "name: bad\nfrom: {release: bookworm}\npakages: [x]\ndisk: {firmware: efi}\n",
		"recipes/child.yaml": "name: child\nfrom: {recipe: bad}\n",
		"recipes/web.yaml":   "name: web\nfrom: {recipe: base}\nfiles: [{path: /x, source: files/none}]\n",
		"recipes/base.lock":  "release: 7\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := local(t, "recipe", "validate", dir)
	if err == nil || !strings.Contains(err.Error(), "3 of 4 recipes are faulty") {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{
		"recipes/bad.yaml:3: pakages: unknown field", "recipes/bad.yaml:4: disk.firmware: \"efi\"", "recipes/child.yaml:2: from.recipe: ",
		"recipes/web.yaml:3: files[0].source: \"files/none\" cannot be read", "recipes/base.lock:1: release: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
	if _, err := local(t, "recipe", "validate", filepath.Join(dir, "recipes", "bad.yaml")); err == nil || !strings.Contains(err.Error(), "bad.yaml:3") {
		t.Errorf("one file: %v", err)
	}
	if out, err := local(t, "recipe", "validate", filepath.Join(dir, "recipes", "base.yaml")); err != nil || out != "no faults\n" {
		t.Errorf("one good file: %q, %v", out, err)
	}
	schema, err := local(t, "recipe", "schema")
	if want, werr := recipe.Schema(); err != nil || werr != nil || schema != string(want) {
		t.Errorf("schema: %v, %v", err, werr)
	}
}

// A plan is asked for, found out by a worker, and shown; what builds said is read and searched.
func TestPlanAndLogsOnTheCommandLine(t *testing.T) {
	k := start(t)
	ctx, db := t.Context(), k.parts.DB
	var f catalog.Family
	if err := json.Unmarshal([]byte(k.run("family", "create", "--name", "web", "-f", "json")), &f); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spec, err := recipe.Parse("recipes/web.yaml", []byte("name: web\nfrom: {release: bookworm}\n"))
	must(err)
	must(db.CreateSource(ctx, build.Source{ID: "s", ProjectID: f.ProjectID, Name: "main", State: build.SourceReady, CreatedAt: now, UpdatedAt: now}))
	must(db.ReplaceRecipes(ctx, "s", []build.Recipe{{ID: "r", ProjectID: f.ProjectID, Name: "web", Path: "recipes/web.yaml", Commit: "c1", Spec: spec, Problems: []build.Problem{}, UpdatedAt: now}}))
	done := make(chan error, 2)
	// work ends the next job as a worker would.
	work := func(result any, lines ...string) {
		go func() {
			var j *job.Job
			var err error
			for j == nil && err == nil && ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				j, err = db.LeaseJob(ctx, []job.Queue{job.WorkerQueue}, []string{"builder=native"}, "w", time.Now(), time.Now().Add(time.Minute))
			}
			if err != nil || j == nil {
				done <- err
				return
			}
			for i, text := range lines {
				err = db.AppendJobLog(ctx, j.ID, []job.LogLine{{Seq: int64(i + 1), At: time.Now(), Level: "info", Text: text}})
			}
			out, _ := json.Marshal(result)
			if err == nil {
				err = db.FinishJob(ctx, j.ID, "w", time.Now(), job.Outcome{State: job.Succeeded, Result: out}, nil)
			}
			done <- err
		}()
	}
	plan := build.Plan{Commit: "c1", Builder: "native", Worker: "w1", Unchanged: "20260301.1",
		Steps: []build.PlannedStep{{Name: "bootstrap", Key: "sha256:0123456789abcdef0123456789abcdef", Cached: true}, {Name: "packages", Recipe: "web"}}}
	work(plan)
	out := k.run("recipe", "plan", "main", "web")
	must(<-done)
	for _, want := range []string{"bootstrap", "cached", "sha256:0123456789ab", "packages", "worker w1", "unchanged since version 20260301.1"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
	work(plan)
	var got build.Plan
	must(json.Unmarshal([]byte(k.run("recipe", "plan", "main", "web", "-o", "json")), &got))
	must(<-done)
	if len(got.Steps) != 2 || !got.Steps[0].Cached || got.Unchanged != "20260301.1" {
		t.Errorf("as JSON: %+v", got)
	}
	if _, err := k.try("recipe", "plan", "main", "nobody"); err == nil || !strings.Contains(err.Error(), "no recipe") {
		t.Errorf("a recipe that is not there: %v", err)
	}
	k.run("build", "create", "--source", "main", "--recipe", "web", "--no-wait")
	builds, err := db.ListBuilds(ctx, listing.All())
	if err != nil || len(builds) != 1 {
		t.Fatal(builds, err)
	}
	work(nil, "Unpacking nginx", "all is well")
	if out := k.run("build", "log", builds[0].ID, "--follow"); !strings.Contains(out, "Unpacking nginx") || !strings.Contains(out, "all is well") {
		t.Errorf("followed log\n%s", out)
	}
	must(<-done)
	if out := k.run("build", "log", builds[0].ID); strings.Count(out, "\n") != 2 {
		t.Errorf("log\n%s", out)
	}
	if out := k.run("build", "search", "NGINX"); !strings.Contains(out, "Unpacking nginx") || !strings.Contains(out, "builds/"+builds[0].ID) || strings.Contains(out, "well") {
		t.Errorf("search\n%s", out)
	}
	if out := k.run("build", "list", "--filter", "trigger=person"); !strings.Contains(out, builds[0].ID) {
		t.Errorf("by trigger\n%s", out)
	}
}
