package catalog

import (
	"context"
	"io"
	"time"
)

// GlanceImage is an image as Glance tells it.
type GlanceImage struct {
	ID              string
	Name            string
	Status          string // queued, saving, importing, active, deactivated, killed, deleted
	DiskFormat      string
	ContainerFormat string
	Size            int64 // bytes; 0 while not active
	VirtualSize     int64
	HashAlgo        string // "sha512"
	HashValue       string // hex
	Owner           string // project id
	Visibility      string // public, private, shared, community
	Hidden          bool
	Protected       bool
	MinDiskGiB      int
	MinRAMMiB       int
	Stores          []string
	Tags            []string
	Properties      map[string]string // additional properties
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// NewGlanceImage is what Kiln creates. ID may be chosen by the caller: the same id twice is errs.Conflict,
// which makes an upload safe to repeat.
type NewGlanceImage struct {
	ID              string
	Name            string
	DiskFormat      string
	ContainerFormat string
	Owner           string // project id; needs the admin role where it is not the caller's
	Visibility      string
	MinDiskGiB      int
	MinRAMMiB       int
	Tags            []string
	Properties      map[string]string
}

// GlancePatch changes an image's record. Nil fields stay as they are.
type GlancePatch struct {
	Hidden     *bool
	Visibility *string
	Protected  *bool
	Properties map[string]string // set; an empty value removes the property
}

// Glance is what Kiln needs of the image service. All calls are bounded; errors are *errs.Error:
// NotFound, Conflict, TooLarge (413), Unavailable.
type Glance interface {
	Image(ctx context.Context, id string) (GlanceImage, error)
	// Images lists images whose properties match the filter ("name", "owner", "status", "os_hidden", or any property).
	Images(ctx context.Context, filter map[string]string) ([]GlanceImage, error)
	CreateImage(ctx context.Context, n NewGlanceImage) (GlanceImage, error)
	// Upload sends the image's bytes; size is for progress and may be 0. The image is active after it.
	Upload(ctx context.Context, id string, r io.Reader, size int64) error
	PatchImage(ctx context.Context, id string, p GlancePatch) (GlanceImage, error)
	DeleteImage(ctx context.Context, id string) error
	// AddMember offers an image of visibility shared to a project; again is no error.
	AddMember(ctx context.Context, id, projectID string) error
	// Members are the projects that a shared image's owner named.
	Members(ctx context.Context, imageID string) ([]string, error)
	// Download opens the image's bytes from offset.
	Download(ctx context.Context, id string, offset int64) (io.ReadCloser, error)
}

// The Glance properties that Kiln writes. Glance keeps at most 255 characters of each.
const (
	PropFamily      = "kiln_family"
	PropVersion     = "kiln_version"
	PropParent      = "kiln_parent_image"
	PropOrigin      = "kiln_origin"    // "build" or "upgrade"
	PropOriginID    = "kiln_origin_id" // also the idempotency key of the upload
	PropInputDigest = "kiln_input_digest"
	PropJob         = "kiln_job"
	PropArtifact    = "kiln_artifact"    // format of a further artifact of a version
	PropArtifactOf  = "kiln_artifact_of" // the version's image
	PropRevoked     = "kiln_revoked"     // why the version was revoked
	PropVisibility  = "kiln_visibility"  // what the visibility was before it was revoked
	PropProtected   = "kiln_protected"   // "true" where Kiln protected the image: it may then take that back
	PropSBOM        = "kiln_sbom"        // "sha256:<hex>" of its CycloneDX document
	PropProvenance  = "kiln_provenance"  // "sha256:<hex>" of its signed statement
)
