// Package buildtest is the contract of build.Builder. Every builder passes the same suite, with the real tools: the
// right disk, faults that name their place, and nothing left on the host, whatever happens to a build.
package buildtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Harness is one builder with what differs between builders.
type Harness struct {
	Builder build.Builder
	// Base is what requests stand on; nil for a builder that makes images from a release.
	Base *build.Base
	// Kernel is a part of the version of the kernel that images have: "cloud-amd64".
	Kernel string
	// Settings are further lines of the recipes, YAML at the top level.
	Settings string
	// Files are further files of the repository, by path.
	Files map[string]string
	// Tree is what further files of the image have to contain.
	Tree map[string]string
	// Cancel is the beginning of a line of the log at which a build is cancelled.
	Cancel string
	// Kill are the moments at which a building process is killed.
	Kill []Moment
	// Other is a request with another InputState than that of the suite's own recipe; it is not built.
	Other func(build.Request) build.Request
}

// Moment is a moment of a build: a line of the log that begins so, and a program that runs for the build then.
type Moment struct {
	Line, Program string
}

// childDir names the folder of a build that is to be killed, for the child process that does it.
const childDir = "KILN_TEST_BUILD_DIR"

// text is a recipe with one step of each kind.
const text = `name: contract
from: {release: bookworm}
disk: {size: 3GiB}
values: {greeting: hello}
packages: [tree]
users:
  - name: alice
    groups: [staff]
    ssh_keys: ["ssh-ed25519 AAAAC3Nz it's me"]
files:
  - path: /etc/contract/plain
    source: files/plain
    owner: alice:staff
    mode: "4750"
  - path: /etc/contract/template
    content: "{{.Values.greeting}} from {{.Recipe}}\n"
    template: true
  - path: /etc/systemd/system/contract.service
    content: "[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
scripts:
  - name: stamp
    source: files/stamp
services:
  enable: [contract.service]
steps:
  - name: second stamp
    run: test -s /etc/contract/stamp && tree /etc/contract >/etc/contract/tree
`

var files = fstest.MapFS{
	"files/plain": {Data: []byte("it's plain\n")},
	"files/stamp": {Data: []byte("test -z \"$TMPDIR\"\ntest \"$HOME\" = /root\ngrep -c : /proc/net/dev >/etc/contract/interfaces\nid alice >/etc/contract/stamp\n")},
}

// Run runs the suite. It needs root and the builder's tools.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if dir := os.Getenv(childDir); dir != "" {
		victim(t, h, dir)
		return
	}
	t.Run("plan and input state", func(t *testing.T) { h.foresight(t) })
	t.Run("builds after a failure", func(t *testing.T) {
		t.Parallel()
		h.builds(t)
	})
	t.Run("no such package", func(t *testing.T) {
		t.Parallel()
		h.noPackage(t)
	})
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		h.cancels(t)
	})
	for _, m := range h.Kill {
		t.Run("kill while "+m.Program+" runs", func(t *testing.T) {
			t.Parallel()
			h.kill(t, m)
		})
	}
}

// Parse is a recipe as Set.Resolve gives it, in a repository with further files.
func Parse(t *testing.T, text string, more map[string]string) *recipe.Recipe {
	t.Helper()
	repository := fstest.MapFS{"recipes/contract.yaml": {Data: []byte(text)}}
	maps.Copy(repository, files)
	for name, text := range more {
		repository[name] = &fstest.MapFile{Data: []byte(text)}
	}
	set, err := recipe.Load(repository)
	if err != nil || len(set.Faults) > 0 {
		t.Fatal(err, set.Faults)
	}
	for name := range set.Recipes {
		r, err := set.Resolve(name)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Fatal("there is no recipe")
	return nil
}

func (h Harness) request(t *testing.T, text, dir string) build.Request {
	t.Helper()
	r := Parse(t, text+h.Settings, h.Files)
	if h.Base != nil {
		r.From = recipe.From{Family: h.Base.Family}
	}
	repository := fstest.MapFS{}
	maps.Copy(repository, files)
	for name, text := range h.Files {
		repository[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o755}
	}
	return build.Request{Recipe: r, Files: repository, Base: h.Base, WorkDir: dir, Output: filepath.Join(dir, "out.qcow2")}
}

// foresight: what a build will do, and from what, is known without building.
func (h Harness) foresight(t *testing.T) {
	req := h.request(t, text, t.TempDir())
	planned, err := h.Builder.Plan(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, p := range planned {
		if at < len(req.Recipe.Plan) && p.Name == req.Recipe.Plan[at].Name && p.Recipe == "contract" {
			at++
		}
	}
	if at != len(req.Recipe.Plan) {
		t.Errorf("the plan has not every step in order: %+v", planned)
	}
	first, err := h.Builder.InputState(t.Context(), req)
	if err != nil || first == "" {
		t.Fatal(first, err)
	}
	if again, err := h.Builder.InputState(t.Context(), req); err != nil || again != first {
		t.Errorf("nothing changed but the input state: %q, %q, %v", first, again, err)
	}
	if other, err := h.Builder.InputState(t.Context(), h.Other(req)); err != nil || other == first {
		t.Errorf("other inputs, equal state: %q, %v", other, err)
	}
	if entries := left(t, req.WorkDir); len(entries) > 0 {
		t.Errorf("asking left %v", entries)
	}
}

// builds lets a build fail in a script, and builds in the same folder.
func (h Harness) builds(t *testing.T) {
	dir := t.TempDir()
	bad := h.request(t, strings.Replace(text, "    source: files/stamp", "    run: echo the reason; exit 3", 1), dir)
	_, err := h.Builder.Build(t.Context(), bad)
	h.fault(t, err, "kiln.build.script", bad.Recipe.Plan[3].Where)
	if err != nil && !strings.Contains(err.Error(), "the reason") {
		t.Errorf("the script's last words are not told: %v", err)
	}
	if entries := left(t, dir); len(entries) > 0 {
		t.Fatalf("a failed build left %v", entries)
	}
	h.good(t, dir)
}

func (h Harness) good(t *testing.T, dir string) {
	req := h.request(t, text, dir)
	var log bytes.Buffer
	seen := map[string]bool{}
	req.Log = &log
	req.Progress = func(step string, _, _ int64, _ string) { seen[step] = true }
	start := time.Now()
	res, err := h.Builder.Build(t.Context(), req)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String()[max(0, log.Len()-4000):])
	}
	t.Logf("%s built in %s: %+v", h.Builder.Name(), time.Since(start).Round(time.Second), res.Steps)
	if entries := left(t, dir); !slices.Equal(entries, []string{"out.qcow2"}) {
		t.Errorf("left %v", entries)
	}
	for _, s := range req.Recipe.Plan {
		if !seen[s.Name] || !slices.ContainsFunc(res.Steps, func(b build.Step) bool { return b.Name == s.Name }) {
			t.Errorf("the step %q was not told: %v, %+v", s.Name, seen, res.Steps)
		}
	}
	if !strings.Contains(log.String(), "tree") {
		t.Error("the log says nothing of the package")
	}
	if res.Path != req.Output || res.Format != disk.Qcow2 || res.VirtualSize < 3<<30 || len(res.Materials) == 0 {
		t.Errorf("result %+v", res)
	}
	h.facts(t, res)
	checkTree(t, openTree(t, res.Path), h.Tree)
	boots(t, res.Path)
}

