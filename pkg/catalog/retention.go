package catalog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Retention is what a family says of how long its versions are kept; nil parts are the configuration's.
type Retention struct {
	KeepCount *int `json:"keep_count,omitempty"` // the newest so many are kept
	KeepDays  *int `json:"keep_days,omitempty"`  // younger ones are kept
}

// Limits are the rules of retention with every part known. A version goes only where both let it.
type Limits struct {
	KeepCount int `json:"keep_count"`
	KeepDays  int `json:"keep_days"`
}

// Limits fills what the family does not say.
func (r Retention) Limits(defaults Limits) Limits {
	if r.KeepCount != nil {
		defaults.KeepCount = *r.KeepCount
	}
	if r.KeepDays != nil {
		defaults.KeepDays = *r.KeepDays
	}
	return defaults
}

func (r Retention) check() error {
	for field, n := range map[string]*int{"retention.keep_count": r.KeepCount, "retention.keep_days": r.KeepDays} {
		if n != nil && (*n < 0 || *n > 100_000) {
			return errs.New(errs.Invalid, "kiln.family.retention", "write a number from 0 to 100000").At(errs.Where{Field: field})
		}
	}
	return nil
}

// Fate is what retention did with a version, or would do.
type Fate string

// The fates.
const (
	Kept    Fate = "kept"
	Removed Fate = "deleted"
	Doomed  Fate = "would be deleted" // of a dry run
	Leaving Fate = "being deleted"    // waits for something; the next run goes on
)

// Verdict is the fate of one version and every reason for it.
type Verdict struct {
	Version string   `json:"version"`
	ImageID string   `json:"image_id"`
	Fate    Fate     `json:"fate"`
	Why     []string `json:"why"`
}

// RetentionReport is the result of one run over one family.
type RetentionReport struct {
	Family   FamilyName `json:"family"`
	Limits   Limits     `json:"limits"`
	DryRun   bool       `json:"dry_run"`
	Versions []Verdict  `json:"versions"` // newest first
}

// Keep tells for each version of a family that is not deleted, newest first, every reason to keep it that the
// catalog itself knows. A verdict without a reason is for who knows what runs from the version. project holds the
// versions of all families of the project: those that were built from one of these keep it.
func Keep(f Family, versions, project []Version, limits Limits, now time.Time) []Verdict {
	out := []Verdict{}
	newest, _ := Newest(versions)
	goes := map[string]bool{}
	usable := 0
	for _, v := range newestFirst(versions) {
		if v.State == Deleted {
			continue
		}
		d := Verdict{Version: v.Name, ImageID: v.ImageID, Fate: Kept, Why: []string{}}
		why := func(format string, args ...any) { d.Why = append(d.Why, fmt.Sprintf(format, args...)) }
		if v.State.Usable() {
			usable++
			if usable <= limits.KeepCount {
				why("it is among the newest %d", limits.KeepCount)
			}
		}
		if v.ID == newest.ID {
			why("it is the newest")
		}
		if in := channelsOf(f.Channels, v.Name); len(in) > 0 {
			why("channel %s points to it", strings.Join(in, ", "))
		}
		if v.Pinned {
			why("it is pinned%s", colon(v.Note))
		}
		if age := now.Sub(v.CreatedAt); age < time.Duration(limits.KeepDays)*24*time.Hour {
			why("it is %d days old, younger than %d", int(age.Hours()/24), limits.KeepDays)
		}
		for _, child := range project {
			if (child.Base == v.Label() || child.BaseImageID != "" && child.BaseImageID == v.ImageID) &&
				child.ID != v.ID && child.State != Deleted && !goes[child.ID] {
				why("it is the base of %s", child.Label())
			}
		}
		goes[v.ID] = len(d.Why) == 0
		out = append(out, d)
	}
	return out
}

func colon(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

// FamilyChange is what a caller changes of a family; nil parts stay.
type FamilyChange struct {
	Description *string    `json:"description"`
	Retention   *Retention `json:"retention"`
}

// UpdateFamily changes the description and the retention of a family.
func (s *Service) UpdateFamily(ctx context.Context, by job.By, f Family, c FamilyChange) (Family, error) {
	var out Family
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if out, err = s.Store.FamilyByID(ctx, f.ID); err != nil {
			return err
		}
		if c.Description != nil {
			out.Description = *c.Description
		}
		if c.Retention != nil {
			out.Retention = *c.Retention
		}
		if err := checkDescription(out.Description); err != nil {
			return err
		}
		if err := out.Retention.check(); err != nil {
			return err
		}
		out.UpdatedAt = s.Now().UTC()
		if err := s.Store.UpdateFamily(ctx, out); err != nil {
			return err
		}
		return s.Tell(ctx, by, "family.updated", "families/"+string(f.Name), f.ProjectID, out)
	})
	return out, err
}

// Pin keeps a version from retention, or with pinned false lets go of it. note says why.
func (s *Service) Pin(ctx context.Context, by job.By, v Version, pinned bool, note string) (Version, error) {
	if err := checkReason("note", note); err != nil {
		return Version{}, err
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockFamily(ctx, v.FamilyID); err != nil {
			return err
		}
		var err error
		if v, err = s.Store.FindVersion(ctx, v.FamilyID, v.Name); err != nil {
			return err
		}
		if v.State == Deleting || v.State == Deleted {
			return v.MayUse()
		}
		if v.State == Revoked && !pinned || v.State == Revoked && note == "" {
			note = v.Note // why it is revoked stays
		}
		if v.Pinned == pinned && v.Note == note {
			return nil
		}
		v.Pinned, v.Note = pinned, note
		if err := s.Store.UpdateVersion(ctx, v, v.State); err != nil {
			return err
		}
		kind := "version.unpinned"
		if pinned {
			kind = "version.pinned"
		}
		return s.Tell(ctx, by, kind, "families/"+string(v.Family)+"/versions/"+v.Name, v.ProjectID, v)
	})
	return v, err
}

// RetainPayload is the input of a job.Retain.
type RetainPayload struct {
	FamilyID string `json:"family_id"`
	DryRun   bool   `json:"dry_run"`
}

// Retain starts a run of retention over a family; the job's result is a RetentionReport.
func (s *Service) Retain(ctx context.Context, by job.By, f Family, dry bool) (job.Job, error) {
	var j job.Job
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		j, err = s.Start(ctx, by, job.Draft{
			Kind: job.Retain, Queue: job.EngineQueue, ProjectID: f.ProjectID, Resource: "families/" + string(f.Name),
			Payload: RetainPayload{FamilyID: f.ID, DryRun: dry},
		})
		return err
	})
	return j, err
}
