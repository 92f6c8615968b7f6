// Package rpm reads what rpm writes.
package rpm

import (
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Compare orders two versions "[epoch:]version[-release]" as rpm does: negative, zero or positive. Where one of them
// has no release, releases are not compared, as in a dependency. A text that is no version is Invalid
// (https://github.com/rpm-software-management/rpm/blob/rpm-4.19.x/rpmio/rpmvercmp.c).
func Compare(a, b string) (int, error) {
	for _, v := range []string{a, b} {
		if !valid(v) {
			return 0, errs.New(errs.Invalid, "kiln.advisory.version_malformed", "%q is not an rpm version", v)
		}
	}
	ea, va, ra := split(a)
	eb, vb, rb := split(b)
	if c := number(ea, eb); c != 0 {
		return c, nil
	}
	if c := segments(va, vb); c != 0 || ra == "" || rb == "" {
		return c, nil
	}
	return segments(ra, rb), nil
}

func valid(v string) bool {
	if v == "" || len(v) > 1024 {
		return false
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}

func split(v string) (epoch, version, release string) {
	if e, rest, ok := strings.Cut(v, ":"); ok && strings.Trim(e, "0123456789") == "" {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// number compares digits of any length.
func number(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// segments is rpmvercmp: runs of digits and of letters one after the other; ~ sorts before the end, ^ right behind it.
func segments(a, b string) int {
	for a != "" || b != "" {
		a, b = strings.TrimLeftFunc(a, separator), strings.TrimLeftFunc(b, separator)
		if c, marked := marks(a, b); marked {
			if c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			break
		}
		of := letter
		if digit(a[0]) {
			of = digit
		}
		sa, sb := run(a, of), run(b, of)
		if sb == "" { // different kinds: a number is later than a word
			if digit(a[0]) {
				return 1
			}
			return -1
		}
		c := strings.Compare(sa, sb)
		if digit(a[0]) {
			c = number(sa, sb)
		}
		if c != 0 {
			return c
		}
		a, b = a[len(sa):], b[len(sb):]
	}
	return len(a) - len(b)
}

func separator(r rune) bool {
	return r > '~' || !digit(byte(r)) && !letter(byte(r)) && r != '~' && r != '^'
}

func run(s string, of func(byte) bool) string {
	n := 0
	for n < len(s) && of(s[n]) {
		n++
	}
	return s[:n]
}

// marks compares where one of the two goes on with ~ or ^; marked is false where none does.
func marks(a, b string) (c int, marked bool) {
	ta, tb := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~")
	ca, cb := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^")
	switch {
	case ta && tb, ca && cb && !ta && !tb:
		return 0, true
	case ta:
		return -1, true
	case tb:
		return 1, true
	case ca && b == "":
		return 1, true
	case cb && a == "":
		return -1, true
	case ca:
		return -1, true
	case cb:
		return 1, true
	}
	return 0, false
}
