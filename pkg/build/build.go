// Package build is one run of a recipe: what goes in, who does it, and what comes out.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// State is where a build is.
type State string

// The states of a build.
const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Unchanged State = "unchanged" // every input equals that of an existing version; VersionName names it
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Trigger says why a build was asked for.
type Trigger string

// The triggers. A burst of them makes one build: see Service.Triggered.
const (
	ByPerson   Trigger = "person"
	ByPush     Trigger = "push"
	BySchedule Trigger = "schedule"
	ByBase     Trigger = "base"     // the channel that the recipe stands on moved
	ByAdvisory Trigger = "advisory" // a fix was published
)

// Build is one run of a recipe.
type Build struct {
	ID          string             `json:"id"`
	ProjectID   string             `json:"project_id"`
	SourceID    string             `json:"source_id"`
	RecipeID    string             `json:"recipe_id"`
	Recipe      string             `json:"recipe"`
	Commit      string             `json:"commit"`
	Family      catalog.FamilyName `json:"family"`
	State       State              `json:"state"`
	Force       bool               `json:"force"` // build even where nothing changed
	Trigger     Trigger            `json:"trigger"`
	Reason      string             `json:"reason"`  // in words: "push of 1a2b3c by alice", "advisory of urgency high for openssl"
	UserID      string             `json:"user_id"` // who asked for it; "" for a trigger without a person
	Builder     string             `json:"builder"`
	Needs       []string           `json:"needs"`  // labels that its worker must have
	Worker      string             `json:"worker"` // who ran it last
	JobID       string             `json:"job_id"`
	VersionName string             `json:"version"`
	ImageID     string             `json:"image_id"`
	InputDigest string             `json:"input_digest"`
	Materials   []Material         `json:"materials"` // what went in, beside the repository's files
	Steps       []Step             `json:"steps"`     // how long each took
	Error       string             `json:"error"`
	CreatedAt   time.Time          `json:"created_at"`
	UpdatedAt   time.Time          `json:"updated_at"`
}

// Step is one part of a build or upgrade with the time that it took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Cached  bool    `json:"cached,omitempty"` // its result was there already
}

