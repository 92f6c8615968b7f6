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
	JobID       string             `json:"job_id"`
	VersionName string             `json:"version"`
	ImageID     string             `json:"image_id"`
	InputDigest string             `json:"input_digest"`
	Steps       []Step             `json:"steps"` // how long each took
	Error       string             `json:"error"`
	CreatedAt   time.Time          `json:"created_at"`
	UpdatedAt   time.Time          `json:"updated_at"`
}

// Step is one part of a build or upgrade with the time that it took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Source is a git repository of recipes.
type Source struct {
	ID        string     `json:"id"`
	ProjectID string     `json:"project_id"`
	Name      string     `json:"name"`
	URL       string     `json:"url"`
	Ref       string     `json:"ref"`   // branch or tag; "" means the remote's HEAD
	State     string     `json:"state"` // new, syncing, ready, failed
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

// Request is what a Builder is given.
type Request struct {
	Recipe  *recipe.Recipe
	Files   recipe.Files // the repository at the commit, for the files that the recipe names
	WorkDir string       // empty, on a disk with room; the builder leaves only Output in it
	Output  string       // path of the image to write
	Log     io.Writer    // the output of commands
	// Progress tells the step, and done of total in unit ("bytes" or "steps").
	Progress func(step string, done, total int64, unit string)
}

// Result is what a Builder made.
type Result struct {
	Path        string
	Format      string // "qcow2" or "raw"
	VirtualSize int64  // bytes
	Steps       []Step
	Downloaded  int64 // bytes fetched from package mirrors
}

// Builder makes an image from a recipe. It is safe to call again after any failure, and leaves nothing
// mounted, looped or running when it returns or when its process is killed.
type Builder interface {
	Name() string
	// InputState names the state of everything outside the recipe that the image depends on
	// (the digests of the repositories' signed indexes, the builder's version).
	InputState(ctx context.Context, r *recipe.Recipe) (string, error)
	Build(ctx context.Context, req Request) (Result, error)
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
	CreateSource(ctx context.Context, s Source) error // errs.Conflict where the name is taken in the project
	UpdateSource(ctx context.Context, s Source) error
	FindSource(ctx context.Context, id string) (Source, error)
	ListSources(ctx context.Context, q listing.Query) ([]Source, error)
	DeleteSource(ctx context.Context, id string) error // with its recipes; builds stay

	// ReplaceRecipes makes rs the recipes of the source; rows of the same path keep their ids.
	ReplaceRecipes(ctx context.Context, sourceID string, rs []Recipe) error
	FindRecipe(ctx context.Context, id string) (Recipe, error)
	ListRecipes(ctx context.Context, q listing.Query) ([]Recipe, error)

	CreateBuild(ctx context.Context, b Build) error
	UpdateBuild(ctx context.Context, b Build) error
	FindBuild(ctx context.Context, id string) (Build, error)
	ListBuilds(ctx context.Context, q listing.Query) ([]Build, error)
}
