// Package upgrade makes a new version from an old one without booting it. The old one is never touched.
package upgrade

import (
	"context"
	"io"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// State is where an upgrade is.
type State string

// The states of an upgrade.
const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Unchanged State = "unchanged" // nothing was pending
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Upgrade is one run: from one image to the next version.
type Upgrade struct {
	ID          string             `json:"id"`
	ProjectID   string             `json:"project_id"`
	Family      catalog.FamilyName `json:"family"`
	FromVersion string             `json:"from_version"`
	FromImageID string             `json:"from_image_id"`
	ToVersion   string             `json:"to_version"`
	ToImageID   string             `json:"to_image_id"`
	State       State              `json:"state"`
	JobID       string             `json:"job_id"`
	Report      *Report            `json:"report,omitempty"`
	Error       string             `json:"error"`
	CreatedAt   time.Time          `json:"created_at"`
	UpdatedAt   time.Time          `json:"updated_at"`
}

// Suite is one package repository that an upgrade takes fixes from.
type Suite struct {
	Mirror     string   `json:"mirror"` // base URL
	Suite      string   `json:"suite"`  // bookworm-security
	Components []string `json:"components"`
}

// Request is what an Upgrader is given. Original is only read.
type Request struct {
	Original       string // path
	OriginalFormat string // "qcow2" or "raw", as Glance says; checked before anything opens the file
	Suites         []Suite
	WorkDir        string // empty, on a disk with room
	Output         string // path of the new image
	OutputFormat   string // "qcow2" or "raw"
	Log            io.Writer
	Progress       func(step string, done, total int64, unit string)
}

// PackageChange is one package that the upgrade changed.
type PackageChange struct {
	Name   string   `json:"name"`
	From   string   `json:"from"` // "" where it is new
	To     string   `json:"to"`   // "" where it was removed
	Source string   `json:"source"`
	CVEs   []string `json:"cves"` // named in the changelog between From and To
}

// Report is what an upgrade did.
type Report struct {
	Unchanged  bool            `json:"unchanged"` // nothing was pending; there is no output file
	Packages   []PackageChange `json:"packages"`
	CVEs       []string        `json:"cves"` // all of them, sorted
	Held       []string        `json:"held"` // pending packages that were not upgraded
	KernelFrom string          `json:"kernel_from"`
	KernelTo   string          `json:"kernel_to"`
	Downloaded int64           `json:"downloaded_bytes"`
	Steps      []build.Step    `json:"steps"`
}

// Upgrader makes the new image file. It is safe to call again after any failure, and leaves nothing mounted,
// looped or running when it returns or when its process is killed.
type Upgrader interface {
	Upgrade(ctx context.Context, req Request) (Report, error)
}

// Store keeps upgrades.
type Store interface {
	CreateUpgrade(ctx context.Context, u Upgrade) error
	UpdateUpgrade(ctx context.Context, u Upgrade) error
	FindUpgrade(ctx context.Context, id string) (Upgrade, error)
	ListUpgrades(ctx context.Context, q listing.Query) ([]Upgrade, error)
}
