// Package upgrade makes a new version from an old one without booting it. The old one is never touched.
package upgrade

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
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
	Policy      Policy             `json:"policy"`
	CampaignID  string             `json:"campaign_id"` // "" for one that somebody asked for by itself
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

// Policy says how an upgrade does what can be done in several ways. The zero value is the careful way.
type Policy struct {
	Conffiles string `json:"conffiles,omitempty"` // configuration files that owner and package both changed: keep (the default), new, fail
	Running   string `json:"running,omitempty"`   // packages whose scripts need a running system: hold (the default), boot (in quarantine)
	Security  bool   `json:"security,omitempty"`  // fixes of security suites only
	GrowGiB   int    `json:"grow_gib,omitempty"`  // how far a full disk may grow, in GiB of its virtual size; 0: not at all
	TestBoot  bool   `json:"test_boot,omitempty"` // the new version is booted before it is published
}

// Values of Policy.Conffiles and Policy.Running; "" is the first of each.
const (
	ConffilesKeep = "keep"
	ConffilesNew  = "new"
	ConffilesFail = "fail"
	RunningHold   = "hold"
	RunningBoot   = "boot"
)

// maxGrowGiB bounds Policy.GrowGiB.
const maxGrowGiB = 16 << 10

// Check refuses a policy that nobody can follow: errs.Invalid.
func (p Policy) Check() error {
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.Invalid, "kiln.upgrade.policy", format, args...).At(errs.Where{Field: "policy." + field})
	}
	switch {
	case !slices.Contains([]string{"", ConffilesKeep, ConffilesNew, ConffilesFail}, p.Conffiles):
		return bad("conffiles", "%q is no way to treat configuration files: keep, new or fail", p.Conffiles)
	case !slices.Contains([]string{"", RunningHold, RunningBoot}, p.Running):
		return bad("running", "%q is no way to treat packages that need a running system: hold or boot", p.Running)
	case p.GrowGiB < 0 || p.GrowGiB > maxGrowGiB:
		return bad("grow_gib", "%d GiB: a disk may grow by 0 to %d GiB", p.GrowGiB, maxGrowGiB)
	}
	return nil
}

// Request is what an Upgrader is given. Original is only read.
type Request struct {
	Original       string // path
	OriginalFormat string // "qcow2" or "raw", as Glance says; checked before anything opens the file
	Suites         []Suite
	Repositories   []Repository // instead of Suites, for rpm systems
	WorkDir        string       // empty, on a disk with room
	Output         string       // path of the new image; to be uploaded: nobody waits until it is on stable storage
	OutputFormat   string       // "qcow2" or "raw"
	Policy         Policy
	// Shares are changes that other images of the batch get too (Batch.Shares), each closed under its dependencies when those
	// before it are made. The first image whose upgrade has them all is recorded while the package manager makes them; the next
	// ones get the record where every input of it is proven equal. Empty: the package manager does everything.
	Shares   [][]PackageRef
	Log      io.Writer
	Progress func(step string, done, total int64, unit string)
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

	Conffiles []Conffile `json:"conffiles"` // that owner and package both changed
	Strays    []Stray    `json:"strays"`
	Setuid    []string   `json:"setuid"`   // programs that a package ships with more rights than they had, as "path (package)"
	Scripts   []Ran      `json:"scripts"`  // maintainer scripts that are more than safe
	Record    string     `json:"record"`   // what the batch's shared changes came by: "", recorded, replayed, or why they were not replayed
	Replayed  int        `json:"replayed"` // files that came from the record
	Changed   int        `json:"changed"`  // files that differ from the original
	GrownTo   int64      `json:"grown_to"` // virtual size in bytes; 0 where it stayed

	Quarantine *Quarantine `json:"quarantine,omitempty"` // nil where nothing was done in one
}

// Quarantine is what was done in a boot of the copy, for packages whose maintainer scripts need a running system.
type Quarantine struct {
	Packages []string `json:"packages"`
	Seconds  float64  `json:"seconds"`  // from the machine's start until it was off
	Changed  []string `json:"changed"`  // files of no package that the packages' scripts, or servers that ran for them, made or changed
	PutBack  int      `json:"put_back"` // files that the boot itself made or changed, and that are as they were
}

// Conffile is a configuration file that its owner and its package both changed.
type Conffile struct {
	Path    string `json:"path"`
	Package string `json:"package"`
	Taken   string `json:"taken"` // owner: as it was; package: the new one
	Left    string `json:"left"`  // where the other text lies in the image; "" where it is nowhere
}

// Values of Conffile.Taken.
const (
	TakenOwner   = "owner"
	TakenPackage = "package"
)

// Stray is a file that an upgrade made and that belongs to no package and to nothing that maintainer scripts are known to make.
type Stray struct {
	Path    string `json:"path"`
	Removed bool   `json:"removed"` // from a folder where no package may leave anything; else it is in the new version
}

// Ran is a package whose maintainer scripts were more than safe.
type Ran struct {
	Package string `json:"package"`
	Script  Script `json:"script"`
	Why     string `json:"why"`
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
