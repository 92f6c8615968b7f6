package worker_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// lockingBuilder pins one package.
type lockingBuilder struct {
	fakeBuilder
	err error
}

func (b *lockingBuilder) Lock(_ context.Context, req build.Request) (*deb.Lock, error) {
	sum := strings.Repeat("ab", 32)
	return &deb.Lock{Release: req.Recipe.From.Release, Architecture: "amd64", Time: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Suites:   []deb.LockedSuite{{Suite: "bookworm", SHA256: sum}},
		Packages: []deb.LockedPackage{{Name: "apt", Version: "2.6.1", Architecture: "amd64", Filename: "pool/main/a/apt/apt_2.6.1_amd64.deb", Size: 9, SHA256: sum}}}, b.err
}

// lock asks for a lock, lets the worker run, and returns the job.
func (s *shop) lock(r build.Recipe) job.Job {
	s.t.Helper()
	j, err := s.builds.RequestLock(s.t.Context(), s.by(), r.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	if again, err := s.builds.RequestLock(s.t.Context(), s.by(), r.ID); err != nil || again.ID != j.ID {
		s.t.Errorf("asked twice: job %s and %s, %v", j.ID, again.ID, err)
	}
	s.drain()
	if j, err = s.db.FindJob(s.t.Context(), j.ID); err != nil {
		s.t.Fatal(err)
	}
	return j
}

// TestLockIsTheJobsResult: what comes out is what a repository takes back.
func TestLockIsTheJobsResult(t *testing.T) {
	s := newShop(t)
	b := &lockingBuilder{}
	s.deps.Builders = map[string]build.Builder{recipe.DefaultBuilder: b}
	r := s.synced()
	j := s.lock(r)
	var got struct {
		Path, Lock, Digest, Commit string
		Packages                   int
	}
	if err := json.Unmarshal(j.Result, &got); err != nil || j.State != job.Succeeded {
		t.Fatalf("%+v %v", j, err)
	}
	if got.Path != "recipes/web.lock" || got.Packages != 1 || got.Commit != "c1" || j.Resource != "recipes/"+r.ID {
		t.Errorf("result %+v of %s", got, j.Resource)
	}
	set, err := recipe.Load(fstest.MapFS{r.Path: {Data: []byte("name: web\nfrom: {release: bookworm}\n")}, got.Path: {Data: []byte(got.Lock)}})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := set.Lock("web")
	if err != nil || lock.Digest() != got.Digest {
		t.Errorf("read back as %v, %v:\n%s", lock, err, got.Lock)
	}
	b.err = errs.New(errs.Invalid, "kiln.lock.solve", "no such package").At(errs.Where{File: r.Path})
	if j := s.lock(r); j.State != job.Failed || j.Error == nil || j.Error.Code != "kiln.lock.solve" {
		t.Errorf("a recipe that cannot be solved: %+v", j)
	}
}

func TestOnlySomeBuildersLock(t *testing.T) {
	s := newShop(t)
	if j := s.lock(s.synced()); j.State != job.Failed || j.Error.Code != "kiln.lock.builder" || j.Error.Where.Field != "builder.name" {
		t.Errorf("%+v %+v", j, j.Error)
	}
}

// TestALockIsBuiltFrom: the lock beside the recipe reaches the builder.
func TestALockIsBuiltFrom(t *testing.T) {
	s := newShop(t)
	lock, err := (&lockingBuilder{}).Lock(t.Context(), build.Request{Recipe: &recipe.Recipe{From: recipe.From{Release: "bookworm"}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := lock.Text()
	if err != nil {
		t.Fatal(err)
	}
	repo := fstest.MapFS{"recipes/web.yaml": {Data: []byte("name: web\nfrom: {release: bookworm}\noutput: {format: raw}\n")}, "recipes/web.lock": {Data: []byte(text)}}
	s.deps.Fetch = func(context.Context, string, string, string) (worker.Checkout, error) {
		return worker.Checkout{Commit: "c1", Files: repo, Close: func() error { return nil }}, nil
	}
	seen := &seeingBuilder{fakeBuilder: s.builder}
	s.deps.Builders = map[string]build.Builder{recipe.DefaultBuilder: seen}
	if b := s.build(s.synced(), false); b.State != build.Succeeded {
		t.Fatalf("build %+v", b)
	}
	if seen.got.Lock == nil || seen.got.Lock.Digest() != lock.Digest() || !seen.got.Epoch.Equal(lock.Time) {
		t.Errorf("built with %+v of %s", seen.got.Lock, seen.got.Epoch)
	}
}

type seeingBuilder struct {
	*fakeBuilder
	got build.Request
}

func (b *seeingBuilder) Build(ctx context.Context, req build.Request) (build.Result, error) {
	b.got = req
	return b.fakeBuilder.Build(ctx, req)
}
