package upgrade

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// JobPayload is the input of a job.Upgrade.
type JobPayload struct {
	UpgradeID string         `json:"upgrade_id"`
	Shares    [][]PackageRef `json:"shares,omitempty"` // Request.Shares
}

// NeedTestBoot is the label of workers that can boot what they made.
const NeedTestBoot = "test_boot"

// Wish is how somebody wants an upgrade. The zero value is one upgrade by itself, done the careful way.
type Wish struct {
	Policy     Policy
	CampaignID string
	Shares     [][]PackageRef // Request.Shares
}

// CodeOpen is the code of the refusal of a second upgrade of one version.
const CodeOpen = "kiln.upgrade.open"

// Service starts upgrades.
type Service struct {
	job.Desk
	Store Store
}

// Request starts the upgrade of a version into a new one of its family. errs.Conflict for a revoked or deleted version,
// and while an upgrade of it is open.
func (s *Service) Request(ctx context.Context, by job.By, v catalog.Version, w Wish) (Upgrade, error) {
	if err := v.MayUse(); err != nil {
		return Upgrade{}, err
	}
	if err := w.Policy.Check(); err != nil {
		return Upgrade{}, err
	}
	var u Upgrade
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.refuseSecond(ctx, v); err != nil {
			return err
		}
		now := s.Now().UTC()
		u = Upgrade{
			ID: s.NewID(), ProjectID: v.ProjectID, Family: v.Family, FromVersion: v.Name, FromImageID: v.ImageID,
			State: Queued, JobID: s.NewID(), Policy: w.Policy, CampaignID: w.CampaignID, CreatedAt: now, UpdatedAt: now,
		}
		if err := s.Store.CreateUpgrade(ctx, u); err != nil {
			return err
		}
		var needs []string
		if w.Policy.TestBoot {
			needs = []string{NeedTestBoot}
		}
		if _, err := s.Start(ctx, by, job.Draft{
			ID: u.JobID, Kind: job.Upgrade, Queue: job.WorkerQueue, Needs: needs, ProjectID: u.ProjectID,
			Resource: "upgrades/" + u.ID, Payload: JobPayload{UpgradeID: u.ID, Shares: w.Shares},
		}); err != nil {
			return err
		}
		return s.Tell(ctx, by, "upgrade.queued", "upgrades/"+u.ID, u.ProjectID, u)
	})
	return u, err
}

func (s *Service) refuseSecond(ctx context.Context, v catalog.Version) error {
	for _, state := range []State{Queued, Running} {
		open, err := s.Store.ListUpgrades(ctx, listing.Query{Limit: 1}.Where("from_image_id", v.ImageID).Where("state", string(state)))
		if err != nil {
			return err
		}
		if len(open) > 0 {
			return errs.New(errs.Conflict, CodeOpen, "upgrade %s of this version is %s: wait for it, or cancel job %s", open[0].ID, state, open[0].JobID)
		}
	}
	return nil
}

// Cancelled writes the end of an upgrade whose job was cancelled before it ran.
func (s *Service) Cancelled(ctx context.Context, by job.By, j job.Job) error {
	var p JobPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	u, err := s.Store.FindUpgrade(ctx, p.UpgradeID)
	if err != nil {
		return err
	}
	u.State, u.Error, u.UpdatedAt = Cancelled, "cancelled on request before it started", s.Now().UTC()
	if err := s.Store.UpdateUpgrade(ctx, u); err != nil {
		return err
	}
	return s.Tell(ctx, by, "upgrade.cancelled", "upgrades/"+u.ID, u.ProjectID, u)
}
