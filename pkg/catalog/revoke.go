package catalog

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Descendant is a version that holds another one inside, and through which step.
type Descendant struct {
	Version
	Because string // "built from base/20260305.1"
}

// Descendants are the versions that were made from v, through any number of steps: built from it as their base, or
// upgraded from it. ParentVersion of a build is only what stood there before it in the family: a build starts from
// its base and holds nothing of its parent. A descendant that is deleted leads on to those that were made from it.
func Descendants(v Version, all []Version) []Descendant {
	var found []Descendant
	seen := map[string]bool{v.ID: true}
	for open := []Version{v}; len(open) > 0; open = open[1:] {
		for _, child := range all {
			because := madeFrom(child, open[0])
			if because == "" || seen[child.ID] {
				continue
			}
			seen[child.ID] = true
			found = append(found, Descendant{child, because})
			open = append(open, child)
		}
	}
	return found
}

func madeFrom(child, v Version) string {
	switch {
	case child.ProjectID != v.ProjectID || child.ID == v.ID:
		return ""
	case child.Base == v.Label(), child.BaseImageID != "" && slices.Contains(v.Images(), child.BaseImageID):
		return "built from " + v.Label()
	case child.Origin == "upgrade" && child.FamilyID == v.FamilyID && child.ParentVersion == v.Name:
		return "upgraded from " + v.Label()
	}
	return ""
}

// RevokedVersion is one version of a revocation.
type RevokedVersion struct {
	Family  FamilyName `json:"family"`
	Version string     `json:"version"`
	ImageID string     `json:"image_id"`
	Because string     `json:"because"`
}

// ChannelChange is a channel that had to move; To is "" where no version was left for it and it was removed.
type ChannelChange struct {
	Family  FamilyName `json:"family"`
	Channel string     `json:"channel"`
	From    string     `json:"from"`
	To      string     `json:"to"`
}

// Revocation is what a revocation did, or would do.
type Revocation struct {
	Family   FamilyName       `json:"family"`
	Version  string           `json:"version"`
	State    VersionState     `json:"state"`
	Reason   string           `json:"reason"`
	Revoked  []RevokedVersion `json:"revoked"` // the version itself first, then its descendants
	Channels []ChannelChange  `json:"channels"`
	DryRun   bool             `json:"dry_run"`
	JobID    string           `json:"job_id"` // hides and bars the images in Glance; "" where nothing changed
}

// Revoke forbids that a version and all that was made from it in the project are started or built from again, in
// one transaction. Channels that point to one of them go to the newest older version that may be used, or are
// removed. Again is no error and changes nothing. With dry it only tells.
func (s *Service) Revoke(ctx context.Context, by job.By, f Family, version, reason string, dry bool) (Revocation, error) {
	if err := checkReason("reason", reason); err != nil {
		return Revocation{}, err
	}
	var out Revocation
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		p, err := s.project(ctx, f, !dry)
		if err != nil {
			return err
		}
		if out, err = p.revocation(f, version, reason); err != nil || dry {
			out.DryRun = dry
			return err
		}
		return s.revoke(ctx, by, p, &out)
	})
	return out, err
}

// lineage is all families and versions of a project: what a revocation reads.
type lineage struct {
	families []Family
	versions []Version
	revoked  []Version // what shall be revoked, as it was
}

func (s *Service) project(ctx context.Context, f Family, lock bool) (*lineage, error) {
	q := listing.All()
	q.ProjectID = f.ProjectID
	families, err := listing.Read(ctx, q, s.Store.ListFamilies, func(f Family) string { return f.ID })
	if err != nil {
		return nil, err
	}
	if lock { // in one order, so that two revocations do not wait for each other
		slices.SortFunc(families, func(a, b Family) int { return strings.Compare(a.ID, b.ID) })
		for i := range families {
			if err := s.Store.LockFamily(ctx, families[i].ID); err != nil {
				return nil, err
			}
			if families[i], err = s.Store.FamilyByID(ctx, families[i].ID); err != nil {
				return nil, err
			}
		}
	}
	versions, err := listing.Read(ctx, q, s.Store.ListVersions, func(v Version) string { return v.ID })
	return &lineage{families: families, versions: versions}, err
}

func (p *lineage) find(f Family, version string) (Version, error) {
	for _, v := range p.versions {
		if v.FamilyID == f.ID && v.Name == version {
			return v, nil
		}
	}
	return Version{}, errs.New(errs.NotFound, "kiln.version.not_found", "family %s has no version %s", f.Name, version)
}

