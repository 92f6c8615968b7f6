package proof_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/sbom-utility/resources"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

var noon = time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)

func facts() *catalog.Facts {
	return &catalog.Facts{
		OS:           catalog.OSRelease{ID: "debian", VersionID: "12", Codename: "bookworm", PrettyName: "Debian GNU/Linux 12 (bookworm)"},
		Architecture: "amd64", DiskFormat: "qcow2", FileSystem: "ext4", BootLoader: "grub", Firmware: "both",
		Packages: []catalog.Package{
			{Name: "libssl3", Version: "3.0.15-1~deb12u1", Architecture: "amd64", Source: "openssl", Licenses: []string{"Apache-2.0", "Artistic", "GPL-1+", "private+odd one"}},
			{Name: "libstdc++6", Version: "12.2.0-14+deb12u1", Architecture: "amd64", Source: "gcc-12", Licenses: []string{"BSD-3-clause", "BSD-3-Clause", "GFDL-NIV-1.3"}},
			{Name: "login", Version: "1:4.13+dfsg1-1", Architecture: "amd64", Source: "shadow", SourceVersion: "1:4.13+dfsg1-1"},
			{Name: "libgcc-s1", Version: "12.2.0-14", Architecture: "amd64", Source: "gcc-12", SourceVersion: "12.2.0"},
			{Name: "libssl3", Version: "3.0.15-1~deb12u1", Architecture: "i386", Source: "openssl"},
			{Name: "libssl3", Version: "3.0.15-1~deb12u1", Architecture: "i386", Source: "openssl"}, // dpkg's list is the image's word
		},
	}
}

// diskText stands for the bytes of an image.
const diskText = "the bytes of an image"

func digests(t testing.TB, text string) proof.Digests {
	t.Helper()
	d, n, err := proof.DigestsOf(t.Context(), strings.NewReader(text))
	if err != nil || n != int64(len(text)) {
		t.Fatal(n, err)
	}
	return d
}

func input(t testing.TB) proof.Input {
	return proof.Input{
		Origin: "build", RunID: "b1", Family: "debian-12-web", Version: "20260329.1",
		Image:     proof.Artifact{Format: "qcow2", ImageID: "i1", Digests: digests(t, diskText)},
		Artifacts: []proof.Artifact{{Format: "docker", ImageID: "i2", Digests: digests(t, "docker")}},
		Facts:     facts(), Files: []catalog.File{{Path: "/", Type: "dir", Mode: "0755"}, {Path: "/a<b>&c", Type: "file", Mode: "4755", Size: 3, SHA256: strings.Repeat("ab", 32)}},
		Source: &proof.SourceRef{Name: "recipes", URI: "https://git.example.org/recipes.git", Commit: strings.Repeat("c0", 20)},
		Recipe: &proof.RecipeRef{Name: "web", Path: "web.yaml", Digest: "sha256:" + strings.Repeat("de", 32)}, Trigger: build.ByPush,
		InputDigest: "sha256:" + strings.Repeat("ad", 32), Lock: []byte("release: bookworm\n"),
		Base: &catalog.Version{Family: "debian-12", Name: "20260328.1", ImageID: "i0"}, BaseDigest: "sha512:" + strings.Repeat("0f", 64),
		Materials: []build.Material{
			{URI: "pkg:deb/debian/nginx@1.22.1-9?arch=amd64", Digest: "sha256:" + strings.Repeat("11", 32)},
			{URI: "kiln:debian-12/20260328.1", Digest: "sha512:" + strings.Repeat("0f", 64)},
			{URI: "pkg:deb/debian/curl@7.88.1-10?arch=amd64", Digest: "sha256:" + strings.Repeat("22", 32)},
			{URI: "pkg:deb/debian/curl@7.88.1-10?arch=amd64", Digest: "sha256:" + strings.Repeat("22", 32)},
		},
		Builder: "native", Kiln: "1.2.3", Worker: "build-1", Started: noon.Add(-time.Minute), Finished: noon,
		Steps: []build.Step{{Name: "base", Seconds: 1.2345, Cached: true}, {Name: "packages", Seconds: 20}},
		Boot: &build.BootReport{Method: "qemu", Firmware: "uefi", Seconds: 12.5, CloudInit: "done", Console: "Linux version 6.1\n",
			Tests: []build.CommandTest{{Name: "nginx answers", Seconds: 0.1}}},
	}
}

