package proof

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Input is all that is known of an image when it is made. Origin, Family, Image and Facts are needed; of the rest whatever
// there is.
type Input struct {
	Origin  string // "build" or "upgrade"
	RunID   string // of that build or upgrade
	Family  catalog.FamilyName
	Version string   // name, where it is known already
	Image   Artifact // the disk that was uploaded

	Artifacts []Artifact     // what was made beside it
	Facts     *catalog.Facts // read from the disk
	Files     []catalog.File // inspect.Manifest of the disk; nil: no document of the files

	Source      *SourceRef
	Recipe      *RecipeRef
	Trigger     build.Trigger
	InputDigest string
	Lock        []byte           // the lock's text; nil where the recipe has none
	LockDigest  string           // "sha256:<hex>"; worked out from Lock where empty
	Base        *catalog.Version // that a build stands on, or an upgrade began with
	BaseDigest  string           // "sha512:<hex>" of Base's image
	Materials   []build.Material

	Builder  string // "native", "packer", "diskimage-builder", "offline"
	Kiln     string // version.String()
	Worker   string
	Started  time.Time
	Finished time.Time
	Steps    []build.Step
	Boot     *build.BootReport
	Time     time.Time // that the bills of materials carry; Finished where zero. A reproducible build gives its epoch
}

// Artifact is one file that was uploaded.
type Artifact struct {
	Format  string // "qcow2", "docker", …
	ImageID string // Glance's
	Digests Digests
}