// Source is a git repository of recipes.
type Source struct {
	ID        string     `json:"id"`
	ProjectID string     `json:"project_id"`
	Name      string     `json:"name"`
	URL       string     `json:"url"`
	Hosted    bool       `json:"hosted"`    // Kiln keeps the repository itself; URL is HostedURL(ID)
	Ref       string     `json:"ref"`       // branch or tag; "" means the remote's HEAD, and for a hosted one what is pushed first
	State     string     `json:"state"`     // new, syncing, ready, failed
	Interval  string     `json:"interval"`  // how often it is pulled, "15m"; "" for only when asked or told by a webhook
	NextSync  *time.Time `json:"next_sync"` // when it is pulled next; nil where there is no interval
	Secret    string     `json:"-"`         // that its webhooks are signed with
	Commit    string     `json:"commit"`
	Error     string     `json:"error"`
	JobID     string     `json:"job_id"`
	SyncedAt  *time.Time `json:"synced_at"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
}

// Recipe is one recipe file of a source at its last synced commit. Problems is empty where it is valid.
type Recipe struct {
	ID        string         `json:"id"`
	ProjectID string         `json:"project_id"`
	SourceID  string         `json:"source_id"`
	Name      string         `json:"name"`
	Path      string         `json:"path"`
	Commit    string         `json:"commit"`
	Digest    string         `json:"digest"` // sha256 of the recipe and of every file that it names
	Spec      *recipe.Recipe `json:"spec,omitempty"`
	Problems  []Problem      `json:"problems"`
	UpdatedAt time.Time      `json:"updated_at"`
}

// Problem is one fault of a recipe file.
type Problem struct {
	Code   string     `json:"code"`
	Detail string     `json:"detail"`
	Where  errs.Where `json:"where"`
}

// Base is the image that a recipe stands on, on this worker's disk. It is never written to.
type Base struct {
	Path    string
	Format  string // "qcow2" or "raw"; it was inspected, so it names no other file
	Digest  string // of the file
	Family  catalog.FamilyName
	Version string
	ImageID string
	Facts   *catalog.Facts
}

// Request is what a Builder is given.
type Request struct {
	Recipe  *recipe.Recipe // resolved: Plan has every step
	Files   recipe.Files   // the repository at the commit, for the files that the recipe names
	Base    *Base          // what recipe.From.Family means; nil for a recipe that stands on a release
	Lock    *deb.Lock      // the packages to use, and no others; nil for what the mirror has today
	Seed    string         // what UUIDs are derived from: the same seed, the same UUIDs; "" for random ones
	Epoch   time.Time      // no file of the image is younger; zero: times are as they come
	Fresh   bool           // use no step's result of an earlier build
	WorkDir string         // empty, on a disk with room; the builder leaves only Output in it
	Output  string         // path of the disk to write, in Recipe.Output.Format
	Log     io.Writer      // the output of commands
	// Progress tells the step, and done of total in unit ("bytes" or "steps").
	Progress func(step string, done, total int64, unit string)
}

// Result is what a Builder made.
type Result struct {
	Path        string
	Format      string // "qcow2" or "raw"
	VirtualSize int64  // bytes
	Steps       []Step
	Downloaded  int64      // bytes fetched from package mirrors
	Materials   []Material // what went in, beside the repository's files
}

// Material is one input of a build, for its provenance.
type Material struct {
	URI    string `json:"uri"`    // "pkg:deb/debian/nginx@1.22.1-9?arch=amd64", the address of an index, "kiln:family/version"
	Digest string `json:"digest"` // "sha256:<hex>"
}

// PlannedStep is one step as a build would do it now.
type PlannedStep struct {
	Name   string `json:"name"`
	Recipe string `json:"recipe,omitempty"` // that asks for it; "" for the builder's own steps
	Key    string `json:"key,omitempty"`    // of the layer that it makes; "" where its result is not kept
	Cached bool   `json:"cached"`           // this worker has that layer
}

// Builder makes a disk from a recipe. It is safe to call again after any failure, and leaves nothing
// mounted, looped or running when it returns or when its process is killed.
type Builder interface {
	Name() string
	// InputState names the state of everything outside the recipe that the image depends on
	// (the digests of the repositories' signed indexes, the base's digest, the builder's version). Of req it reads
	// Recipe, Base and Lock.
	InputState(ctx context.Context, req Request) (string, error)
	// Plan tells the steps of the build and which of their results are there; nothing is built.
	Plan(ctx context.Context, req Request) ([]PlannedStep, error)
	Build(ctx context.Context, req Request) (Result, error)
}

// Artifact is one file that a build publishes.
type Artifact struct {
	Format      string // "qcow2", "raw", "docker", "system", "vmdk", "vhd"
	Path        string
	VirtualSize int64 // bytes of a disk; 0 for an archive
}

// Outputs makes the further artifacts of a finished disk (recipe.Output.Also).
type Outputs interface {
	// Make writes the disk as the format into dir. The disk is only read.
	Make(ctx context.Context, disk Artifact, format, dir string, r *recipe.Recipe, log io.Writer) (Artifact, error)
}

// BootTest is a boot of an image that nobody sees yet.
type BootTest struct {
	Disk     Artifact       // on this worker's disk
	ImageID  string         // in Glance, private
	Key      string         // the build's: by it a later attempt finds what a killed one left in the cloud
	Firmware string         // "bios", "uefi" or "both"
	Facts    *catalog.Facts // read from the disk
	Tests    []BootCommand  // the recipe's
	Log      io.Writer      // gets the console
	Progress func(text string, done, total int64)
}

// BootCommand is one test of a recipe with its text read.
type BootCommand struct {
	Name    string
	Text    string
	Timeout time.Duration
}

// BootReport is how a test boot went.
type BootReport struct {
	Method    string        `json:"method"` // "qemu" or "nova"
	Firmware  string        `json:"firmware"`
	Seconds   float64       `json:"seconds"`    // until the system was up
	CloudInit string        `json:"cloud_init"` // its own status, "done"; "" where the image has none
	Tests     []CommandTest `json:"tests"`
	Console   string        `json:"-"` // the console's whole log, bounded
}

// CommandTest is how one command went.
type CommandTest struct {
	Name    string  `json:"name"`
	Status  int     `json:"status"`
	Seconds float64 `json:"seconds"`
	Output  string  `json:"output"` // its end
}

// Booter boots an image where nobody sees it and runs the recipe's tests. An image that does not come up, or whose
// tests fail, is errs.Invalid with code kiln.build.boot_test; what has nothing to do with the image is another kind.
// It leaves nothing running, also after a kill -9.
type Booter interface {
	Boot(ctx context.Context, t BootTest) (BootReport, error)
}

// InputDigest is one name for all that goes into a build: equal digests mean that nothing changed.
func InputDigest(recipeDigest, builder, inputState string) string {
	b, err := json.Marshal([]string{"kiln build 1", recipeDigest, builder, inputState})
	if err != nil { // strings always marshal
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Store keeps sources, recipes and builds.
type Store interface {
	Repositories
	TriggerStore

	CreateSource(ctx context.Context, s Source) error // errs.Conflict where the name is taken in the project
	UpdateSource(ctx context.Context, s Source) error
	FindSource(ctx context.Context, id string) (Source, error)
	ListSources(ctx context.Context, q listing.Query) ([]Source, error)
	DeleteSource(ctx context.Context, id string) error // with its recipes and its hosted repository; builds stay
	// LockSource holds the source until the transaction ends; errs.NotFound where there is none.
	LockSource(ctx context.Context, id string) error
	// DueSources are those whose NextSync is not after now, the longest due first.
	DueSources(ctx context.Context, now time.Time, limit int) ([]Source, error)
	// TakeSync moves NextSync from was to next, and tells whether it was still was: of many engines one does it.
	TakeSync(ctx context.Context, id string, was, next time.Time) (bool, error)
	// NoteDelivery keeps the id of a webhook's delivery, and tells whether it is new.
	NoteDelivery(ctx context.Context, sourceID, delivery string, now time.Time) (fresh bool, err error)
	// ForgetDeliveries drops what NoteDelivery kept before then.
	ForgetDeliveries(ctx context.Context, before time.Time) error

	// ReplaceRecipes makes rs the recipes of the source; rows of the same path keep their ids.
	ReplaceRecipes(ctx context.Context, sourceID string, rs []Recipe) error
	FindRecipe(ctx context.Context, id string) (Recipe, error)
	ListRecipes(ctx context.Context, q listing.Query) ([]Recipe, error)

	CreateBuild(ctx context.Context, b Build) error
	UpdateBuild(ctx context.Context, b Build) error
	FindBuild(ctx context.Context, id string) (Build, error)
	ListBuilds(ctx context.Context, q listing.Query) ([]Build, error)
}
