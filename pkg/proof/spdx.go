package proof

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const noAssertion = "NOASSERTION"

// SPDX writes a bill of materials in SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/). Equal subjects give equal bytes.
func SPDX(s Subject) ([]byte, error) {
	w := &spdxWriter{subject: s, named: map[string]string{}, sources: map[string]common.ElementID{}}
	w.doc = &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: s.Name, DocumentNamespace: "https://spdx.org/spdxdocs/kiln-" + escape(s.Name) + "-" + s.serial(KindSPDX),
		CreationInfo: &spdx.CreationInfo{
			Created: s.stamp(), Creators: []common.Creator{{CreatorType: "Tool", Creator: "kiln-" + s.Tool}},
		},
	}
	w.image()
	w.system()
	all := packages(s.Facts)
	for i, p := range all {
		w.add(common.ElementID(fmt.Sprintf("Package-%d", i+1)), p)
	}
	for i, p := range all {
		w.source(common.ElementID(fmt.Sprintf("Package-%d", i+1)), p)
	}
	for _, ref := range slices.Sorted(maps.Keys(w.named)) {
		w.doc.OtherLicenses = append(w.doc.OtherLicenses, &spdx.OtherLicense{
			LicenseIdentifier: ref, LicenseName: w.named[ref],
			ExtractedText: "The text that Debian's packages call " + w.named[ref] + "; it is in /usr/share/doc/<package>/copyright.",
		})
	}
	var out bytes.Buffer
	err := spdxjson.Write(w.doc, &out, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
	return out.Bytes(), err
}

// spdxWriter is a document on its way.
type spdxWriter struct {
	subject Subject
	doc     *spdx.Document
	named   map[string]string // LicenseRef to the name that Debian uses
	sources map[string]common.ElementID
}

const spdxImage, spdxSystem = common.ElementID("Image"), common.ElementID("OperatingSystem")

func (w *spdxWriter) relate(a common.ElementID, kind string, b common.ElementID) {
	w.doc.Relationships = append(w.doc.Relationships, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, Relationship: kind, RefB: common.DocElementID{ElementRefID: b},
	})
}

func spdxPackage(id common.ElementID, name, version, purpose string) *spdx.Package {
	return &spdx.Package{
		PackageName: name, PackageSPDXIdentifier: id, PackageVersion: version, PackageDownloadLocation: noAssertion, PrimaryPackagePurpose: purpose,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion, IsFilesAnalyzedTagPresent: true,
	}
}

func (w *spdxWriter) image() {
	p := spdxPackage(spdxImage, w.subject.Name, w.subject.Version, "OTHER")
	for _, c := range []common.Checksum{
		{Algorithm: common.SHA256, Value: w.subject.Digests["sha256"]}, {Algorithm: common.SHA512, Value: w.subject.Digests["sha512"]},
	} {
		if c.Value != "" {
			p.PackageChecksums = append(p.PackageChecksums, c)
		}
	}
	w.doc.Packages = append(w.doc.Packages, p)
	w.relate("DOCUMENT", "DESCRIBES", spdxImage)
}

func (w *spdxWriter) system() {
	p := spdxPackage(spdxSystem, named(w.subject.Facts.OS), w.subject.Facts.OS.VersionID, "OPERATING_SYSTEM")
	p.PackageDescription = w.subject.Facts.OS.PrettyName
	w.doc.Packages = append(w.doc.Packages, p)
	w.relate(spdxImage, "CONTAINS", spdxSystem)
}

func (w *spdxWriter) add(id common.ElementID, p pkg) {
	out := spdxPackage(id, p.Name, p.Version, "LIBRARY")
	out.PackageLicenseDeclared = w.expression(p.licenses)
	out.PackageSourceInfo = "built from " + p.Source + " " + p.sourceVersion()
	out.PackageExternalReferences = purlRef(p.purl)
	w.doc.Packages = append(w.doc.Packages, out)
	w.relate(spdxImage, "CONTAINS", id)
}

// source adds the source package once, and says which package was made from it.
func (w *spdxWriter) source(id common.ElementID, p pkg) {
	source, ok := w.sources[p.sourcePurl]
	if !ok {
		source = common.ElementID(fmt.Sprintf("Source-%d", len(w.sources)+1))
		w.sources[p.sourcePurl] = source
		out := spdxPackage(source, p.Source, p.sourceVersion(), "SOURCE")
		out.PackageExternalReferences = purlRef(p.sourcePurl)
		w.doc.Packages = append(w.doc.Packages, out)
	}
	w.relate(id, "GENERATED_FROM", source)
}

func purlRef(purl string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}

// expression is the licences of a package joined: its files are under all of them together.
func (w *spdxWriter) expression(all []license) string {
	if len(all) == 0 {
		return noAssertion
	}
	words := make([]string, 0, len(all))
	for _, l := range all {
		word := l.id
		if word == "" {
			word = "LicenseRef-debian-" + refName(l.name)
			w.named[word] = l.name
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, " AND ")
}

// refName keeps what an SPDX identifier may hold.
func refName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		case r == '+':
			return 'x'
		}
		return '-'
	}, name)
}
