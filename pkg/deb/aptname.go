package deb

import (
	"fmt"
	"strings"
)

// AptFileName is the name of the file that apt keeps what is at an address in, without its folder (URItoFileName of
// apt-pkg/contrib/strutl.cc).
func AptFileName(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	var b strings.Builder
	for _, c := range []byte(rest) {
		switch {
		case c == '/':
			b.WriteByte('_')
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`\|{}[]<>"^~_=!@#$%^&*`, c) >= 0:
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