// facts holds what is read from the disk against what was asked for.
func (h Harness) facts(t *testing.T, res build.Result) {
	f, err := os.Open(res.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, info.Size(), res.Format)
	if err != nil {
		t.Fatal(err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(facts.Packages, func(p catalog.Package) bool { return p.Name == name })
	}
	if facts.OS.Codename != "bookworm" || facts.VirtualSize != res.VirtualSize || !has("tree") || !has("systemd-sysv") || facts.BootLoader != "grub" {
		t.Errorf("facts %+v %d %v %v %s", facts.OS, facts.VirtualSize, has("tree"), has("systemd-sysv"), facts.BootLoader)
	}
	if len(facts.Kernels) != 1 || !strings.Contains(facts.Kernels[0], h.Kernel) || !slices.Equal(facts.Kernels, facts.Initrds) {
		t.Errorf("kernels %v, initrds %v", facts.Kernels, facts.Initrds)
	}
	if facts.MachineID != "empty" {
		t.Errorf("the machine id is %s", facts.MachineID)
	}
}

// fault holds an error against the place that the step has in its file.
func (h Harness) fault(t *testing.T, err error, code string, where errs.Where) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Code != code || e.Where.File != where.File || e.Where.Line < where.Line || !strings.HasPrefix(e.Where.Field, where.Field) || where.Field == "" {
		t.Errorf("want %s at %s, not %v", code, where, err)
	}
}

func (h Harness) noPackage(t *testing.T) {
	dir := t.TempDir()
	req := h.request(t, strings.Replace(text, "[tree]", "[no-such-package-here]", 1), dir)
	_, err := h.Builder.Build(t.Context(), req)
	h.fault(t, err, "kiln.build.packages", req.Recipe.Plan[0].Where)
	if entries := left(t, dir); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}

func (h Harness) cancels(t *testing.T) {
	dir := t.TempDir()
	req := h.request(t, text, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var when time.Time
	log := &trigger{prefix: h.Cancel, do: func() { when = time.Now(); cancel() }}
	req.Log = log
	_, err := h.Builder.Build(ctx, req)
	took := time.Since(when)
	if !errs.Is(err, errs.Cancelled) || when.IsZero() {
		t.Fatalf("%v; the log ended with %s", err, log.all.String()[max(0, log.all.Len()-1000):])
	}
	if took > 15*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if entries := left(t, dir); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}

// trigger does something once, soon after a line of the log.
type trigger struct {
	prefix string
	do     func()
	mu     sync.Mutex
	all    bytes.Buffer
	done   bool
}

// Write implements io.Writer.
func (w *trigger) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(p)
	if !w.done && (bytes.HasPrefix(w.all.Bytes(), []byte(w.prefix)) || bytes.Contains(w.all.Bytes(), []byte("\n"+w.prefix))) {
		w.done = true
		time.AfterFunc(500*time.Millisecond, w.do)
	}
	return len(p), nil
}

// left names what is in a build's folder, and what the kernel still has of it.
func left(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return append(found, inKernel(t, dir)...)
}

// inKernel names loop devices, mounts and processes that use a folder.
func inKernel(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/block/loop*/loop/backing_file", "/proc/[0-9]*/mountinfo", "/proc/[0-9]*/cmdline"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), dir+"/") {
				found = append(found, fmt.Sprintf("%s: %.200q", name, text))
			}
		}
	}
	return found
}
