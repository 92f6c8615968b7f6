package upgrade

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

var suiteWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+/_-]{0,63}$`)

// Problem says why nothing can be fetched from the suite, for an error; "" where it is well. What it lets through is safe
// as a word of apt's lists of sources.
func (s Suite) Problem() string {
	u, err := url.Parse(s.Mirror)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(s.Mirror, " \t\r\n[]#") {
		return fmt.Sprintf("%q is no http address of a mirror", s.Mirror)
	}
	if len(s.Components) == 0 {
		return fmt.Sprintf("the suite %s has no components", s.Suite)
	}
	for _, word := range append([]string{s.Suite}, s.Components...) {
		if !suiteWord.MatchString(word) || strings.Contains(word, "..") {
			return fmt.Sprintf("%q is no suite or component", word)
		}
	}
	return ""
}
