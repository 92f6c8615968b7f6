package deb

import "time"

// Lock pins the packages of an image: which repository states were read, and every package with its hash.
type Lock struct {
	Release      string          `yaml:"release" json:"release"`           // "bookworm"
	Architecture string          `yaml:"architecture" json:"architecture"` // Debian's name
	Time         time.Time       `yaml:"time" json:"time"`                 // of the youngest index: nothing in the image is younger
	Suites       []LockedSuite   `yaml:"suites" json:"suites"`
	Packages     []LockedPackage `yaml:"packages" json:"packages"` // by name
}

// LockedSuite is the state of one suite when the lock was made.
type LockedSuite struct {
	Suite  string `yaml:"suite" json:"suite"`   // "bookworm-security"
	SHA256 string `yaml:"sha256" json:"sha256"` // hex, of its InRelease
}

// LockedPackage is one package as the index named it.
type LockedPackage struct {
	Name         string `yaml:"name" json:"name"`
	Version      string `yaml:"version" json:"version"`
	Architecture string `yaml:"architecture" json:"architecture"`
	Filename     string `yaml:"filename" json:"filename"` // in the pool, from the mirror's root
	Size         int64  `yaml:"size" json:"size"`         // bytes
	SHA256       string `yaml:"sha256" json:"sha256"`     // hex
}
