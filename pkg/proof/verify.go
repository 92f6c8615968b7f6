package proof

import (
	"context"
	"fmt"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Finding is one thing that was checked.
type Finding struct {
	What   string `json:"what"`
	Holds  bool   `json:"holds"`
	Detail string `json:"detail"`
}

// Evidence is what an image is checked with. What is nil or empty was not to be had, and is found missing.
type Evidence struct {
	ImageID    string
	Version    string // "<family>/<version>" that the image is asked for as; "" where it is asked for by id
	Envelope   []byte
	Keys       []Key
	Image      Digests           // worked out from the bytes
	Documents  map[string][]byte // texts by kind, without the envelope
	Properties map[string]string // Glance's
	GlanceHash string            // "sha512:<hex>", Glance's os_hash; "" where Glance was not asked
}

// Verify checks an image against its signed statement and says of everything whether it holds. The statement is nil where its
// signature does not hold: then nothing that it says counts. Invalid findings are no error.
func Verify(ctx context.Context, e Evidence) ([]Finding, *Statement) {
	st, key, err := OpenEnvelope(ctx, e.Envelope, e.Keys)
	if len(e.Envelope) == 0 {
		err = errs.New(errs.Invalid, CodeEnvelope, "the image has no signed statement")
	}
	if err != nil {
		return []Finding{{What: "signature", Detail: err.Error()}}, nil
	}
	v := &verification{evidence: e, statement: st}
	v.say("signature", true, "by key "+short(key.ID)+" ("+key.Type+")")
	if asked := e.Version; asked != "" {
		i := st.Predicate.BuildDefinition.InternalParameters
		v.say("version", i.Family+"/"+i.Version == asked, differs(i.Family+"/"+i.Version, asked))
	}
	v.image()
	v.documents()
	v.properties()
	return v.findings, st
}

// Holds reports whether all findings do.
func Holds(findings []Finding) bool {
	for _, f := range findings {
		if !f.Holds {
			return false
		}
	}
	return len(findings) > 0
}

type verification struct {
	evidence  Evidence
	statement *Statement
	findings  []Finding
}

func (v *verification) say(what string, holds bool, detail string) {
	v.findings = append(v.findings, Finding{What: what, Holds: holds, Detail: detail})
}

// image checks the bytes: the statement must be about this very image, and name both digests.
func (v *verification) image() {
	var subject *Resource
	for _, role := range []string{RoleImage, RoleArtifact} {
		for _, r := range v.statement.Subjects(role) {
			if r.Annotations["image_id"] == v.evidence.ImageID {
				subject = &r
			}
		}
	}
	if subject == nil {
		v.say("image", false, "the statement is about other images than "+v.evidence.ImageID)
		return
	}
	compared := 0
	for _, algorithm := range []string{"sha256", "sha512"} {
		said, found := subject.Digest[algorithm], v.evidence.Image[algorithm]
		if said == "" {
			continue
		}
		compared++
		v.say("image "+algorithm, said == found, differs(said, found))
	}
	if compared == 0 {
		v.say("image", false, "the statement names no digest of it")
	}
	if v.evidence.GlanceHash != "" {
		if algorithm, hash, _ := strings.Cut(v.evidence.GlanceHash, ":"); subject.Digest[algorithm] != "" {
			v.say("Glance's "+algorithm, subject.Digest[algorithm] == hash, differs(subject.Digest[algorithm], hash))
		}
	}
}

func differs(said, found string) string {
	switch {
	case said == found:
		return said
	case found == "":
		return "was not to be had"
	}
	return fmt.Sprintf("is %s, the statement says %s", found, said)
}

func (v *verification) documents() {
	for _, r := range v.statement.Subjects(RoleDocument) {
		text, ok := v.evidence.Documents[r.Name]
		if !ok {
			v.say("document "+r.Name, false, "is missing")
			continue
		}
		found := digestOf(text)
		v.say("document "+r.Name, r.Digest["sha256"] == found, differs(r.Digest["sha256"], found))
	}
}

// properties checks what Glance shows of the documents.
func (v *verification) properties() {
	if v.evidence.Properties == nil {
		return
	}
	check := func(name, want string) {
		found := strings.TrimPrefix(v.evidence.Properties[name], "sha256:")
		v.say("Glance property "+name, want != "" && want == found, differs(want, found))
	}
	for _, r := range v.statement.Subjects(RoleDocument) {
		if r.Name == KindCycloneDX {
			check(catalog.PropSBOM, r.Digest["sha256"])
		}
	}
	check(catalog.PropProvenance, digestOf(v.evidence.Envelope))
	said, found := v.statement.Predicate.BuildDefinition.InternalParameters.Family, v.evidence.Properties[catalog.PropFamily]
	v.say("Glance property "+catalog.PropFamily, said == found, differs(said, found))
}
