// Package campaign is one upgrade over many images: which ones, how many at a time, at what hours, when to stop, and what came
// of it; and the standing policies that start campaigns by themselves when fixes appear.
package campaign

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// State is where a campaign is.
type State string

// The states of a campaign.
const (
	Planning  State = "planning"  // its images are chosen, and what their upgrades would do is found out
	Ready     State = "ready"     // waits for approval
	Running   State = "running"   // starts upgrades
	Waiting   State = "waiting"   // for its hours
	Paused    State = "paused"    // by a person; what runs ends
	Succeeded State = "succeeded" // every image has had its turn; some may have failed
	Failed    State = "failed"    // stopped because too many images failed
	Cancelled State = "cancelled"
)

// Final reports whether nothing is started any more.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Cancelled }

// ItemState is where one image of a campaign is.
type ItemState string

// The states of an item. Pending and Started are open.
const (
	Pending       ItemState = "pending" // waits for its turn, or for what its reason says
	Started       ItemState = "running" // its upgrade is queued or runs
	Done          ItemState = "succeeded"
	Unchanged     ItemState = "unchanged" // nothing was to be done
	ItemFailed    ItemState = "failed"
	Skipped       ItemState = "skipped" // the reason says why
	ItemCancelled ItemState = "cancelled"
)

// Final reports whether the image has had its turn.
func (s ItemState) Final() bool { return s != Pending && s != Started }

// Promise says how it stands with the hours within which a fix was promised.
type Promise string

// The states of a promise; "" where none was given.
const (
	PromiseOpen   Promise = "open"
	PromiseAtRisk Promise = "at_risk" // as long as upgrades take, it cannot be kept
	PromiseKept   Promise = "kept"
	PromiseBroken Promise = "broken"
)

// Counts are the images of a campaign by their states.
type Counts struct {
	Total     int `json:"total"`
	Pending   int `json:"pending"`
	Running   int `json:"running"`
	Succeeded int `json:"succeeded"`
	Unchanged int `json:"unchanged"`
	Failed    int `json:"failed"`
	Skipped   int `json:"skipped"`
	Cancelled int `json:"cancelled"`
}

// Ended is how many have had their turn.
func (c Counts) Ended() int { return c.Total - c.Pending - c.Running }

// Campaign is one upgrade over many images.
type Campaign struct {
	ID                string         `json:"id"`
	ProjectID         string         `json:"project_id"`
	Name              string         `json:"name"`
	PolicyID          string         `json:"policy_id"` // the standing policy that made it; "" for one that a person asked for
	Filter            Filter         `json:"filter"`
	Policy            upgrade.Policy `json:"policy"`
	MaxParallel       int            `json:"max_parallel"`
	StopAfterFailures int            `json:"stop_after_failures"` // 0: it does not stop
	Hours             []string       `json:"hours"`               // see ParseHours
	Approve           bool           `json:"approve"`             // it waits in state ready
	State             State          `json:"state"`
	Reason            string         `json:"reason"`
	Open              bool           `json:"open"` // something of it may still run
	Counts            Counts         `json:"counts"`
	SpentSeconds      int64          `json:"spent_seconds"` // of the images that have had their upgrade, each for itself
	HotfixBy          *time.Time     `json:"hotfix_by"`     // when every image shall have the fix
	Promise           Promise        `json:"promise"`
	Overtime          bool           `json:"overtime"` // it goes on outside its hours, because of the promise
	PlanJobID         string         `json:"plan_job_id"`
	UserID            string         `json:"user_id"`
	RequestID         string         `json:"request_id"`
	CreatedAt         time.Time      `json:"created_at"`
	UpdatedAt         time.Time      `json:"updated_at"`
	StartedAt         *time.Time     `json:"started_at"`
	FinishedAt        *time.Time     `json:"finished_at"`

	Chosen  bool            `json:"-"` // its items are written
	Batches []upgrade.Batch `json:"-"` // Item.Batch counts them from 1
}

// Item is one image of a campaign.
type Item struct {
	ID         string             `json:"id"`
	CampaignID string             `json:"campaign_id"`
	ImageID    string             `json:"image_id"`
	ProjectID  string             `json:"project_id"` // of the image
	Name       string             `json:"name"`       // of the image
	Family     catalog.FamilyName `json:"family"`     // "" until an image of no family is adopted
	Version    string             `json:"version"`
	Lacks      int                `json:"lacks"` // published fixes that it lacked when it was chosen
	CVEs       []string           `json:"cves"`  // that those close, as far as they were known
	Position   int                `json:"position"`
	Batch      int                `json:"batch"` // of images that share a part of their upgrades; 0 for none
	State      ItemState          `json:"state"`
	Reason     string             `json:"reason"`
	UpgradeID  string             `json:"upgrade_id"`
	HeldBy     string             `json:"held_by"` // the upgrade of somebody else that it waits for
	ToVersion  string             `json:"to_version"`
	ToImageID  string             `json:"to_image_id"`
	StartedAt  *time.Time         `json:"started_at"`
	FinishedAt *time.Time         `json:"finished_at"`
	CreatedAt  time.Time          `json:"created_at"`
	UpdatedAt  time.Time          `json:"updated_at"`
}

// Need is a fix that an image lacks and that is urgent enough for a policy.
type Need struct {
	ImageID    string
	ProjectID  string
	AdvisoryID string
	AppearedAt time.Time // when both the advisory and the image were there
}

// Store keeps campaigns and standing policies.
type Store interface {
	CreateCampaign(ctx context.Context, c Campaign) error
	// LockCampaign makes other writers of the campaign wait until the transaction of ctx ends; errs.NotFound.
	LockCampaign(ctx context.Context, id string) error
	UpdateCampaign(ctx context.Context, c Campaign) error
	FindCampaign(ctx context.Context, id string) (Campaign, error)
	ListCampaigns(ctx context.Context, q listing.Query) ([]Campaign, error)
	AddCampaignItems(ctx context.Context, items []Item) error
	UpdateCampaignItem(ctx context.Context, i Item) error
	ListCampaignItems(ctx context.Context, q listing.Query) ([]Item, error)

	// ListPending are the published fixes that an image lacks.
	ListPending(ctx context.Context, imageID string) ([]advisory.Pending, error)
	// UrgentNeeds are the fixes of at least the urgency that images lack which were not superseded; only those of security
	// suites where security is set. One that nobody gave an urgency counts as medium where it is of a security suite, as low else.
	UrgentNeeds(ctx context.Context, least string, security bool) ([]Need, error)

	CreateUpgradePolicy(ctx context.Context, p Policy) error // errs.Conflict where the name is taken in the project
	LockUpgradePolicy(ctx context.Context, id string) error  // as LockCampaign
	UpdateUpgradePolicy(ctx context.Context, p Policy) error
	DeleteUpgradePolicy(ctx context.Context, id string) error
	FindUpgradePolicy(ctx context.Context, id string) (Policy, error)
	ListUpgradePolicies(ctx context.Context, q listing.Query) ([]Policy, error)
	// TriedImages tells when a campaign of the policy last took each image.
	TriedImages(ctx context.Context, policyID string) (map[string]time.Time, error)
}
