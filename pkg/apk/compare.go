// Package apk reads what Alpine's apk writes.
package apk

import (
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// version is digits, a letter, suffixes and a revision
// (https://gitlab.alpinelinux.org/alpine/apk-tools/-/blob/master/doc/apk-package.5.scd, "package version").
var (
	version = regexp.MustCompile(`^(\d+(?:\.\d+)*)([a-z]?)((?:_[a-z]+\d*)*)(?:~[0-9a-f]+)?(?:-r(\d+))?$`)
	suffix  = regexp.MustCompile(`_([a-z]+)(\d*)`)
)

// suffixes in their order; a version without one stands between rc and cvs.
var suffixes = []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"}

// Compare orders two versions as apk does: negative, zero or positive. A text that is no version is Invalid.
func Compare(a, b string) (int, error) {
	ma, err := parse(a)
	if err != nil {
		return 0, err
	}
	mb, err := parse(b)
	if err != nil {
		return 0, err
	}
	for _, c := range []int{
		numbers(ma[1], mb[1]), strings.Compare(ma[2], mb[2]), compareSuffixes(ma[3], mb[3]), number(ma[4], mb[4]),
	} {
		if c != 0 {
			return c, nil
		}
	}
	return 0, nil
}

func parse(v string) ([]string, error) {
	if m := version.FindStringSubmatch(v); m != nil && len(v) <= 1024 {
		known := true
		for _, s := range suffix.FindAllStringSubmatch(m[3], -1) {
			known = known && slices.Contains(suffixes, s[1])
		}
		if known {
			return m, nil
		}
	}
	return nil, errs.New(errs.Invalid, "kiln.advisory.version_malformed", "%q is not a version of Alpine's", v)
}

func number(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// numbers compares dotted numbers. Those behind the first that begin with 0 are compared as fractions, as apk does.
func numbers(a, b string) int {
	pa, pb := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(pa), len(pb)) {
		c := number(pa[i], pb[i])
		if i > 0 && (pa[i][0] == '0' || pb[i][0] == '0') {
			c = strings.Compare(pa[i], pb[i])
		}
		if c != 0 {
			return c
		}
	}
	return len(pa) - len(pb)
}

func compareSuffixes(a, b string) int {
	sa, sb := suffix.FindAllStringSubmatch(a, -1), suffix.FindAllStringSubmatch(b, -1)
	for i := range max(len(sa), len(sb)) {
		word, digits := [2]string{}, [2]string{}
		for side, s := range [][][]string{sa, sb} {
			if i < len(s) {
				word[side], digits[side] = s[i][1], s[i][2]
			}
		}
		if c := slices.Index(suffixes, word[0]) - slices.Index(suffixes, word[1]); c != 0 {
			return c
		}
		if c := number(digits[0], digits[1]); c != 0 {
			return c
		}
	}
	return 0
}
