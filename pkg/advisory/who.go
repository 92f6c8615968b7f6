package advisory

import (
	"context"
	"regexp"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Question asks which images have a package, or lack a fix. One of Name, Source, CVE and Advisory is set.
type Question struct {
	ProjectID string // "" for all
	Name      string // of a binary package
	Source    string // of a source package; its version is compared
	Op        Op     // with Version; "" for any version
	Version   string
	CVE       string // images that lack a fix of it
	Advisory  string // images that lack this one
	Marker    string // Holding.ID of the last row of the page before
	Limit     int
}

// Holding is one package of one image.
type Holding struct {
	ID            string `json:"id"` // "<image>/<package>/<architecture>/<version>"
	ImageID       string `json:"image_id"`
	Image         string `json:"image"` // name
	ProjectID     string `json:"project_id"`
	Running       int    `json:"running"` // servers and containers of the image
	Package       string `json:"package"`
	Architecture  string `json:"architecture"`
	Version       string `json:"version"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"` // "" where a CVE or an advisory was asked for
	Kind          string `json:"kind"`           // deb, rpm, apk
	Fixed         string `json:"fixed"`          // the version that has the fix, where a CVE or an advisory was asked for
	Suite         string `json:"suite"`          // that has it
	Urgency       string `json:"urgency"`        // of what the image lacks
	Advisory      string `json:"advisory"`       // id
}

var cveID = regexp.MustCompile(`^CVE-(?:19|20)\d\d-\d{4,19}$`)

// CheckCVE is errs.Invalid for what is no CVE number.
func CheckCVE(id string) error {
	if !cveID.MatchString(id) {
		return errs.New(errs.Invalid, "kiln.cve.malformed", "%q is no CVE number: write CVE-2026-1234", id)
	}
	return nil
}

// Check is errs.Invalid for a question that cannot be answered.
func (q Question) Check() error {
	asked := 0
	for _, v := range []string{q.Name, q.Source, q.CVE, q.Advisory} {
		if v != "" {
			asked++
		}
	}
	switch {
	case asked != 1:
		return errs.New(errs.Invalid, "kiln.packages.question", "ask by one of name, source, cve and advisory")
	case q.Op != "" && q.Name == "" && q.Source == "":
		return errs.New(errs.Invalid, "kiln.packages.question", "a version is compared where a name or a source is asked for").At(errs.Where{Field: "version"})
	case q.CVE != "":
		return CheckCVE(q.CVE)
	}
	return nil
}

// Place is where a page of holdings goes on.
type Place struct{ ImageID, Package, Architecture, Version string }

// HoldingID is the id of the package in the image.
func (p Place) HoldingID() string {
	return strings.Join([]string{p.ImageID, p.Package, p.Architecture, p.Version}, "/")
}

// PlaceOf reads a marker; the zero Place is the beginning.
func PlaceOf(marker string) (Place, error) {
	if marker == "" {
		return Place{}, nil
	}
	parts := strings.Split(marker, "/")
	if len(parts) != 4 {
		return Place{}, errs.New(errs.Invalid, "kiln.query.marker", "the marker %q is not the id of a package in this list", marker).At(errs.Where{Field: "marker"})
	}
	return Place{parts[0], parts[1], parts[2], parts[3]}, nil
}

// Known is what Kiln knows of one CVE.
type Known struct {
	ID      string   `json:"id"`
	Urgency string   `json:"urgency"` // from the operator's files; "" where they say nothing
	Images  int      `json:"images"`  // that lack a fix of it
	Running int      `json:"running"` // servers and containers of these
	Fixes   []Remedy `json:"fixes"`
}

// Remedy is a version that closes a CVE.
type Remedy struct {
	Source string `json:"source"`
	Fixed  string `json:"fixed"`
	Suite  string `json:"suite"`
	Images int    `json:"images"` // that lack it
}

// Asker answers who has what.
type Asker interface {
	// Holdings are sorted by image, package, architecture and version.
	Holdings(ctx context.Context, q Question) ([]Holding, error)
	// KnownCVE is errs.NotFound where no image of the project ("" for all) lacks a fix of it.
	KnownCVE(ctx context.Context, projectID, id string) (Known, error)
}

// RunStore keeps how many servers and containers run from the images.
type RunStore interface {
	// SetRunning counts by image id, and by image name for what was started by one. Images in neither have none.
	SetRunning(ctx context.Context, byID, byName map[string]int) error
}
