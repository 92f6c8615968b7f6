// Package catalog holds what Kiln knows of images: families, their versions and channels, and the facts
// that reading a disk found. A version is one Glance image; it is never changed in place.
package catalog

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// FamilyName is a named line of images: lower case letters, digits, dots and dashes.
type FamilyName string

var familyName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// Check refuses a name that could not stand in an image name, a URL and a file name alike.
func (n FamilyName) Check() error {
	if !familyName.MatchString(string(n)) {
		return errs.New(errs.Invalid, "kiln.family.name",
			"%q is not a family name: use 1 to 63 lower case letters, digits, dots and dashes, beginning and ending with a letter or digit", n).
			At(errs.Where{Field: "family"})
	}
	return nil
}

// Channel names. Builds and upgrades move Candidate; a person or a policy promotes to Stable.
const (
	Candidate = "candidate"
	Stable    = "stable"
)

// Family is a named line of images in one project.
type Family struct {
	ID          string            `json:"id"`
	ProjectID   string            `json:"project_id"`
	Name        FamilyName        `json:"name"`
	Description string            `json:"description"`
	Channels    map[string]string `json:"channels"` // channel to version name
	Retention   Retention         `json:"retention"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
}

// VersionState says what may be done with a version.
type VersionState string

// The states of a version.
const (
	Published  VersionState = "published"  // the newest of its line; visible in Glance
	Superseded VersionState = "superseded" // a newer one exists; os_hidden in Glance, kept while anything runs from it
	Revoked    VersionState = "revoked"    // never to be started or built from again
	Deleting   VersionState = "deleting"   // retention removes its copies and images
	Deleted    VersionState = "deleted"    // its images are gone; the row stays, and its name is never used again
)

// Usable reports whether something may be started or built from a version in this state.
func (s VersionState) Usable() bool { return s == Published || s == Superseded }

// Version is one Glance image of a family.
type Version struct {
	ID            string       `json:"id"`
	ProjectID     string       `json:"project_id"`
	FamilyID      string       `json:"family_id"`
	Family        FamilyName   `json:"family"`
	Name          string       `json:"name"`           // YYYYMMDD.N
	ImageID       string       `json:"image_id"`       // Glance
	ParentVersion string       `json:"parent_version"` // name in the same family; "" for the first
	Origin        string       `json:"origin"`         // "build", "upgrade" or "adopted"
	OriginID      string       `json:"origin_id"`      // id of that build or upgrade; of the image for an adopted one
	InputDigest   string       `json:"input_digest"`   // sha256 of all that went in; equal inputs need no new version
	State         VersionState `json:"state"`
	Artifacts     []Artifact   `json:"artifacts"` // what was made beside ImageID from the same disk
	Base          string       `json:"base"`      // "<family>/<version>" that it was built from; "" for a release
	BaseImageID   string       `json:"base_image_id"`
	Pinned        bool         `json:"pinned"`       // retention keeps it whatever its age
	Note          string       `json:"note"`         // why it was pinned or revoked, in a person's words
	RevokedWith   string       `json:"revoked_with"` // "<family>/<version>" that was named when it was revoked: itself, or what it descends from
	CreatedAt     time.Time    `json:"created_at"`
}

// Label is how a version is called across families: "<family>/<version>".
func (v Version) Label() string { return string(v.Family) + "/" + v.Name }

// Images are the Glance images of the version: its own first, then those of its artifacts.
func (v Version) Images() []string {
	ids := []string{v.ImageID}
	for _, a := range v.Artifacts {
		if a.ImageID != "" && !slices.Contains(ids, a.ImageID) {
			ids = append(ids, a.ImageID)
		}
	}
	return ids
}

// Artifact is one more Glance image of a version: the same system in another form.
type Artifact struct {
	Format  string `json:"format"` // docker, system, raw, qcow2, vmdk, vhd
	ImageID string `json:"image_id"`
	Size    int64  `json:"size"`   // bytes
	Digest  string `json:"digest"` // "sha512:<hex>", Glance's
}

// ImageName is how the version is called in Glance: "<family>-<version>".
func ImageName(f FamilyName, version string) string { return string(f) + "-" + version }

// NextVersionName gives the name of a version made on the day: YYYYMMDD.N (UTC) with N one more than the
// highest of that day among the names that exist, from 1. Names never go back: where a later day is among them
// (a clock that went back), that day is used.
func NextVersionName(day time.Time, existing []string) string {
	date, highest := day.UTC().Format("20060102"), 0
	for _, name := range existing {
		d, n, ok := splitVersion(name)
		switch {
		case !ok || d < date:
		case d > date:
			date, highest = d, n
		default:
			highest = max(highest, n)
		}
	}
	return date + "." + strconv.Itoa(highest+1)
}

// Facts is what reading an image's disk found. Nothing of it comes from a plan.
type Facts struct {
	OS             OSRelease `json:"os"`
	Architecture   string    `json:"architecture"` // Debian's name: amd64, arm64
	DiskFormat     string    `json:"disk_format"`
	VirtualSize    int64     `json:"virtual_size"` // bytes
	UsedBytes      int64     `json:"used_bytes"`   // of the root file system
	MinDiskGiB     int       `json:"min_disk_gib"`
	PartitionTable string    `json:"partition_table"` // gpt, mbr, none
	FileSystem     string    `json:"file_system"`
	RootUUID       string    `json:"root_uuid"`
	BootLoader     string    `json:"boot_loader"` // grub, none
	Kernels        []string  `json:"kernels"`     // versions, newest last
	Initrds        []string  `json:"initrds"`
	CloudInit      bool      `json:"cloud_init"`
	MachineID      string    `json:"machine_id"` // empty, uninitialized, set, missing
	Packages       []Package `json:"packages"`
	PackageKind    string    `json:"package_kind,omitempty"` // deb, rpm, apk; "" where no database of packages was found

	Firmware    string      `json:"firmware"`     // what the disk can boot with: bios, uefi, both, none
	CommandLine string      `json:"command_line"` // that the boot loader gives the kernel
	Partitions  []Partition `json:"partitions"`
	Services    []string    `json:"services"` // systemd units that start by themselves
	Users       []User      `json:"users"`    // who can have a shell
	Setuid      []Setuid    `json:"setuid"`   // programs that run as another user than who starts them

	Volume           string     `json:"volume"`            // logical volume of the root, "group/volume"; "" where the root is a partition
	Subvolume        string     `json:"subvolume"`         // of btrfs that has the root, by its path; "" for the default one
	Mounts           []string   `json:"mounts"`            // folders of the system that are file systems of their own: /usr, /var, …
	ConffilesChanged []Conffile `json:"conffiles_changed"` // configuration files that are not as their packages brought them
	EtcUnowned       int        `json:"etc_unowned"`       // files below /etc that no package brought
	Skipped          []string   `json:"skipped"`           // what was not looked at, so that empty says nothing: conffiles, licenses, setuid, unowned
}

// OSRelease is the part of /etc/os-release that Kiln uses.
type OSRelease struct {
	ID         string `json:"id"`
	VersionID  string `json:"version_id"`
	Codename   string `json:"codename"`
	PrettyName string `json:"pretty_name"`
}

// Package is one installed package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Source       string `json:"source"` // source package name

	SourceVersion string   `json:"source_version,omitempty"` // where it is not Version
	Licenses      []string `json:"licenses,omitempty"`       // as its copyright file, or its header, names them; empty where that is prose
	Vendor        string   `json:"vendor,omitempty"`         // who packaged it, by an rpm package's own word
}

// ImageState says whether the facts of an image are known.
type ImageState string

// The states of an image's facts.
const (
	Waiting    ImageState = "pending"
	Inspected  ImageState = "inspected"
	Unreadable ImageState = "unreadable"
	Gone       ImageState = "deleted" // Glance has it no more; what was found stays known
)

// Image is what Kiln keeps of one Glance image.
type Image struct {
	ID             string     `json:"id"` // Glance's
	ProjectID      string     `json:"project_id"`
	Name           string     `json:"name"`
	State          ImageState `json:"state"`
	Reason         string     `json:"reason"` // why it is unreadable
	Digest         string     `json:"digest"` // "sha512:<hex>", Glance's os_hash
	Size           int64      `json:"size"`   // bytes
	Facts          *Facts     `json:"facts,omitempty"`
	PendingUpdates int        `json:"pending_updates"` // packages with a published fix, at UpdatedAt
	FactsVersion   int        `json:"facts_version"`   // of the reader that found State, see FactsVersion; 0 before
	Status         string     `json:"status"`          // Glance's: active, deactivated, …
	Visibility     string     `json:"visibility"`      // Glance's: public, community, shared, private
	Tags           []string   `json:"tags"`            // Glance's, sorted
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`

	// How urgent an upgrade is: see docs/advisories.md. Comparing and counting write these and PendingUpdates; putting
	// an image that is there leaves them.
	Lacks        Urgencies  `json:"lacks"`
	PendingSince *time.Time `json:"pending_since"` // when the oldest fix that is pending was first seen
	Running      int        `json:"running"`       // servers and containers that run from it
	Weight       int        `json:"weight"`        // of what it lacks
	Rank         int        `json:"rank"`          // Weight × (1 + Running)
}

