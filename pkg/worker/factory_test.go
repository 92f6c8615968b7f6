package worker_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// fakeBooter looks at the image as a stranger would while it is booted.
type fakeBooter struct {
	shop *shop
	err  error
	seen []build.BootTest
}

func (f *fakeBooter) Boot(ctx context.Context, b build.BootTest) (build.BootReport, error) {
	f.seen = append(f.seen, b)
	g, err := f.shop.glance.Image(ctx, b.ImageID)
	if err != nil || g.Visibility != "private" || g.Properties[catalog.PropVersion] != "" {
		f.shop.t.Errorf("during its test boot the image is %+v, %v", g, err)
	}
	if _, err := b.Log.Write([]byte("[    1.0] the console of the guest\n")); err != nil {
		return build.BootReport{}, err
	}
	return build.BootReport{Method: "double", Seconds: 1}, f.err
}

// fakeOutputs fails once for the format away.
type fakeOutputs struct {
	made []string
	away string
}

func (f *fakeOutputs) Make(_ context.Context, _ build.Artifact, format, dir string, _ *recipe.Recipe, _ io.Writer) (build.Artifact, error) {
	f.made = append(f.made, format)
	if f.away == format {
		f.away = ""
		return build.Artifact{}, errs.New(errs.Unavailable, "kiln.test.away", "qemu-img is away")
	}
	path := filepath.Join(dir, "artifact."+format)
	return build.Artifact{Format: format, Path: path}, os.WriteFile(path, []byte("the "+format), 0o600)
}

// factory is a shop that boots and makes artifacts, with the recipes given.
func factory(t *testing.T, recipes map[string]string) (*shop, *fakeBooter, *fakeOutputs) {
	t.Helper()
	s := newShop(t)
	booter, outputs := &fakeBooter{shop: s}, &fakeOutputs{}
	repo := fstest.MapFS{"tests/web.sh": {Data: []byte("systemctl is-active nginx\n")}}
	for name, text := range recipes {
		repo["recipes/"+name+".yaml"] = &fstest.MapFile{Data: []byte("name: " + name + "\n" + text)}
	}
	private, _, err := proof.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if s.deps.Signer, err = proof.ParseSigner(private); err != nil {
		t.Fatal(err)
	}
	s.deps.Booter, s.deps.Outputs = booter, outputs
	s.deps.Fetch = func(context.Context, string, string, string) (worker.Checkout, error) {
		return worker.Checkout{Commit: "c1", Files: repo, Close: func() error { return nil }}, nil
	}
	return s, booter, outputs
}

const webRecipe = `from: {release: bookworm}
output: {format: raw, also: [docker, vmdk]}
tests:
  - {name: inline, run: "true"}
  - {name: nginx, source: tests/web.sh, timeout: 90s}
publish: {visibility: shared, members: [11111111-1111-1111-1111-111111111111], protected: true, channel: edge}
`

// The recipe's tests run while nobody sees the image; then it, and its artifacts, are shown to those whom the recipe names.
func TestBuildIsProvenBeforeItIsShown(t *testing.T) {
	s, booter, outputs := factory(t, map[string]string{"web": webRecipe})
	outputs.away = "vmdk" // once: the next attempt goes on with what is there
	b := s.build(s.synced(), false)
	if b.State != build.Succeeded {
		t.Fatalf("build %+v", b)
	}
	boot := booter.seen[0]
	if len(boot.Tests) != 2 || boot.Tests[0].Text != "true" || !strings.Contains(boot.Tests[1].Text, "nginx") || boot.Tests[1].Timeout.Seconds() != 90 {
		t.Errorf("booted with the tests %+v", boot.Tests)
	}
	f, err := s.db.FindFamily(t.Context(), s.project, "web")
	if err != nil || f.Channels["edge"] != b.VersionName || f.Channels[catalog.Candidate] != "" {
		t.Errorf("family %+v, %v", f, err)
	}
	v, err := s.db.FindVersion(t.Context(), f.ID, b.VersionName)
	if err != nil || len(v.Artifacts) != 2 {
		t.Fatalf("version %+v, %v", v, err)
	}
	if got := len(outputs.made); got != 3 { // docker, vmdk that broke, vmdk
		t.Errorf("made %v", outputs.made)
	}
	ids := []string{b.ImageID, v.Artifacts[0].ImageID, v.Artifacts[1].ImageID}
	for _, id := range ids {
		g, err := s.glance.Image(t.Context(), id)
		if err != nil || g.Visibility != "shared" || !g.Protected || g.Properties[catalog.PropVersion] != b.VersionName || g.Status != "active" {
			t.Errorf("image %+v, %v", g, err)
		}
		if members, err := s.glance.Members(t.Context(), id); err != nil || len(members) != 1 || !strings.HasPrefix(members[0], "11111111-") {
			t.Errorf("members %v, %v", members, err)
		}
	}
	if g, _ := s.glance.Image(t.Context(), ids[1]); g.ContainerFormat != "docker" || g.DiskFormat != "raw" {
		t.Errorf("the container image is %+v", g)
	}
	if got, err := v.ContainerImage(); err != nil || got != ids[1] {
		t.Errorf("containers start from %s, %v", got, err)
	}
	s.checkDocuments(b)
	if all := s.images(); len(all) != 3 {
		t.Errorf("Glance has %d images", len(all))
	}
}

