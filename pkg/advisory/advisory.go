// Package advisory is about published fixes: which package, which version has the fix, what it closes, how urgent it
// is, and which images lack it.
package advisory

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Suites of advisories that come from the operator's files and that no repository offers.
const (
	SuiteTracker = "debian-tracker"
	SuiteOSV     = "osv"
)

// Advisory is one published fix of one binary package in one suite.
type Advisory struct {
	ID        string    `json:"id"` // "<suite>/<package>/<version>/<architecture>"
	Package   string    `json:"package"`
	Source    string    `json:"source"` // source package
	Version   string    `json:"version"`
	Suite     string    `json:"suite"`
	Security  bool      `json:"security"` // from a security suite, or from the operator's files
	Urgency   string    `json:"urgency"`  // the highest that it has for an image: low, medium, high, critical; "" where unknown
	CVEs      []string  `json:"cves"`     // that it closes in at least one image, as far as they are known
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Pending is one fix that an image lacks.
type Pending struct {
	ImageID      string   `json:"image_id"`
	AdvisoryID   string   `json:"advisory_id"`
	Package      string   `json:"package"`
	Architecture string   `json:"architecture"`
	Source       string   `json:"source"`
	Installed    string   `json:"installed"`
	Fixed        string   `json:"fixed"`
	Suite        string   `json:"suite"`
	Security     bool     `json:"security"`
	Urgency      string   `json:"urgency"` // of what this image lacks
	CVEs         []string `json:"cves"`    // that this image lacks the fix of; read only, PutGaps writes them
	Gap          string   `json:"-"`       // id of the Gap
}

// CVE is one vulnerability with the urgency that the operator's files give it; "" where none does.
type CVE struct {
	ID      string `json:"id"`
	Urgency string `json:"urgency"`
}

// Gap is what lies between an installed version of a source package and a fixed one. Images with the same versions
// share it, so that a kernel's thousand CVEs are kept once and not once an image.
type Gap struct {
	ID      string
	Source  string
	From    string
	To      string
	Urgency string
	CVEs    []CVE
}

// Change is what one entry of a changelog says.
type Change struct {
	Source  string   `json:"source"`
	Version string   `json:"version"`
	Urgency string   `json:"urgency"`
	CVEs    []string `json:"cves,omitempty"`
}

// Changelog is what was read of a source package's changelog, newest change first.
type Changelog struct {
	Source  string    `json:"source"`
	Version string    `json:"version"`
	Changes []Change  `json:"changes"`
	Problem string    `json:"problem"` // why there are no changes; it is read again after a day
	ReadAt  time.Time `json:"read_at"`
}

// System is an inspected image as far as fixes are compared with it.
type System struct {
	ImageID      string
	ProjectID    string
	Kind         string // of its packages: deb, rpm, apk
	OS           string // os-release's ID
	Release      string // code name
	VersionID    string
	Architecture string
	Sum          string // of its packages
	Compared     string // Finding.Stamp of the last comparison
}

// Installed is one package of an image.
type Installed struct {
	Name          string
	Architecture  string
	Version       string
	Source        string
	SourceVersion string
}

// Finding is what one image lacks.
type Finding struct {
	ImageID string
	Pending []Pending
	Lacks   catalog.Urgencies
	Stamp   string // of all that was compared; "" where something was not known, so that it is compared again
	At      time.Time
}

// Store keeps advisories and what each image lacks.
type Store interface {
	// PutAdvisories inserts or updates; CVEs and urgency that are known stay where the new row has none.
	PutAdvisories(ctx context.Context, as []Advisory) error
	// KnownAdvisories are those of the ids that exist.
	KnownAdvisories(ctx context.Context, ids []string) (map[string]Advisory, error)
	FindAdvisory(ctx context.Context, id string) (Advisory, error)
	ListAdvisories(ctx context.Context, q listing.Query) ([]Advisory, error)
	// ReplacePending makes ps the pending fixes of the image.
	ReplacePending(ctx context.Context, imageID string, ps []Pending) error
	ListPending(ctx context.Context, imageID string) ([]Pending, error)

	PutGaps(ctx context.Context, gaps []Gap) error
	// PutFindings replaces what the images lack, and ranks them by it. Their advisories must be there.
	PutFindings(ctx context.Context, fs []Finding) error
	// DropGaps removes the gaps that no image has any more.
	DropGaps(ctx context.Context) error

	// FindChangelog is errs.NotFound for one that was never read.
	FindChangelog(ctx context.Context, source, version string) (Changelog, error)
	PutChangelog(ctx context.Context, c Changelog) error

	// ListSystems are the inspected images. Their packages are written by catalog.Store.PutImage.
	ListSystems(ctx context.Context) ([]System, error)
	ListInstalled(ctx context.Context, imageID string) ([]Installed, error)
	// ListNames are the names of all installed packages and of their sources.
	ListNames(ctx context.Context) (map[string]bool, error)
}
