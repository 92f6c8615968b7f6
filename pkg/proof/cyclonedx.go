package proof

import (
	"bytes"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// CycloneDX writes a bill of materials in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/). Equal subjects give equal
// bytes.
func CycloneDX(s Subject) ([]byte, error) {
	const image, system = "image", "os"
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + s.serial(KindCycloneDX)
	bom.Metadata = &cdx.Metadata{
		Timestamp:  s.stamp(),
		Lifecycles: &[]cdx.Lifecycle{{Phase: cdx.LifecyclePhasePostBuild}},
		Tools:      &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "kiln", Version: s.Tool}}},
		Component:  &cdx.Component{BOMRef: image, Type: cdx.ComponentTypeFile, Name: s.Name, Version: s.Version, Hashes: cdxHashes(s.Digests)},
		Properties: &[]cdx.Property{
			{Name: "kiln:architecture", Value: s.Facts.Architecture}, {Name: "kiln:firmware", Value: s.Facts.Firmware},
			{Name: "kiln:file_system", Value: s.Facts.FileSystem}, {Name: "kiln:boot_loader", Value: s.Facts.BootLoader},
		},
	}
	components := []cdx.Component{{
		BOMRef: system, Type: cdx.ComponentTypeOS, Name: named(s.Facts.OS), Version: s.Facts.OS.VersionID, Description: s.Facts.OS.PrettyName,
	}}
	refs := []string{system}
	for _, p := range packages(s.Facts) {
		components = append(components, cdxPackage(p))
		refs = append(refs, p.purl)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: image, Dependencies: &refs}}
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

func named(os catalog.OSRelease) string {
	if os.ID == "" {
		return "linux" // os-release(5): the default
	}
	return os.ID
}

func cdxHashes(d Digests) *[]cdx.Hash {
	var out []cdx.Hash
	for _, h := range []struct {
		algorithm cdx.HashAlgorithm
		value     string
	}{{cdx.HashAlgoSHA256, d["sha256"]}, {cdx.HashAlgoSHA512, d["sha512"]}} {
		if h.value != "" {
			out = append(out, cdx.Hash{Algorithm: h.algorithm, Value: h.value})
		}
	}
	if out == nil {
		return nil
	}
	return &out
}

func cdxPackage(p pkg) cdx.Component {
	c := cdx.Component{
		BOMRef: p.purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: p.purl,
		Pedigree: &cdx.Pedigree{Ancestors: &[]cdx.Component{{
			Type: cdx.ComponentTypeLibrary, Name: p.Source, Version: p.sourceVersion(), PackageURL: p.sourcePurl,
		}}},
	}
	var all cdx.Licenses
	for _, l := range p.licenses {
		all = append(all, cdx.LicenseChoice{License: &cdx.License{ID: l.id, Name: l.name, Acknowledgement: cdx.LicenseAcknowledgementDeclared}})
	}
	if all != nil {
		c.Licenses = &all
	}
	return c
}
