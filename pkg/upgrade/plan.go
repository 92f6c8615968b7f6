package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/listing"
)

// PackageRef is one package change as far as two images can have it alike.
type PackageRef struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"`
	From         string `json:"from"` // "" where it is new
	To           string `json:"to"`   // "" where it is removed
}

// Script says what a package's maintainer scripts need.
type Script string

// The classes of maintainer scripts, from the harmless to the one that cannot run offline.
const (
	ScriptNone    Script = "none"          // the package has none
	ScriptSafe    Script = "safe"          // they change files of the image only
	ScriptDivert  Script = "diverted"      // safe with the diversions and the missing services of the sandbox
	ScriptRunning Script = "needs_running" // they need a running system
)

// PlannedChange is one package that an upgrade would change.
type PlannedChange struct {
	PackageRef
	Source   string   `json:"source"`
	Suite    string   `json:"suite"`    // that the new version comes from; of an rpm system the repository
	Security bool     `json:"security"` // from a security suite; of an rpm system by its repository's advisories
	Urgency  string   `json:"urgency"`  // low, medium, high, emergency; "" where unknown
	CVEs     []string `json:"cves"`     // that the change closes, as far as they are known
	Bytes    int64    `json:"bytes"`    // of the package file
	URI      string   `json:"uri"`      // of the package file; "" for a removal
	SHA256   string   `json:"sha256"`   // of the package file, hex
	Script   Script   `json:"script"`
	Why      string   `json:"why"` // what in the scripts made Script diverted or needs_running
	// Needs are other changes of the plan, as "name:architecture", without which this one would leave unmet dependencies.
	Needs []string `json:"needs,omitempty"`
}

// ID names a package of an image: dpkg and rpm allow one of each name and architecture, but for kernels.
func (r PackageRef) ID() string { return r.Name + ":" + r.Architecture }

// Held is a package with a published fix that the upgrade would leave as it is.
type Held struct {
	Name    string `json:"name"`
	Version string `json:"version"` // installed
	To      string `json:"to"`      // published
	Reason  string `json:"reason"`  // in words: held by the image's owner, its dependencies cannot be met, needs a running system
}

// Plan is what an upgrade of one image would do. Making it changes nothing.
type Plan struct {
	ImageID      string          `json:"image_id"`
	ProjectID    string          `json:"project_id"`
	PackageKind  string          `json:"package_kind"` // deb, rpm or apk; "" for an image that could not be read
	Release      string          `json:"release"`      // codename; of an rpm system as in almalinux-9.4
	Architecture string          `json:"architecture"` // Debian's name
	Policy       Policy          `json:"policy"`       // that it was made under
	Changes      []PlannedChange `json:"changes"`      // sorted by name and architecture
	Held         []Held          `json:"held"`
	CVEs         []string        `json:"cves"`
	Download     int64           `json:"download_bytes"`
	Grows        int64           `json:"grows_bytes"` // of the image's file system; negative where it shrinks
	Kernel       bool            `json:"kernel"`      // a kernel, its initial RAM disk or its modules change
	BootLoader   bool            `json:"boot_loader"` // a package of the boot loader changes
	Refused      string          `json:"refused"`     // why the image cannot be upgraded offline at all; "" where it can
	Group        string          `json:"group"`       // equal for images to which the same would be done
	CreatedAt    time.Time       `json:"created_at"`
}

// Refs are the changes as two images can share them.
func (p Plan) Refs() []PackageRef {
	out := make([]PackageRef, len(p.Changes))
	for i, c := range p.Changes {
		out[i] = c.PackageRef
	}
	return out
}

// Preferences are records of apt's preferences (https://manpages.debian.org/apt_preferences) under which dist-upgrade makes
// the plan's changes and no others, over the same suites: the planned versions are wanted, and nothing else may replace
// what is installed.
func (p Plan) Preferences() []byte {
	var b bytes.Buffer
	for _, c := range p.Changes {
		if c.To == "" {
			continue
		}
		arch := c.Architecture
		if arch == "all" {
			arch = p.Architecture
		}
		fmt.Fprintf(&b, "Package: %s:%s\nPin: version %s\nPin-Priority: 990\n\n", c.Name, arch, c.To)
	}
	b.WriteString("Package: *\nPin: release n=*\nPin-Priority: 50\n")
	return b.Bytes()
}

// GroupOf names a set of changes: sha256 over the sorted changes.
func GroupOf(refs []PackageRef) string {
	refs = slices.Clone(refs)
	slices.SortFunc(refs, ComparePackageRefs)
	h := sha256.New()
	for _, r := range refs {
		h.Write(fmt.Appendf(nil, "%s %s %s %s\n", r.Name, r.Architecture, r.From, r.To))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// ComparePackageRefs orders by name, architecture and versions.
func ComparePackageRefs(a, b PackageRef) int {
	for _, c := range []int{
		strings.Compare(a.Name, b.Name), strings.Compare(a.Architecture, b.Architecture), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

// Question is what a Planner is asked: the package state of one image, read without mounting it.
type Question struct {
	ImageID      string
	Release      string // codename; VERSION_ID of an rpm system
	Architecture string
	State        PackageState
	Suites       []Suite
	Repositories []Repository // instead of Suites, for rpm systems
	Policy       Policy
	WorkDir      string // empty, of the caller's
	Log          io.Writer
}

// PackageState is what the package manager of an image knows, as its files have it.
type PackageState struct {
	Status      []byte            // /var/lib/dpkg/status
	Foreign     []byte            // /var/lib/dpkg/arch, the architectures beside its own; nil where there is none
	Extended    []byte            // /var/lib/apt/extended_states; nil where there is none
	Preferences map[string][]byte // /etc/apt/preferences and preferences.d/*, by file name
	RPM         *RPMState         // of an rpm system, and nothing else then
}

// RPMState is what rpm and dnf of an image know, as their files have it. dnf's history, its plugins (versionlock), its
// variables and what it protects are not among it: the upgrade does not use them either.
type RPMState struct {
	Path      string // of the database in the image, which is one of sqlite
	Database  []byte
	Log       []byte            // the write-ahead log beside it; nil where there is none
	OwnerFile string            // path of Owner
	Owner     []byte            // what its owner says to dnf: dnf.conf or yum.conf; nil where there is none
	OSRelease []byte            // /etc/os-release; nil where there is none
	Modules   map[string][]byte // enabled streams: /etc/dnf/modules.d, by file name
}

// CodeNoPlanner says that a worker cannot plan the upgrade of an image that it, or another worker, may well upgrade. It
// never changes.
const CodeNoPlanner = "kiln.plan.no_planner"

// Planner finds out what an upgrade would do. errs.Invalid where the packages of the image do not fit together.
type Planner interface {
	Plan(ctx context.Context, q Question) (Plan, error)
}

// PlanStore keeps the last plan of each image.
type PlanStore interface {
	PutPlan(ctx context.Context, p Plan) error // insert or replace
	FindPlan(ctx context.Context, imageID string) (Plan, error)
	ListPlans(ctx context.Context, q listing.Query) ([]Plan, error)
}
