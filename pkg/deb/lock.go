package deb

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"gopkg.in/yaml.v3"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

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

// lockHead tells who opens the file what it is.
const lockHead = "# Every package of the image, with its hash. Made by `kiln recipe lock`; make it again instead of editing it.\n"

// Text is the lock as the file that recipes keep beside them.
func (l *Lock) Text() (string, error) {
	var b bytes.Buffer
	b.WriteString(lockHead)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(l); err != nil {
		return "", errs.Wrap(err, errs.Internal, "kiln.lock.text", "the lock cannot be written")
	}
	return b.String(), nil
}

// Digest names what is locked: "sha256:<hex>", the same for the same packages, suites and time however they are written.
func (l *Lock) Digest() string {
	b, err := json.Marshal(l)
	if err != nil { // texts, numbers and a time always marshal
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Find is the locked package of a name.
func (l *Lock) Find(name string) (LockedPackage, bool) {
	at := slices.IndexFunc(l.Packages, func(p LockedPackage) bool { return p.Name == name })
	if at < 0 {
		return LockedPackage{}, false
	}
	return l.Packages[at], true
}

// ReleaseDate is when a repository wrote an InRelease, whose signature must have been checked.
func ReleaseDate(inRelease []byte) (time.Time, error) {
	block, _ := clearsign.Decode(inRelease)
	if block == nil {
		return time.Time{}, errs.New(errs.Invalid, "kiln.advisory.release_unsigned", "InRelease is not one clear-signed text")
	}
	rel, err := parseRelease(block.Plaintext)
	if err != nil {
		return time.Time{}, err
	}
	return rel.date.UTC(), nil
}
