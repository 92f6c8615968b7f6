// Package version holds the name and the version that the programs tell the world.
package version

import "runtime/debug"

// release is set by the linker: -ldflags "-X github.com/kiln-cloud/kiln/pkg/version.release=1.2.3".
var release string

// String is the released version, or "0.0.0+<commit>" of a build from a work tree, "0.0.0+unknown" without one.
func String() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "0.0.0+" + s.Value[:12]
			}
		}
	}
	return "0.0.0+unknown"
}

// UserAgent is what Kiln's clients send to other services: "kiln/<version>".
func UserAgent() string { return "kiln/" + String() }
