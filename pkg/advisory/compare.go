package advisory

import (
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/apk"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
)

// Kinds of packages. Each has rules of its own for what is a later version.
const (
	Deb = "deb"
	RPM = "rpm"
	APK = "apk"
)

var rpmSystems = []string{"rocky", "almalinux", "rhel", "centos", "fedora", "ol", "amzn", "opensuse-leap", "opensuse-tumbleweed", "sles", "openeuler", "mariner", "azurelinux"}

// KindOf is the kind of packages of an operating system, by os-release's ID.
func KindOf(os string) string {
	switch {
	case slices.Contains(rpmSystems, os):
		return RPM
	case os == "alpine" || os == "wolfi" || os == "postmarketos":
		return APK
	}
	return Deb
}

// KindOfFacts is the kind of an image's packages: of the database that was found in it, else that of its operating system.
func KindOfFacts(f *catalog.Facts) string {
	if f.PackageKind != "" {
		return f.PackageKind
	}
	return KindOf(f.OS.ID)
}

// Compare orders two versions by the rules of their kind of packages: negative, zero or positive. A text that is no
// version is errs.Invalid and named.
func Compare(kind, a, b string) (int, error) {
	switch kind {
	case Deb:
		return deb.Compare(a, b)
	case RPM:
		return rpm.Compare(a, b)
	case APK:
		return apk.Compare(a, b)
	}
	return 0, errs.New(errs.Invalid, "kiln.advisory.kind", "%q is no kind of packages: deb, rpm or apk", kind)
}

// newer reports whether a is later than b; a version that nobody can read is not.
func newer(kind, a, b string) bool {
	c, err := Compare(kind, a, b)
	return err == nil && c > 0
}

// Op is how an installed version is asked for.
type Op string

// The operators, as the API spells them.
const (
	LT  Op = "lt"
	LTE Op = "lte"
	EQ  Op = "eq"
	GTE Op = "gte"
	GT  Op = "gt"
)

var signs = map[string]Op{"<": LT, "<=": LTE, "=": EQ, "==": EQ, ">=": GTE, ">": GT}

// OpOf reads an operator as a person writes it (<, <=, =, >=, >) or as the API does (lt, lte, eq, gte, gt).
func OpOf(text string) (Op, error) {
	if op, ok := signs[text]; ok {
		return op, nil
	}
	if op := Op(text); slices.Contains([]Op{LT, LTE, EQ, GTE, GT}, op) {
		return op, nil
	}
	return "", errs.New(errs.Invalid, "kiln.packages.operator", "%q is no comparison: use <, <=, =, >= or >", text)
}

// Holds reports whether the outcome of Compare(installed, asked) fits the operator.
func (o Op) Holds(c int) bool {
	switch o {
	case LT:
		return c < 0
	case LTE:
		return c <= 0
	case EQ:
		return c == 0
	case GTE:
		return c >= 0
	case GT:
		return c > 0
	}
	return false
}

// ParseVersion reads the API's version question, "lt:3.0.17"; without an operator it is eq. A version that begins with
// an epoch is told from an operator by its digits.
func ParseVersion(text string) (Op, string, error) {
	word, version, found := strings.Cut(text, ":")
	if !found || strings.Trim(word, "0123456789") == "" {
		return EQ, text, checkVersion(text)
	}
	op, err := OpOf(word)
	if err != nil {
		return "", "", err
	}
	return op, version, checkVersion(version)
}

func checkVersion(v string) error {
	if v == "" || len(v) > 255 || strings.ContainsAny(v, " \t\n/") {
		return errs.New(errs.Invalid, "kiln.packages.version", "%q is no version of a package", v)
	}
	return nil
}