// revocation works out what has to be done.
func (p *lineage) revocation(f Family, version, reason string) (Revocation, error) {
	out := Revocation{Family: f.Name, Version: version, State: Revoked, Reason: reason, Revoked: []RevokedVersion{}, Channels: []ChannelChange{}}
	root, err := p.find(f, version)
	if err != nil {
		return out, err
	}
	if root.State == Deleting || root.State == Deleted {
		return out, root.MayUse()
	}
	for _, d := range append([]Descendant{{root, "named"}}, Descendants(root, p.versions)...) {
		if !d.State.Usable() {
			continue
		}
		p.revoked = append(p.revoked, d.Version)
		out.Revoked = append(out.Revoked, RevokedVersion{d.Family, d.Name, d.ImageID, d.Because})
	}
	for _, f := range p.families {
		for _, channel := range slices.Sorted(maps.Keys(f.Channels)) {
			if from := f.Channels[channel]; p.revokes(f.ID, from) {
				out.Channels = append(out.Channels, ChannelChange{f.Name, channel, from, p.before(f.ID, from)})
			}
		}
	}
	return out, nil
}

func (p *lineage) revokes(familyID, version string) bool {
	return slices.ContainsFunc(p.revoked, func(v Version) bool { return v.FamilyID == familyID && v.Name == version })
}

// before is the newest version of the family that is older and stays usable; "" for none.
func (p *lineage) before(familyID, version string) string {
	best := ""
	for _, v := range p.versions {
		if v.FamilyID == familyID && v.State.Usable() && !p.revokes(familyID, v.Name) &&
			CompareVersions(v.Name, version) < 0 && (best == "" || CompareVersions(v.Name, best) > 0) {
			best = v.Name
		}
	}
	return best
}

func (p *lineage) family(id string) Family {
	i := slices.IndexFunc(p.families, func(f Family) bool { return f.ID == id })
	return p.families[max(0, i)]
}

// revoke writes what revocation worked out.
func (s *Service) revoke(ctx context.Context, by job.By, p *lineage, out *Revocation) error {
	label := string(out.Family) + "/" + out.Version
	if err := s.renamed(ctx, p, label, out.Reason); err != nil || len(p.revoked) == 0 {
		return err
	}
	var touched []Family
	for i, v := range p.revoked {
		was := v.State
		v.State, v.RevokedWith, v.Note = Revoked, label, out.Reason
		if err := s.Store.UpdateVersion(ctx, v, was); err != nil {
			return err
		}
		if f := p.family(v.FamilyID); !slices.ContainsFunc(touched, func(t Family) bool { return t.ID == f.ID }) {
			touched = append(touched, f)
		}
		payload := map[string]string{"family": string(v.Family), "version": v.Name, "image_id": v.ImageID, "because": out.Revoked[i].Because, "reason": out.Reason}
		if err := s.Tell(ctx, by, "version.revoked", "families/"+string(v.Family)+"/versions/"+v.Name, v.ProjectID, payload); err != nil {
			return err
		}
	}
	for _, c := range out.Channels {
		i := slices.IndexFunc(p.families, func(f Family) bool { return f.Name == c.Family })
		m, err := s.Store.MoveChannel(ctx, s.move(by, p.families[i], c.Channel, c.To, MoveRevoke, "version "+c.From+" is revoked"))
		if err != nil {
			return err
		}
		if err := s.Tell(ctx, by, "family.channel_moved", "families/"+string(c.Family), p.families[i].ProjectID, told(p.families[i], m)); err != nil {
			return err
		}
	}
	return s.restate(ctx, by, touched, &out.JobID)
}

// renamed makes a revocation of its own of a version that was revoked as somebody's descendant: taking the other
// one back then leaves it revoked.
func (s *Service) renamed(ctx context.Context, p *lineage, label, reason string) error {
	for _, v := range p.versions {
		if v.Label() != label || v.State != Revoked || v.RevokedWith == label {
			continue
		}
		v.RevokedWith = label
		if reason != "" {
			v.Note = reason
		}
		return s.Store.UpdateVersion(ctx, v, Revoked)
	}
	return nil
}

// restate lets the newest usable version of each family be published and the others superseded, and has Glance told.
func (s *Service) restate(ctx context.Context, by job.By, families []Family, jobID *string) error {
	for _, f := range families {
		versions, err := listing.Read(ctx, listing.All().Where("family_id", f.ID), s.Store.ListVersions, func(v Version) string { return v.ID })
		if err != nil {
			return err
		}
		newest, _ := Newest(versions)
		for _, v := range versions {
			want := Superseded
			if v.ID == newest.ID {
				want = Published
			}
			if !v.State.Usable() || v.State == want {
				continue
			}
			if err := s.Store.SetVersionState(ctx, v.ID, v.State, want); err != nil {
				return err
			}
		}
	}
	var err error
	*jobID, err = s.settle(ctx, by, families...)
	return err
}

// Unrevoked is what taking a revocation back did.
type Unrevoked struct {
	Family   FamilyName       `json:"family"`
	Version  string           `json:"version"`
	Restored []RevokedVersion `json:"restored"`
	Kept     []Skipped        `json:"kept"` // descendants that stay revoked, and why
	JobID    string           `json:"job_id"`
}