// Urgencies counts source packages with a pending fix, each once, by the urgency of their worst one.
type Urgencies struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
}

// Store keeps families, versions, channels and images.
type Store interface {
	// EnsureFamily returns the family of that name in the project, made where it is missing.
	EnsureFamily(ctx context.Context, projectID string, name FamilyName) (Family, error)
	CreateFamily(ctx context.Context, f Family) error // errs.Conflict where the name is taken in the project
	FindFamily(ctx context.Context, projectID string, name FamilyName) (Family, error)
	FamilyByID(ctx context.Context, id string) (Family, error)
	ListFamilies(ctx context.Context, q listing.Query) ([]Family, error)

	// NameVersion takes the next name of the day for what the build or upgrade origin makes; asking again answers the
	// same. A name is taken once, so an image can be shown under it before its version is written.
	NameVersion(ctx context.Context, familyID, originID string, day time.Time) (string, error)
	AddVersion(ctx context.Context, v Version) error // errs.Conflict where family and name exist
	FindVersion(ctx context.Context, familyID, name string) (Version, error)
	VersionByImage(ctx context.Context, imageID string) (Version, error)
	ListVersions(ctx context.Context, q listing.Query) ([]Version, error)
	SetVersionState(ctx context.Context, id string, from, to VersionState) error // errs.Conflict where it is not in from
	SetVersionNote(ctx context.Context, id string, pinned bool, note string) error
	// UpdateVersion writes state, pin, note and RevokedWith; errs.Conflict where the version is not in from.
	UpdateVersion(ctx context.Context, v Version, from VersionState) error
	// SetChannel is MoveChannel of kind MovePublish, without a user or a reason.
	SetChannel(ctx context.Context, familyID, channel, version string) error
	// MoveChannel lets a channel point to a version, or removes it where Version is "", and writes history; where it
	// stands there already it changes nothing. It gives the move as written. Where Before is given and the channel
	// points elsewhere by now it is errs.Conflict "kiln.channel.moved".
	MoveChannel(ctx context.Context, m ChannelMove) (ChannelMove, error)
	ListChannelMoves(ctx context.Context, q listing.Query) ([]ChannelMove, error)
	// LockFamily makes other writers of the family's channels and versions wait until the transaction of ctx ends.
	// It must be the transaction's first question, so that what is read after it is new.
	LockFamily(ctx context.Context, id string) error
	UpdateFamily(ctx context.Context, f Family) error // description and retention

	PutImage(ctx context.Context, i Image) error // insert or replace
	FindImage(ctx context.Context, id string) (Image, error)
	// ListImages lists those that are gone only where the filter asks for their state.
	ListImages(ctx context.Context, q listing.Query) ([]Image, error)
	// ListImageHeads lists images without their facts, which are large; those that are gone, too.
	ListImageHeads(ctx context.Context, q listing.Query) ([]Image, error)
	// PutImageHead inserts an image, or writes what does not come from its bytes: facts, their version, digest, size and
	// the number of pending updates stay.
	PutImageHead(ctx context.Context, i Image) error
	// BuryImage notes that Glance has the image no more, and forgets what is published against it; false where there is
	// none, or it is gone already.
	BuryImage(ctx context.Context, id string, at time.Time) (bool, error)
}

