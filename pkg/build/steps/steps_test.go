package steps_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

func lay(t *testing.T, plan ...recipe.Step) (string, *steps.Set) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "steps")
	set, err := steps.Lay(dir, "token", &recipe.Recipe{Path: "r.yaml", Plan: plan}, fstest.MapFS{"a": {Data: []byte("from {{.Values.x}}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	return dir, set
}

// Steps run one by one in a clean environment, and who watches knows which one failed, where it is written, and what
// it said last.
func TestStepsAreFollowed(t *testing.T) {
	target := filepath.Join(t.TempDir(), "sub", "it's")
	where := errs.Where{File: "r.yaml", Line: 7, Field: "files"}
	dir, set := lay(t,
		recipe.Step{Kind: recipe.StepFiles, Name: "files", Values: map[string]string{"x": "here"}, Files: []recipe.File{{Path: target, Source: "a", Template: true, Mode: "0640", Owner: owner(t)}}},
		recipe.Step{Kind: recipe.StepFiles, Name: "bad files", Where: where, Files: []recipe.File{{Path: "/proc/no/such", Content: "x"}}},
	)
	w := set.Watch()
	var begun []string
	w.Begun = func(_ int, s recipe.Step) { begun = append(begun, s.Name) }
	t.Setenv("TMPDIR", "/nowhere")
	for i := range set.Steps {
		out, err := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, steps.Runner), steps.Number(i)).CombinedOutput()
		if (err != nil) != (i == 1) {
			t.Fatalf("%d: %v %s", i, err, out)
		}
		for line := range strings.SplitSeq(string(out), "\n") {
			w.Line("    tool: " + line)
		}
	}
	got, err := os.ReadFile(target)
	info, statErr := os.Stat(target)
	if err != nil || string(got) != "from here\n" || statErr != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%q %v %v", got, err, info)
	}
	if strings.Join(begun, ",") != "files,bad files" || len(w.Took) != 2 {
		t.Errorf("begun %v, took %v", begun, w.Took)
	}
	var e *errs.Error
	if err := w.Explain(errors.New("exit 1")); !errors.As(err, &e) || e.Code != steps.CodeFile || e.Where != where || !strings.Contains(e.Detail, "/proc/no") {
		t.Errorf("%v", err)
	}
}

// owner is whoever runs the test, so that it needs no root.
func owner(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// Only the token tells of steps; a mirror that is away is nobody's fault, a missing package is the recipe's.
func TestWatchIsNotFooled(t *testing.T) {
	for said, kind := range map[string]errs.Kind{
		"E: Unable to locate package nope":                         errs.Invalid,
		"E: Failed to fetch http://mirror.example.org 502":         errs.Unavailable,
		"Temporary failure resolving 'mirror.example.org'":         errs.Unavailable,
		"token failed 009 1":                                       errs.Invalid, // no such step
		"other failed 001 1":                                       errs.Invalid,
		"token":                                                    errs.Invalid,
		"token failed x 1":                                         errs.Invalid,
		"kiln-build begin 001 and other lines that look like ours": errs.Invalid,
	} {
		_, set := lay(t, recipe.Step{Kind: recipe.StepPackages, Name: "packages", Packages: []string{"nope"}})
		w := set.Watch()
		for _, line := range []string{"token begin 001", said, "token failed 001 100"} {
			w.Line(line)
		}
		if err := w.Explain(errors.New("exit 1")); errs.KindOf(err) != kind || errs.CodeOf(err) != steps.CodePackages {
			t.Errorf("%s: %v", said, err)
		}
	}
	_, set := lay(t)
	plain := errors.New("the tool itself")
	if err := set.Watch().Explain(plain); !errors.Is(err, plain) {
		t.Errorf("%v", err)
	}
}

// A step whose file is missing or no template fails with its place before anything runs.
func TestLayNamesThePlace(t *testing.T) {
	where := errs.Where{File: "r.yaml", Line: 3, Field: "steps[0]"}
	for name, s := range map[string]recipe.Step{
		"no file":     {Kind: recipe.StepFiles, Files: []recipe.File{{Path: "/x", Source: "none"}}},
		"no script":   {Kind: recipe.StepScript, Source: "none"},
		"a folder":    {Kind: recipe.StepScript, Source: "."},
		"no template": {Kind: recipe.StepFiles, Files: []recipe.File{{Path: "/x", Content: "{{.Values.none}}", Template: true}}},
	} {
		s.Where = where
		_, err := steps.Lay(filepath.Join(t.TempDir(), "steps"), "token", &recipe.Recipe{Plan: []recipe.Step{s}}, fstest.MapFS{"x": {}})
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Where != where {
			t.Errorf("%s: %v", name, err)
		}
	}
}