// Make writes the documents of an image and the Glance properties that name them. Without a signer there is no
// provenance; the rest is made. The documents go to Store.PutDocuments in the transaction that ends the job, the
// properties to Glance before the image is shown to anybody.
func Make(ctx context.Context, in Input, s *Signer) (docs []Document, properties map[string]string, err error) {
	if err := in.check(); err != nil {
		return nil, nil, err
	}
	if in.Time.IsZero() {
		in.Time = in.Finished
	}
	if docs, err = in.texts(); err != nil {
		return nil, nil, err
	}
	properties = map[string]string{catalog.PropSBOM: "sha256:" + docs[0].SHA256}
	if s == nil {
		return docs, properties, nil
	}
	envelope, err := in.statement(docs).Sign(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	signed, err := NewDocument(KindProvenance, MediaProvenance, envelope, in.Finished)
	if err != nil {
		return nil, nil, err
	}
	properties[catalog.PropProvenance] = "sha256:" + signed.SHA256
	return append(docs, signed), properties, nil
}

func (in *Input) check() error {
	missing := ""
	switch {
	case in.Facts == nil:
		missing = "facts"
	case in.Image.Digests["sha256"] == "" || in.Image.Digests["sha512"] == "":
		missing = "the digests of its file"
	case in.Image.ImageID == "":
		missing = "its id"
	case in.Finished.IsZero():
		missing = "the time of its end"
	}
	if missing != "" {
		return errs.New(errs.Internal, "kiln.proof.input", "nothing can be proved of image %s of %s without %s", in.Image.ImageID, in.Family, missing)
	}
	return nil
}

// texts are the documents that need no signature; the CycloneDX one is first.
func (in *Input) texts() ([]Document, error) {
	about := Subject{
		Name: string(in.Family), Version: cmp.Or(in.Version, in.RunID, in.Image.ImageID), Digests: in.Image.Digests, Facts: in.Facts, Time: in.Time, Tool: in.Kiln,
	}
	var docs []Document
	add := func(kind, media string, write func(io.Writer) error) error {
		d, err := pack(kind, media, in.Finished, write)
		docs = append(docs, d)
		return err
	}
	text := func(kind, media string, data []byte, err error) error {
		if err != nil {
			return err
		}
		return add(kind, media, func(w io.Writer) error { _, err := w.Write(data); return err })
	}
	bom, err := CycloneDX(about)
	if err := text(KindCycloneDX, MediaCycloneDX, bom, err); err != nil {
		return nil, err
	}
	bom, err = SPDX(about)
	if err := text(KindSPDX, MediaSPDX, bom, err); err != nil {
		return nil, err
	}
	if in.Files != nil {
		if err := add(KindFiles, MediaFiles, func(w io.Writer) error { return catalog.WriteFiles(w, in.Files) }); err != nil {
			return nil, err
		}
	}
	if in.Lock != nil {
		if err := text(KindLock, MediaYAML, in.Lock, nil); err != nil {
			return nil, err
		}
	}
	if in.Boot != nil && in.Boot.Console != "" {
		if err := text(KindConsole, MediaText, []byte(in.Boot.Console), nil); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

func (in *Input) statement(docs []Document) *Statement {
	st := &Statement{Type: StatementType, PredicateType: PredicateType, Subject: in.subjects(docs)}
	kind := BuildType
	external := External{Source: in.Source, Recipe: in.Recipe}
	if in.Origin == "upgrade" {
		kind = UpgradeType
		if in.Base != nil {
			external.Image = in.Base.ImageID
		}
	}
	if digest := in.lockDigest(docs); digest != "" {
		external.Lock = &Resource{Name: KindLock, Digest: split(digest)}
	}
	st.Predicate = Predicate{
		BuildDefinition: BuildDefinition{
			BuildType: kind, ExternalParameters: external, ResolvedDependencies: in.dependencies(),
			InternalParameters: Internal{
				Family: string(in.Family), Version: in.Version, InputDigest: in.InputDigest, Worker: in.Worker, Trigger: string(in.Trigger),
				Steps: stepsRan(in.Steps), Boot: bootRan(in.Boot),
			},
		},
		RunDetails: RunDetails{
			Builder:  BuilderRef{ID: BuilderBase + in.Builder, Version: map[string]string{"kiln": in.Kiln}},
			Metadata: RunMetadata{InvocationID: in.RunID, StartedOn: whole(in.Started), FinishedOn: whole(in.Finished)},
		},
	}
	return st
}

func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func (in *Input) subjects(docs []Document) []Resource {
	file := func(a Artifact, role string) Resource {
		return Resource{
			Name: string(in.Family) + "." + a.Format, URI: "glance:" + a.ImageID, Digest: a.Digests,
			Annotations: map[string]string{"role": role, "format": a.Format, "image_id": a.ImageID},
		}
	}
	out := []Resource{file(in.Image, RoleImage)}
	for _, a := range in.Artifacts {
		out = append(out, file(a, RoleArtifact))
	}
	for _, d := range docs {
		out = append(out, Resource{
			Name: d.Kind, MediaType: d.MediaType, Digest: map[string]string{"sha256": d.SHA256}, Annotations: map[string]string{"role": RoleDocument},
		})
	}
	return out
}

func (in *Input) lockDigest(docs []Document) string {
	if in.LockDigest != "" {
		return in.LockDigest
	}
	for _, d := range docs {
		if d.Kind == KindLock {
			return "sha256:" + d.SHA256
		}
	}
	return ""
}

// dependencies are the repository, the base, and the materials in order, each once.
func (in *Input) dependencies() []Resource {
	out := []Resource{}
	if in.Source != nil {
		uri := in.Source.URI
		if !strings.HasPrefix(uri, "git+") {
			uri = "git+" + uri
		}
		out = append(out, Resource{URI: uri + "@" + in.Source.Commit, Digest: map[string]string{"gitCommit": in.Source.Commit}})
	}
	if in.Base != nil {
		out = append(out, Resource{
			URI: "kiln:" + string(in.Base.Family) + "/" + in.Base.Name, Digest: split(in.BaseDigest), Annotations: map[string]string{"image_id": in.Base.ImageID},
		})
	}
	materials := slices.Clone(in.Materials)
	slices.SortFunc(materials, func(a, b build.Material) int {
		return cmp.Or(strings.Compare(a.URI, b.URI), strings.Compare(a.Digest, b.Digest))
	})
	for _, m := range slices.Compact(materials) {
		if in.Base != nil && len(out) > 0 && slices.ContainsFunc(out, func(r Resource) bool { return r.URI == m.URI }) {
			continue // the base is among the materials of some builders
		}
		out = append(out, Resource{URI: m.URI, Digest: split(m.Digest)})
	}
	return out
}

// ParseDigest reads "sha256:<hex>"; nil where it is none.
func ParseDigest(digest string) Digests { return split(digest) }

func split(digest string) map[string]string {
	algorithm, value, ok := strings.Cut(digest, ":")
	if !ok || value == "" {
		return nil
	}
	return map[string]string{algorithm: value}
}

func stepsRan(steps []build.Step) []StepRan {
	out := make([]StepRan, 0, len(steps))
	for _, s := range steps {
		out = append(out, StepRan{Name: s.Name, Milliseconds: milliseconds(s.Seconds), Cached: s.Cached})
	}
	return out
}

func bootRan(b *build.BootReport) *BootRan {
	if b == nil {
		return nil
	}
	out := &BootRan{Method: b.Method, Firmware: b.Firmware, Milliseconds: milliseconds(b.Seconds), CloudInit: b.CloudInit, Passed: []string{}}
	for _, t := range b.Tests {
		if t.Status == 0 {
			out.Passed = append(out.Passed, t.Name)
		}
	}
	return out
}

func milliseconds(seconds float64) int64 { return int64(seconds*1000 + 0.5) }
