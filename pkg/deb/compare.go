package deb

import (
	"pault.ag/go/debian/version"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Compare orders two Debian versions as dpkg does: negative, zero or positive
// (https://www.debian.org/doc/debian-policy/ch-controlfields.html#version). A text that is no
// version is Invalid and named.
func Compare(a, b string) (int, error) {
	va, err := version.Parse(a)
	if err != nil {
		return 0, badVersion(a, err)
	}
	vb, err := version.Parse(b)
	if err != nil {
		return 0, badVersion(b, err)
	}
	return version.Compare(va, vb), nil
}

// newer reports whether a is a later version than b; a version that nobody can read is not.
func newer(a, b string) bool {
	c, err := Compare(a, b)
	return err == nil && c > 0
}

func badVersion(text string, err error) error {
	return errs.Wrap(err, errs.Invalid, "kiln.advisory.version_malformed", "%q is not a Debian version", text)
}