func signer(t testing.TB) *proof.Signer {
	t.Helper()
	private, _, err := proof.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := proof.ParseSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func made(t testing.TB, in proof.Input, s *proof.Signer) (map[string][]byte, map[string]string) {
	t.Helper()
	docs, properties, err := proof.Make(t.Context(), in, s)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string][]byte{}
	for _, d := range docs {
		text, err := d.Text()
		if err != nil || int64(len(text)) != d.Size {
			t.Fatalf("%s: %d of %d bytes, %v", d.Kind, len(text), d.Size, err)
		}
		texts[d.Kind] = text
	}
	return texts, properties
}

// official reads a schema that comes with CycloneDX's sbom-utility, or with its Go library: the list of licences is there only.
func official(t testing.TB, file string) []byte {
	t.Helper()
	text, err := resources.BOMSchemaFiles.ReadFile(file)
	if err == nil {
		return text
	}
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), file)); err != nil {
		t.Fatal(err)
	}
	return text
}

// schema compiles one of the official schemas.
func schema(t testing.TB, main string, all map[string]string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	for address, file := range all {
		text := official(t, file)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(address, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(main)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t testing.TB, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s.Validate(doc)
}

func cycloneDXSchema(t testing.TB) *jsonschema.Schema {
	const at = "http://cyclonedx.org/schema/"
	return schema(t, at+"bom-1.6.schema.json", map[string]string{
		at + "bom-1.6.schema.json": "schema/cyclonedx/1.6/bom-1.6.schema.json", at + "jsf-0.82.schema.json": "schema/cyclonedx/1.6/jsf-0.82.schema.json",
		at + "spdx.schema.json": "schema/spdx.schema.json",
	})
}

func TestCycloneDXValidates(t *testing.T) {
	texts, _ := made(t, input(t), nil)
	s := cycloneDXSchema(t)
	if err := valid(t, s, texts[proof.KindCycloneDX]); err != nil {
		t.Errorf("%v\n%s", err, texts[proof.KindCycloneDX])
	}
	if valid(t, s, bytes.Replace(texts[proof.KindCycloneDX], []byte(`"library"`), []byte(`"book"`), 1)) == nil {
		t.Error("the schema takes anything")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(texts[proof.KindCycloneDX]), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var purls []string
	for _, c := range *bom.Components {
		purls = append(purls, c.PackageURL)
	}
	want := []string{
		"",
		"pkg:deb/debian/libgcc-s1@12.2.0-14?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0",
		"pkg:deb/debian/libssl3@3.0.15-1~deb12u1?arch=amd64&distro=debian-12&upstream=openssl",
		"pkg:deb/debian/libssl3@3.0.15-1~deb12u1?arch=i386&distro=debian-12&upstream=openssl",
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=gcc-12",
		"pkg:deb/debian/login@1:4.13%2Bdfsg1-1?arch=amd64&distro=debian-12&upstream=shadow",
	}
	if diff := cmp.Diff(want, purls); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, l := range *(*bom.Components)[2].Licenses {
		names = append(names, l.License.ID+l.License.Name)
	}
	if diff := cmp.Diff([]string{"Apache-2.0", "Artistic-1.0", "GPL-1.0-or-later", "private+odd one"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestSPDXValidates(t *testing.T) {
	const at = "http://spdx.org/rdf/terms/2.3"
	s := schema(t, at, map[string]string{at: "schema/spdx/2.3/spdx-schema.json"})
	texts, _ := made(t, input(t), nil)
	if err := valid(t, s, texts[proof.KindSPDX]); err != nil {
		t.Errorf("%v\n%s", err, texts[proof.KindSPDX])
	}
	if valid(t, s, bytes.Replace(texts[proof.KindSPDX], []byte(`"SPDXID"`), []byte(`"ID"`), 1)) == nil {
		t.Error("the schema takes anything")
	}
	doc, err := spdxjson.Read(bytes.NewReader(texts[proof.KindSPDX]))
	if err != nil {
		t.Fatal(err)
	}
	ids, relations := map[string]bool{}, map[string]int{}
	for _, p := range doc.Packages {
		if ids[string(p.PackageSPDXIdentifier)] {
			t.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		ids[string(p.PackageSPDXIdentifier)] = true
		if p.PackageName == "libssl3" && p.PackageLicenseDeclared != "NOASSERTION" &&
			p.PackageLicenseDeclared != "Apache-2.0 AND Artistic-1.0 AND GPL-1.0-or-later AND LicenseRef-debian-privatexodd-one" {
			t.Errorf("licence %s", p.PackageLicenseDeclared)
		}
	}
	for _, r := range doc.Relationships {
		relations[r.Relationship]++
		if !ids[string(r.RefB.ElementRefID)] {
			t.Errorf("nothing has the id %s", r.RefB.ElementRefID)
		}
	}
	if diff := cmp.Diff(map[string]int{"DESCRIBES": 1, "CONTAINS": 6, "GENERATED_FROM": 5}, relations); diff != "" {
		t.Error(diff)
	}
}

// TestHostileNames: whatever an image says of its packages, the documents stay valid.
func TestHostileNames(t *testing.T) {
	in := input(t)
	in.Facts = &catalog.Facts{OS: catalog.OSRelease{ID: "a b/%?", PrettyName: "\x01</x>\u2028"}, Packages: []catalog.Package{
		{}, {Name: "a/b@c?d#e", Version: "1 2", Architecture: "ü", Source: "\"", Licenses: []string{"", "..", strings.Repeat("x", 3000), "GPL-99+", "LGPL-NIV-2.1"}},
		{Name: "\xff\xfe", Version: "\n"},
	}}
	texts, _ := made(t, in, nil)
	if err := valid(t, cycloneDXSchema(t), texts[proof.KindCycloneDX]); err != nil {
		t.Error(err)
	}
	const at = "http://spdx.org/rdf/terms/2.3"
	if err := valid(t, schema(t, at, map[string]string{at: "schema/spdx/2.3/spdx-schema.json"}), texts[proof.KindSPDX]); err != nil {
		t.Error(err)
	}
}

func TestSameInputSameTexts(t *testing.T) {
	s := signer(t)
	a, pa := made(t, input(t), s)
	shuffled := input(t)
	p := shuffled.Facts.Packages
	p[0], p[3] = p[3], p[0]
	m := shuffled.Materials
	m[0], m[2] = m[2], m[0]
	b, pb := made(t, shuffled, s)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("%.2000s", diff)
	}
	if diff := cmp.Diff(pa, pb); diff != "" || len(pa) != 2 {
		t.Error(diff, pa)
	}
}

func TestStatement(t *testing.T) {
	s := signer(t)
	texts, _ := made(t, input(t), s)
	st, key, err := proof.OpenEnvelope(t.Context(), texts[proof.KindProvenance], []proof.Key{s.Key})
	if err != nil || key.ID != s.Key.ID {
		t.Fatal(err)
	}
	var names []string
	for _, r := range st.Subject {
		names = append(names, r.Annotations["role"]+" "+r.Name)
	}
	if diff := cmp.Diff([]string{"image debian-12-web.qcow2", "artifact debian-12-web.docker", "document cyclonedx", "document spdx", "document files",
		"document lock", "document boot-console"}, names); diff != "" {
		t.Error(diff)
	}
	def := st.Predicate.BuildDefinition
	var uris []string
	for _, d := range def.ResolvedDependencies {
		uris = append(uris, d.URI)
		if len(d.Digest) != 1 {
			t.Errorf("%s has digests %v", d.URI, d.Digest)
		}
	}
	if diff := cmp.Diff([]string{"git+https://git.example.org/recipes.git@" + strings.Repeat("c0", 20), "kiln:debian-12/20260328.1",
		"pkg:deb/debian/curl@7.88.1-10?arch=amd64", "pkg:deb/debian/nginx@1.22.1-9?arch=amd64"}, uris); diff != "" {
		t.Error(diff)
	}
	if def.ExternalParameters.Lock.Digest["sha256"] == "" || def.BuildType != proof.BuildType || st.Predicate.RunDetails.Metadata.InvocationID != "b1" ||
		def.InternalParameters.Steps[0].Milliseconds != 1235 || def.InternalParameters.Boot.Passed[0] != "nginx answers" {
		t.Errorf("%+v", st.Predicate)
	}
	up := input(t)
	up.Origin, up.Source, up.Recipe, up.Lock, up.Materials, up.Boot = "upgrade", nil, nil, nil, nil, nil
	texts, _ = made(t, up, s)
	if st, _, err = proof.OpenEnvelope(t.Context(), texts[proof.KindProvenance], []proof.Key{s.Key}); err != nil {
		t.Fatal(err)
	}
	def = st.Predicate.BuildDefinition
	if def.BuildType != proof.UpgradeType || def.ExternalParameters.Image != "i0" || len(def.ResolvedDependencies) != 1 || def.ResolvedDependencies[0].Digest["sha512"] == "" {
		t.Errorf("%+v", def)
	}
}

// evidence is all that is right about an image.
func evidence(t testing.TB, s *proof.Signer) proof.Evidence {
	texts, properties := made(t, input(t), s)
	properties[catalog.PropFamily] = "debian-12-web"
	e := proof.Evidence{
		ImageID: "i1", Version: "debian-12-web/20260329.1", Envelope: texts[proof.KindProvenance], Keys: []proof.Key{s.Key}, Image: digests(t, diskText), Documents: texts, Properties: properties,
		GlanceHash: "sha512:" + digests(t, diskText)["sha512"],
	}
	delete(texts, proof.KindProvenance)
	return e
}

func failed(findings []proof.Finding) []string {
	var out []string
	for _, f := range findings {
		if !f.Holds {
			out = append(out, f.What)
		}
	}
	return out
}

func TestVerify(t *testing.T) {
	s, other := signer(t), signer(t)
	findings, st := proof.Verify(t.Context(), evidence(t, s))
	if !proof.Holds(findings) || st == nil || len(findings) != 13 {
		t.Fatalf("%d findings: %+v", len(findings), findings)
	}
	for name, c := range map[string]struct {
		spoil func(e *proof.Evidence)
		want  string
	}{
		"a changed image":    {func(e *proof.Evidence) { e.Image = digests(t, "the bytes of an Image") }, "image sha256"},
		"no image":           {func(e *proof.Evidence) { e.Image = nil }, "image sha512"},
		"another image":      {func(e *proof.Evidence) { e.ImageID = "i9" }, "image"},
		"a changed SBOM":     {func(e *proof.Evidence) { e.Documents["cyclonedx"][100] ^= 1 }, "document cyclonedx"},
		"a missing document": {func(e *proof.Evidence) { delete(e.Documents, "files") }, "document files"},
		"another property":   {func(e *proof.Evidence) { e.Properties[catalog.PropSBOM] = "sha256:00" }, "Glance property kiln_sbom"},
		"no property":        {func(e *proof.Evidence) { delete(e.Properties, catalog.PropProvenance) }, "Glance property kiln_provenance"},
		"another family":     {func(e *proof.Evidence) { e.Properties[catalog.PropFamily] = "x" }, "Glance property kiln_family"},
		"Glance's bytes":     {func(e *proof.Evidence) { e.GlanceHash = "sha512:00" }, "Glance's sha512"},
		"another version":    {func(e *proof.Evidence) { e.Version = "debian-12-web/20260328.1" }, "version"},
		"no envelope":        {func(e *proof.Evidence) { e.Envelope = nil }, "signature"},
		"another key":        {func(e *proof.Evidence) { e.Keys = []proof.Key{other.Key} }, "signature"},
		"no key":             {func(e *proof.Evidence) { e.Keys = nil }, "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			e := evidence(t, s)
			c.spoil(&e)
			findings, _ := proof.Verify(t.Context(), e)
			if proof.Holds(findings) || !strings.Contains(strings.Join(failed(findings), "\n"), c.want) {
				t.Errorf("%v, want %s", failed(findings), c.want)
			}
		})
	}
}

// TestEveryByteOfTheEnvelope: whatever byte is changed, something does not hold.
func TestEveryByteOfTheEnvelope(t *testing.T) {
	e := evidence(t, signer(t))
	good := e.Envelope
	for i := range good {
		e.Envelope = bytes.Clone(good)
		e.Envelope[i] ^= 1
		if findings, _ := proof.Verify(t.Context(), e); proof.Holds(findings) {
			t.Fatalf("byte %d may be changed", i)
		}
		// Without Glance's word: only the name of the key may differ, and case and space around the payload's edge.
		alone := e
		alone.Properties = nil
		if findings, st := proof.Verify(t.Context(), alone); proof.Holds(findings) && st.Subject[0].Digest["sha256"] != e.Image["sha256"] {
			t.Fatalf("byte %d changes what is said", i)
		}
	}
}

func TestHostileEnvelopes(t *testing.T) {
	s := signer(t)
	wrong := &proof.Statement{Type: "https://example.org/other", PredicateType: proof.PredicateType}
	signed, err := wrong.Sign(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "hello", "null": "null", "a list": "[]", "two values": string(evidence(t, s).Envelope) + "{}", "no signature": `{"payload":"e30=","payloadType":"x","signatures":[]}`,
		"unknown field": `{"payload":"e30=","payloadType":"x","signatures":[{"sig":"AA=="}],"more":1}`, "bad base64": `{"payload":"!","payloadType":"x","signatures":[{"sig":"!"}]}`,
		"many signatures": `{"payload":"e30=","payloadType":"x","signatures":[` + strings.Repeat(`{"sig":"AA=="},`, 99) + `{"sig":"AA=="}]}`, "another statement": string(signed),
	} {
		if st, _, err := proof.OpenEnvelope(t.Context(), []byte(text), []proof.Key{s.Key}); st != nil || !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
}

func TestKeys(t *testing.T) {
	ec := func(curve elliptic.Curve, sec1 bool) []byte {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, kind := []byte(nil), "PRIVATE KEY"
		if sec1 {
			kind = "EC PRIVATE KEY"
			der, err = x509.MarshalECPrivateKey(key)
		} else {
			der, err = x509.MarshalPKCS8PrivateKey(key)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for name, text := range map[string][]byte{"pkcs8": ec(elliptic.P256(), false), "sec1": append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), ec(elliptic.P256(), true)...)} {
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := proof.LoadSigner(file)
		if err != nil || s.Key.Type != "ecdsa-p256" {
			t.Fatal(name, err)
		}
		texts, _ := made(t, input(t), s)
		keys, err := proof.LoadKeys(file, file)
		if err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		published, err := proof.ParseKeys([]byte(signer(t).Key.PEM + keys[0].PEM))
		if err != nil || len(published) != 2 {
			t.Fatal(published, err)
		}
		if _, key, err := proof.OpenEnvelope(t.Context(), texts[proof.KindProvenance], published); err != nil || key.ID != s.Key.ID {
			t.Error(name, err)
		}
	}
	for name, text := range map[string][]byte{"P-384": ec(elliptic.P384(), false), "no PEM": []byte("x"), "damaged": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")} {
		if s, err := proof.ParseSigner(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v %v", name, s, err)
		}
	}
	if _, err := proof.LoadSigner(filepath.Join(t.TempDir(), "none")); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestMakeNeedsWhatItProves(t *testing.T) {
	for name, spoil := range map[string]func(*proof.Input){
		"facts": func(in *proof.Input) { in.Facts = nil }, "digests": func(in *proof.Input) { delete(in.Image.Digests, "sha512") },
		"id": func(in *proof.Input) { in.Image.ImageID = "" }, "time": func(in *proof.Input) { in.Finished = time.Time{} },
	} {
		in := input(t)
		spoil(&in)
		if docs, _, err := proof.Make(t.Context(), in, nil); errs.CodeOf(err) != "kiln.proof.input" {
			t.Errorf("%s: %d documents, %v", name, len(docs), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := proof.DigestsOf(ctx, strings.NewReader("x")); err == nil {
		t.Error("digests after a cancel")
	}
}

func TestCanonical(t *testing.T) {
	text, err := proof.Canonical(map[string]any{"b": 1, "a": "<ü>\n", "c": json.Number("12345678901234567890")})
	if want := `{"a":"<ü>\n","b":1,"c":12345678901234567890}`; err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
}
