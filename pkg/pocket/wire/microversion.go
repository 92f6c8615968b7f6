package wire

import (
	"net/http"
	"strconv"
	"strings"
)

// Microversion is a version of an API, e.g. 2.93.
type Microversion struct{ Major, Minor int }

// String is "2.93".
func (v Microversion) String() string { return strconv.Itoa(v.Major) + "." + strconv.Itoa(v.Minor) }

// AtLeast reports whether v is major.minor or newer.
func (v Microversion) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Asked finds the version that a client asks for a service type in OpenStack-API-Version
// ("compute 2.93, placement 1.39"), as microversion_parse does; "" where the header does not name the service.
func Asked(r *http.Request, serviceType string) string {
	for _, header := range r.Header.Values("OpenStack-API-Version") {
		for part := range strings.SplitSeq(header, ",") {
			name, version, _ := strings.Cut(strings.TrimSpace(part), " ")
			if strings.EqualFold(name, serviceType) {
				return strings.TrimSpace(version)
			}
		}
	}
	return ""
}

// ParseMicroversion reads "X.Y"; "latest" is the given newest one. ok is false for anything else.
func ParseMicroversion(text string, newest Microversion) (v Microversion, ok bool) {
	if text == "latest" {
		return newest, true
	}
	major, minor, found := strings.Cut(text, ".")
	x, errX := strconv.ParseUint(major, 10, 16)
	y, errY := strconv.ParseUint(minor, 10, 16)
	if !found || errX != nil || errY != nil {
		return Microversion{}, false
	}
	return Microversion{Major: int(x), Minor: int(y)}, true
}
