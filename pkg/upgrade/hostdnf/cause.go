package hostdnf

import "strings"

// Cause is why dnf failed, as far as its words tell.
type Cause int

// Causes.
const (
	Unknown   Cause = iota
	Scriptlet       // a scriptlet failed; dnf may have gone on
	Full            // the image's file system is full
	Signature       // a repository's metadata is not signed by a key of its keyring
	Checksum        // the mirror gave other bytes than the index names
	Mirror          // the repositories cannot be reached
	Unmet           // dependencies cannot be met
)

// words are what dnf 4 says, the most telling first.
var words = []struct {
	cause Cause
	texts []string
}{
	{Scriptlet, []string{"scriptlet failed", "in POSTIN scriptlet", "in PREIN scriptlet", "in POSTTRANS scriptlet", "in PREUN scriptlet", "in POSTUN scriptlet", "in TRIGGER"}},
	{Full, []string{"needed on the / filesystem", "more inodes on the / filesystem", "No space left on device"}},
	{Signature, []string{"repomd.xml GPG signature verification error", "Bad GPG signature", "Signing key not found", "GPG signature verification"}},
	{Checksum, []string{"Downloading successful, but checksum doesn't match", "checksum doesn't match"}},
	{Mirror, []string{"Failed to download metadata", "Cannot download", "Failed to synchronize cache", "Error downloading packages", "Status code:"}},
	{Unmet, []string{"Depsolve Error", "nothing provides", "conflicting requests"}},
}

// CauseOf reads the output of dnf. Where dnf ended well, only Scriptlet means that something failed.
func CauseOf(output string) Cause {
	for _, w := range words {
		for _, text := range w.texts {
			if strings.Contains(output, text) {
				return w.cause
			}
		}
	}
	return Unknown
}
