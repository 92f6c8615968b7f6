package catalog

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// MoveKind says what moved a channel.
type MoveKind string

// The kinds of moves.
const (
	MovePublish  MoveKind = "publish"  // a build or an upgrade
	MovePromote  MoveKind = "promote"  // a person or a policy
	MoveRollback MoveKind = "rollback" // a person took a move back
	MoveRevoke   MoveKind = "revoke"   // the version that it pointed to was revoked
)

// ChannelMove is one line of a channel's history.
type ChannelMove struct {
	ID       string    `json:"id"`
	FamilyID string    `json:"family_id"`
	Channel  string    `json:"channel"`
	Seq      int64     `json:"seq"` // counts the moves of the channel from 1
	Kind     MoveKind  `json:"kind"`
	Version  string    `json:"version"` // "": the channel was removed
	Before   string    `json:"before"`  // "": the channel was made
	UserID   string    `json:"user_id"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// maxReason is what Glance keeps of a property.
const maxReason = 255

func checkReason(field, reason string) error {
	if len(reason) > maxReason {
		return errs.New(errs.Invalid, "kiln.version.reason", "a reason has %d bytes at most", maxReason).At(errs.Where{Field: field})
	}
	return nil
}

var channelName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Promote lets the channel of a family point to one of its versions and returns the family as it is then.
// Promoting what stands there already changes nothing. errs.Conflict for a version that may not be used.
func (s *Service) Promote(ctx context.Context, by job.By, f Family, channel, version, reason string) (Family, error) {
	if !channelName.MatchString(channel) {
		return Family{}, errs.New(errs.Invalid, "kiln.channel.name",
			"%q is not the name of a channel: use 1 to 31 lower case letters, digits and dashes, beginning with a letter", channel).At(errs.Where{Field: "channel"})
	}
	if err := checkReason("reason", reason); err != nil {
		return Family{}, err
	}
	var out Family
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockFamily(ctx, f.ID); err != nil {
			return err
		}
		v, err := s.Store.FindVersion(ctx, f.ID, version)
		if errs.Is(err, errs.NotFound) {
			return errs.New(errs.Invalid, "kiln.version.not_found", "family %s has no version %q", f.Name, version).At(errs.Where{Field: "version"})
		}
		if err != nil {
			return err
		}
		if err := v.MayUse(); err != nil {
			return err
		}
		m, err := s.Store.MoveChannel(ctx, s.move(by, f, channel, version, MovePromote, reason))
		if err != nil {
			return err
		}
		if out, err = s.Store.FamilyByID(ctx, f.ID); err != nil || m.Before == m.Version {
			return err
		}
		if _, err := s.settle(ctx, by, f); err != nil {
			return err
		}
		return s.Tell(ctx, by, "family.promoted", "families/"+string(f.Name), f.ProjectID, told(f, m))
	})
	return out, err
}

func (s *Service) move(by job.By, f Family, channel, version string, kind MoveKind, reason string) ChannelMove {
	return ChannelMove{
		ID: s.NewID(), FamilyID: f.ID, Channel: channel, Kind: kind, Version: version, UserID: by.UserID, Reason: reason, At: s.Now().UTC(),
	}
}

func told(f Family, m ChannelMove) map[string]string {
	return map[string]string{"family": string(f.Name), "channel": m.Channel, "version": m.Version, "before": m.Before, "reason": m.Reason}
}

// Skipped is a version that a roll back passed over.
type Skipped struct {
	Version string `json:"version"`
	Why     string `json:"why"`
}

// RolledBack is what a roll back did.
type RolledBack struct {
	Family  FamilyName `json:"family"`
	Channel string     `json:"channel"`
	From    string     `json:"from"`
	To      string     `json:"to"`
	Skipped []Skipped  `json:"skipped"`
	JobID   string     `json:"job_id"` // shows and hides the images in Glance
}

// RollBack lets a channel point to what it pointed to before its present version, passing over versions that may not
// be used any more. A second roll back goes one step further back: it does not return to what the first one left
// (Promote does). errs.Conflict "kiln.channel.no_earlier" where nothing usable is left, errs.NotFound for no channel.
func (s *Service) RollBack(ctx context.Context, by job.By, f Family, channel, reason string) (RolledBack, error) {
	if err := checkReason("reason", reason); err != nil {
		return RolledBack{}, err
	}
	var out RolledBack
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockFamily(ctx, f.ID); err != nil {
			return err
		}
		f, err := s.Store.FamilyByID(ctx, f.ID)
		if err != nil {
			return err
		}
		now, ok := f.Channels[channel]
		if !ok {
			return errs.New(errs.NotFound, "kiln.channel.not_found", "family %s has no channel %s", f.Name, channel)
		}
		out = RolledBack{Family: f.Name, Channel: channel, From: now, Skipped: []Skipped{}}
		if err := s.earlier(ctx, f, &out); err != nil {
			return err
		}
		m := s.move(by, f, channel, out.To, MoveRollback, reason)
		m.Before = now
		if m, err = s.Store.MoveChannel(ctx, m); err != nil {
			return err
		}
		if out.JobID, err = s.settle(ctx, by, f); err != nil {
			return err
		}
		return s.Tell(ctx, by, "family.rolled_back", "families/"+string(f.Name), f.ProjectID, told(f, m))
	})
	return out, err
}

// earlier finds the target of a roll back.
func (s *Service) earlier(ctx context.Context, f Family, out *RolledBack) error {
	moves, err := s.history(ctx, f.ID, out.Channel)
	if err != nil {
		return err
	}
	past := trail(moves)
	for _, name := range slices.Backward(past) {
		if name == out.From {
			continue
		}
		v, err := s.Store.FindVersion(ctx, f.ID, name)
		if err != nil {
			return err
		}
		if err := v.MayUse(); err != nil {
			out.Skipped = append(out.Skipped, Skipped{v.Name, "it is " + string(v.State)})
			continue
		}
		out.To = v.Name
		return nil
	}
	return errs.New(errs.Conflict, "kiln.channel.no_earlier",
		"channel %s of %s pointed to no version before %s that may still be used: promote one by its name", out.Channel, f.Name, out.From)
}

func (s *Service) history(ctx context.Context, familyID, channel string) ([]ChannelMove, error) {
	q := listing.All().Where("family_id", familyID).Where("channel", channel)
	q.Sort = []listing.Key{{Field: "seq"}}
	return listing.Read(ctx, q, s.Store.ListChannelMoves, func(m ChannelMove) string { return m.ID })
}

// trail is the line of versions that lead to where a channel points, oldest first: a roll back or a revocation takes
// the end of the line away, so that the next roll back goes further and not forth and back.
func trail(moves []ChannelMove) []string {
	var line []string
	for _, m := range moves {
		if m.Kind == MoveRollback || m.Kind == MoveRevoke {
			line = cut(line, m.Version)
		}
		if m.Version != "" && (len(line) == 0 || line[len(line)-1] != m.Version) {
			line = append(line, m.Version)
		}
	}
	return line
}

// cut ends the line at the last place of the version; where it has none, only the end goes.
func cut(line []string, version string) []string {
	for i := len(line) - 2; i >= 0; i-- {
		if line[i] == version {
			return line[:i+1]
		}
	}
	return line[:max(0, len(line)-1)]
}

// SettlePayload is the input of a job.Settle.
type SettlePayload struct {
	FamilyIDs []string `json:"family_ids"`
}

// settle has Glance told soon of what changed; the engine's sweep would tell it later.
func (s *Service) settle(ctx context.Context, by job.By, families ...Family) (string, error) {
	p := SettlePayload{}
	for _, f := range families {
		p.FamilyIDs = append(p.FamilyIDs, f.ID)
	}
	j, err := s.Start(ctx, by, job.Draft{
		Kind: job.Settle, Queue: job.EngineQueue, ProjectID: families[0].ProjectID, Resource: "families/" + string(families[0].Name), Payload: p,
	})
	return j.ID, err
}