// An image that does not come up is never seen: no version, no channel, nothing in Glance; its console is in the log.
func TestBuildThatDoesNotBootIsNotPublished(t *testing.T) {
	s, booter, _ := factory(t, map[string]string{"web": webRecipe})
	booter.err = errs.New(errs.Invalid, "kiln.build.boot_test", "the kernel panicked")
	b := s.build(s.synced(), false)
	if b.State != build.Failed || !strings.Contains(b.Error, "the kernel panicked") || len(s.images()) != 0 {
		t.Errorf("build %+v, images %+v", b, s.images())
	}
	f, err := s.db.FindFamily(t.Context(), s.project, "web")
	if err != nil || len(f.Channels) != 0 {
		t.Errorf("family %+v, %v", f, err)
	}
	lines, err := s.db.JobLog(t.Context(), b.JobID, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if strings.Contains(l.Text, "the console of the guest") {
			return
		}
	}
	t.Error("the console is not in the log")
}

// A recipe stands on a family: the base's version is recorded, and one that was revoked is refused.
func TestBuildOnAFamily(t *testing.T) {
	s, _, _ := factory(t, map[string]string{
		"web": "from: {release: bookworm}\noutput: {format: raw}\n", "app": "from: {family: web}\noutput: {format: raw}\n",
	})
	base := s.build(s.synced(), false)
	app, err := s.builds.RecipeByName(t.Context(), s.project, "main", "app")
	if err != nil {
		t.Fatal(err)
	}
	b := s.build(app, false)
	if b.State != build.Succeeded {
		t.Fatalf("build %+v", b)
	}
	v, err := s.db.VersionByImage(t.Context(), b.ImageID)
	if err != nil || v.Base != "web/"+base.VersionName || v.BaseImageID != base.ImageID {
		t.Errorf("version %+v, %v", v, err)
	}
	req := s.builder.last
	if req.Base == nil || req.Base.ImageID != base.ImageID || req.Base.Facts == nil || !strings.HasPrefix(req.Base.Digest, "sha512:") || req.Seed != b.InputDigest {
		t.Errorf("the builder got %+v", req)
	}
	old, err := s.db.VersionByImage(t.Context(), base.ImageID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.SetVersionState(t.Context(), old.ID, old.State, catalog.Revoked); err != nil {
		t.Fatal(err)
	}
	if b := s.build(app, true); b.State != build.Failed || !strings.Contains(b.Error, "revoked") {
		t.Errorf("a build on a revoked version: %+v", b)
	}
}

// Two builds of one family at the same moment: two versions in order, and the channel on the second.
func TestBuildsOfOneFamilyAtOnce(t *testing.T) {
	s, _, _ := factory(t, map[string]string{
		"web": "from: {release: bookworm}\noutput: {format: raw}\n", "other": "family: web\nfrom: {release: bookworm}\noutput: {format: raw}\ndescription: other\n",
	})
	first := s.synced()
	second, err := s.builds.RecipeByName(t.Context(), s.project, "main", "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []build.Recipe{first, second} {
		if _, err := s.builds.RequestBuild(t.Context(), s.by(), r.ID, false); err != nil {
			t.Fatal(err)
		}
	}
	s.parallel = 2
	s.drain()
	f, err := s.db.FindFamily(t.Context(), s.project, "web")
	if err != nil {
		t.Fatal(err)
	}
	a, errA := s.db.FindVersion(t.Context(), f.ID, strings.TrimSuffix(f.Channels[catalog.Candidate], "2")+"1")
	b, errB := s.db.FindVersion(t.Context(), f.ID, f.Channels[catalog.Candidate])
	if errA != nil || errB != nil || !strings.HasSuffix(b.Name, ".2") || a.State != catalog.Superseded || b.State != catalog.Published {
		t.Errorf("versions %+v and %+v, %v %v", a, b, errA, errB)
	}
}

// checkDocuments holds the documents of a build against the statement's signature and against Glance.
func (s *shop) checkDocuments(b build.Build) {
	s.t.Helper()
	g, err := s.glance.Image(s.t.Context(), b.ImageID)
	if err != nil {
		s.t.Fatal(err)
	}
	docs, err := s.db.ListDocuments(s.t.Context(), b.ImageID)
	if err != nil {
		s.t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, d := range docs {
		kinds[d.Kind] = "sha256:" + d.SHA256
	}
	if len(kinds) != 3 || g.Properties[catalog.PropSBOM] != kinds[proof.KindCycloneDX] || g.Properties[catalog.PropProvenance] != kinds[proof.KindProvenance] {
		s.t.Errorf("documents %v, Glance says %v", kinds, g.Properties)
	}
	d, err := s.db.FindDocument(s.t.Context(), b.ImageID, proof.KindProvenance)
	if err != nil {
		s.t.Fatal(err)
	}
	envelope, err := d.Text()
	if err != nil {
		s.t.Fatal(err)
	}
	said, _, err := proof.OpenEnvelope(s.t.Context(), envelope, []proof.Key{s.deps.Signer.Key})
	if err != nil {
		s.t.Fatal(err)
	}
	if got := said.Subject[0].Digest["sha512"]; got != g.HashValue {
		s.t.Errorf("the statement is about %s, Glance has %s", got, g.HashValue)
	}
	if in := said.Predicate.BuildDefinition.InternalParameters; in.Version != b.VersionName || in.InputDigest != b.InputDigest {
		s.t.Errorf("the statement says %+v", in)
	}
}
