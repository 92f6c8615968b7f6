// Package advisory is about published fixes: which package, which version has the fix, what it closes,
// and which images lack it.
package advisory

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Advisory is one published fix of one binary package in one suite.
type Advisory struct {
	ID        string    `json:"id"` // "<suite>/<package>/<version>/<architecture>"
	Package   string    `json:"package"`
	Source    string    `json:"source"` // source package
	Version   string    `json:"version"`
	Suite     string    `json:"suite"`
	Security  bool      `json:"security"` // from a security suite
	Urgency   string    `json:"urgency"`  // from the changelog: low, medium, high, emergency; "" where unknown
	CVEs      []string  `json:"cves"`     // from the changelog; empty until it was read
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Pending is one fix that an image lacks.
type Pending struct {
	ImageID    string `json:"image_id"`
	AdvisoryID string `json:"advisory_id"`
	Package    string `json:"package"`
	Installed  string `json:"installed"`
	Fixed      string `json:"fixed"`
	Suite      string `json:"suite"`
	Security   bool   `json:"security"`
}

// Store keeps advisories and what each image lacks.
type Store interface {
	// PutAdvisories inserts or updates; CVEs and urgency that are known stay where the new row has none.
	PutAdvisories(ctx context.Context, as []Advisory) error
	FindAdvisory(ctx context.Context, id string) (Advisory, error)
	ListAdvisories(ctx context.Context, q listing.Query) ([]Advisory, error)
	// ReplacePending makes ps the pending fixes of the image.
	ReplacePending(ctx context.Context, imageID string, ps []Pending) error
	ListPending(ctx context.Context, imageID string) ([]Pending, error)
}
