package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/apk"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
)

const (
	maxDatabase  = 512 << 20 // bytes of rpm's
	maxInstalled = 128 << 20 // bytes of apk's
)

// rpmDatabases are where rpm keeps its packages: since 2021 below /usr where a distribution has snapshots, before below
// /var; as sqlite, as ndb (SUSE) and as Berkeley DB. The first that is there counts.
var rpmDatabases = []string{
	"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite",
	"/usr/lib/sysimage/rpm/Packages.db", "/var/lib/rpm/Packages.db",
	"/usr/lib/sysimage/rpm/Packages", "/var/lib/rpm/Packages",
}

const apkInstalled = "/lib/apk/db/installed"

// readOtherPackages reads the packages of a system that has no dpkg; none where it has no rpm and no apk either.
func readOtherPackages(facts *catalog.Facts, fsys fileSystem) error {
	for _, name := range rpmDatabases {
		data, err := fileIfThere(fsys, name, maxDatabase)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if data == nil {
			continue
		}
		return readRPM(facts, fsys, name, data)
	}
	for _, name := range []string{apkInstalled, "/usr" + apkInstalled} {
		text, err := fileIfThere(fsys, name, maxInstalled)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if text == nil {
			continue
		}
		return readAPK(facts, name, text)
	}
	return nil
}

func readRPM(facts *catalog.Facts, fsys fileSystem, name string, data []byte) error {
	var log []byte
	if strings.HasSuffix(name, ".sqlite") {
		var err error
		if log, err = fsys.ReadFile(name+"-wal", maxDatabase); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s-wal: %w", name, err)
		}
	}
	all, err := rpm.ReadDatabase(data, log)
	if err != nil {
		return named(err, name)
	}
	facts.PackageKind = "rpm"
	for _, p := range all {
		facts.Packages = append(facts.Packages, catalog.Package{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, SourceVersion: p.SourceVersion,
			Vendor: p.Vendor, Licenses: expressionOf(p.License),
		})
		facts.CloudInit = facts.CloudInit || p.Name == "cloud-init"
	}
	return nil
}

func readAPK(facts *catalog.Facts, name string, text []byte) error {
	all, err := apk.ReadInstalled(text)
	if err != nil {
		return named(err, name)
	}
	facts.PackageKind = "apk"
	for _, p := range all {
		facts.Packages = append(facts.Packages, catalog.Package{
			Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Origin, Licenses: expressionOf(p.License),
		})
		facts.CloudInit = facts.CloudInit || p.Name == "cloud-init"
	}
	return nil
}

// expressionOf lists the names in a licence expression, without its parentheses.
func expressionOf(license string) []string {
	names := splitLicense(strings.NewReplacer("(", " ", ")", " ", ";", " ").Replace(license))
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxLicenses)]
}

// named says which file of the image an error is about.
func named(err error, name string) error {
	if own, ok := errors.AsType[*errs.Error](err); ok {
		return own.At(errs.Where{File: name, Line: own.Where.Line})
	}
	return fmt.Errorf("%s: %w", name, err)
}