// Unrevoke takes one revocation back: the version and what was revoked with it may be used again. Channels stay where
// they are. errs.Conflict where the version is not revoked, or was revoked with another one that still is.
func (s *Service) Unrevoke(ctx context.Context, by job.By, f Family, version string) (Unrevoked, error) {
	var out Unrevoked
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		out = Unrevoked{Family: f.Name, Version: version, Restored: []RevokedVersion{}, Kept: []Skipped{}}
		p, err := s.project(ctx, f, true)
		if err != nil {
			return err
		}
		root, err := p.find(f, version)
		if err != nil {
			return err
		}
		if root.State != Revoked {
			return errs.New(errs.Conflict, "kiln.version.not_revoked", "version %s of %s is %s, not revoked", version, f.Name, root.State)
		}
		with := p.with(root)
		if other := p.bars(root, with); other != nil {
			return errs.New(errs.Conflict, "kiln.version.base_revoked", "version %s of %s was made from %s, which is revoked: take that back first", version, f.Name, other.Label())
		}
		return s.unrevoke(ctx, by, p, with, &out)
	})
	return out, err
}

// with are the versions of the revocation that names root: root first.
func (p *lineage) with(root Version) []Version {
	with := []Version{root}
	for _, v := range p.versions {
		if v.ID != root.ID && v.State == Revoked && v.RevokedWith == root.Label() {
			with = append(with, v)
		}
	}
	return with
}

// bars finds a revoked version outside of with that v was made from.
func (p *lineage) bars(v Version, with []Version) *Version {
	for _, other := range p.versions {
		inside := slices.ContainsFunc(with, func(w Version) bool { return w.ID == other.ID })
		if other.State == Revoked && !inside &&
			slices.ContainsFunc(Descendants(other, p.versions), func(d Descendant) bool { return d.ID == v.ID }) {
			return &other
		}
	}
	return nil
}

func (s *Service) unrevoke(ctx context.Context, by job.By, p *lineage, with []Version, out *Unrevoked) error {
	var touched []Family
	for _, v := range with {
		if other := p.bars(v, with); other != nil {
			v.RevokedWith, v.Note = other.Label(), other.Note
			if err := s.Store.UpdateVersion(ctx, v, Revoked); err != nil {
				return err
			}
			out.Kept = append(out.Kept, Skipped{v.Label(), "it was made from " + other.Label() + ", which is revoked"})
			continue
		}
		v.State, v.RevokedWith, v.Note = Superseded, "", ""
		if err := s.Store.UpdateVersion(ctx, v, Revoked); err != nil {
			return err
		}
		out.Restored = append(out.Restored, RevokedVersion{v.Family, v.Name, v.ImageID, "its revocation was taken back"})
		if f := p.family(v.FamilyID); !slices.ContainsFunc(touched, func(t Family) bool { return t.ID == f.ID }) {
			touched = append(touched, f)
		}
		if err := s.Tell(ctx, by, "version.unrevoked", "families/"+string(v.Family)+"/versions/"+v.Name, v.ProjectID, v); err != nil {
			return err
		}
	}
	return s.restate(ctx, by, touched, &out.JobID)
}

// MayPublish refuses a version that was made from one that is revoked by now: errs.Conflict
// "kiln.version.base_revoked". Ask in the transaction that adds the version: it waits for a revocation under way, and
// one that comes later finds the new version among the descendants.
func MayPublish(ctx context.Context, s Store, v Version) error {
	for _, find := range []func() (Version, error){
		func() (Version, error) {
			family, name, ok := strings.Cut(v.Base, "/")
			if !ok {
				return Version{}, nil
			}
			f, err := s.FindFamily(ctx, v.ProjectID, FamilyName(family))
			if err != nil {
				return Version{}, err
			}
			if err := s.LockFamily(ctx, f.ID); err != nil {
				return Version{}, err
			}
			return s.FindVersion(ctx, f.ID, name)
		},
		func() (Version, error) {
			if v.BaseImageID == "" {
				return Version{}, nil
			}
			return s.VersionByImage(ctx, v.BaseImageID)
		},
		func() (Version, error) {
			if v.Origin != "upgrade" || v.ParentVersion == "" {
				return Version{}, nil
			}
			return s.FindVersion(ctx, v.FamilyID, v.ParentVersion)
		},
	} {
		from, err := find()
		if errs.Is(err, errs.NotFound) {
			continue // a release, or an image that is no version
		}
		if err != nil {
			return err
		}
		if from.State == Revoked {
			return errs.New(errs.Conflict, "kiln.version.base_revoked", "%s, which this was made from, was revoked meanwhile%s", from.Label(), colon(from.Note))
		}
	}
	return nil
}
