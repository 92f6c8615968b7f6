package proof

import (
	"bytes"
	"encoding/json"
	"time"
)

// The types of what is written (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
// https://slsa.dev/spec/v1.0/provenance).
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	PayloadType   = "application/vnd.in-toto+json"

	BuildType   = "https://github.com/kiln-cloud/kiln/build/v1"
	UpgradeType = "https://github.com/kiln-cloud/kiln/upgrade/v1"
	BuilderBase = "https://github.com/kiln-cloud/kiln/builder/"
)

// The roles of a statement's subjects, in their annotation "role".
const (
	RoleImage    = "image"    // the disk that was uploaded
	RoleArtifact = "artifact" // the same system in another form
	RoleDocument = "document" // a text about it; its name is the kind
)

// Statement says how an image came to be.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is in-toto's ResourceDescriptor: a thing and its digests.
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	MediaType   string            `json:"mediaType,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Predicate is SLSA's provenance.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what went in.
type BuildDefinition struct {
	BuildType            string     `json:"buildType"`
	ExternalParameters   External   `json:"externalParameters"`
	InternalParameters   Internal   `json:"internalParameters"`
	ResolvedDependencies []Resource `json:"resolvedDependencies"`
}

// External is what the one who asked decided.
type External struct {
	Source *SourceRef `json:"source,omitempty"`
	Recipe *RecipeRef `json:"recipe,omitempty"`
	Lock   *Resource  `json:"lock,omitempty"`
	Image  string     `json:"image,omitempty"` // of an upgrade: Glance's id of what it began with
}

// SourceRef is a repository at a commit.
type SourceRef struct {
	Name   string `json:"name,omitempty"`
	URI    string `json:"uri"`
	Commit string `json:"commit"`
}

// RecipeRef is a recipe in a repository.
type RecipeRef struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Digest string `json:"digest,omitempty"` // "sha256:<hex>" of the recipe and every file that it names
}

// Internal is what Kiln decided.
type Internal struct {
	Family      string    `json:"family"`
	Version     string    `json:"version,omitempty"`
	InputDigest string    `json:"inputDigest,omitempty"`
	Worker      string    `json:"worker,omitempty"`
	Trigger     string    `json:"trigger,omitempty"`
	Steps       []StepRan `json:"steps,omitempty"`
	Boot        *BootRan  `json:"testBoot,omitempty"`
}

// StepRan is one step; its time in whole milliseconds, because canonical JSON has no fractions.
type StepRan struct {
	Name         string `json:"name"`
	Milliseconds int64  `json:"milliseconds"`
	Cached       bool   `json:"cached,omitempty"`
}

// BootRan is how the test boot went.
type BootRan struct {
	Method       string   `json:"method"`
	Firmware     string   `json:"firmware,omitempty"`
	Milliseconds int64    `json:"milliseconds"`
	CloudInit    string   `json:"cloudInit,omitempty"`
	Passed       []string `json:"passed"` // the recipe's tests
}

// RunDetails is who did it, and when.
type RunDetails struct {
	Builder  BuilderRef  `json:"builder"`
	Metadata RunMetadata `json:"metadata"`
}

// BuilderRef names the builder and the version of the software.
type BuilderRef struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version"`
}

// RunMetadata names the run.
type RunMetadata struct {
	InvocationID string    `json:"invocationId"`
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn"`
}

// Subjects are the statement's subjects of a role.
func (s *Statement) Subjects(role string) []Resource {
	var out []Resource
	for _, r := range s.Subject {
		if r.Annotations["role"] == role {
			out = append(out, r)
		}
	}
	return out
}

// Canonical writes JSON that is the same for equal values: keys in order, no spaces, nothing escaped that need not be
// (RFC 8785; the values here hold no fractions, whose form that standard also rules).
func Canonical(v any) ([]byte, error) {
	first, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(first))
	dec.UseNumber()
	var plain any
	if err := dec.Decode(&plain); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain); err != nil { // maps are written in the order of their keys
		return nil, err
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}
