package offline

import "github.com/kiln-cloud/kiln/pkg/errs"

// checkManager refuses an image whose packages nobody here can upgrade, or for which no repositories are named.
func (r *run) checkManager() error {
	switch {
	case r.facts.PackageKind == "apk":
		return errs.New(errs.Invalid, CodeLayout, "%s has packages of apk: Kiln reads such systems, and cannot upgrade them offline", r.facts.OS.PrettyName)
	case r.facts.PackageKind == "rpm":
		return rpmSystem(r.req, r.facts)
	case len(r.facts.Packages) == 0:
		return errs.New(errs.Invalid, CodeLayout, "%s has no dpkg database and no rpm database: only Debian, rpm systems and their relatives can be upgraded", r.facts.OS.PrettyName)
	case len(r.req.Suites) == 0:
		return errs.New(errs.Invalid, CodeRequest, "no suite is named to take upgrades from")
	}
	return nil
}