// Resolve finds the version that family and channel, or a version's name, mean.
// which may be "" for the channel stable, falling back to candidate; fallback tells that it did.
func Resolve(ctx context.Context, s Store, projectID string, family FamilyName, which string) (v Version, fallback string, err error) {
	f, err := s.FindFamily(ctx, projectID, family)
	if err != nil {
		return Version{}, "", err
	}
	name, ok := f.Channels[which]
	switch {
	case ok:
	case which == "":
		name, ok = f.Channels[Stable]
		if !ok {
			name, ok = f.Channels[Candidate]
			fallback = "the family has no channel stable; candidate was used"
		}
		if !ok {
			return Version{}, "", errs.New(errs.Conflict, "kiln.family.empty", "family %s has no version yet: build one first", family)
		}
	default:
		name = which
	}
	v, err = s.FindVersion(ctx, f.ID, name)
	if err != nil {
		return Version{}, "", err
	}
	return v, fallback, v.MayUse()
}

// MayUse refuses a version that nothing may be started or built from: errs.Conflict.
func (v Version) MayUse() error {
	switch v.State {
	case Revoked:
		why := ""
		if v.Note != "" {
			why = ": " + v.Note
		}
		return errs.New(errs.Conflict, "kiln.version.revoked", "version %s of %s is revoked%s", v.Name, v.Family, why)
	case Deleting, Deleted:
		return errs.New(errs.Conflict, "kiln.version.deleted", "version %s of %s was deleted by the retention of its family", v.Name, v.Family)
	}
	return nil
}
