package campaign

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Report is what a campaign did, and what remains.
type Report struct {
	Campaign  View         `json:"campaign"`
	Fixed     []FixedImage `json:"fixed"`
	Remaining []Remaining  `json:"remaining"` // images that have no new version, and why
	Packages  []FixedPkg   `json:"packages"`  // over all images
	CVEs      []string     `json:"cves"`      // that are closed in at least one image
	Files     Files        `json:"files"`
	Seconds   Seconds      `json:"seconds"`
}

// FixedImage is an image with its new version.
type FixedImage struct {
	Name      string                  `json:"name"`
	ProjectID string                  `json:"project_id"`
	Family    catalog.FamilyName      `json:"family"`
	From      string                  `json:"from_version"`
	FromImage string                  `json:"from_image_id"`
	To        string                  `json:"to_version"`
	ToImage   string                  `json:"to_image_id"`
	UpgradeID string                  `json:"upgrade_id"`
	Packages  []upgrade.PackageChange `json:"packages"`
	CVEs      []string                `json:"cves"`
	Held      []string                `json:"held"`
	KernelTo  string                  `json:"kernel_to"`
	Conffiles []upgrade.Conffile      `json:"conffiles"`
	Record    string                  `json:"record"`
	Replayed  int                     `json:"replayed"`
	Changed   int                     `json:"changed"`
	Seconds   int64                   `json:"seconds"` // from its turn to its end

	Quarantine *upgrade.Quarantine `json:"quarantine,omitempty"` // nil where nothing was done in one
}

// Remaining is an image that the campaign made no new version of.
type Remaining struct {
	ImageID   string    `json:"image_id"`
	Name      string    `json:"name"`
	ProjectID string    `json:"project_id"`
	State     ItemState `json:"state"`
	Reason    string    `json:"reason"`
	UpgradeID string    `json:"upgrade_id"`
	Lacks     int       `json:"lacks"` // published fixes, when it was chosen
	CVEs      []string  `json:"cves"`
}

// FixedPkg is a package that was upgraded in images.
type FixedPkg struct {
	Name   string   `json:"name"`
	To     string   `json:"to"`
	Images int      `json:"images"`
	CVEs   []string `json:"cves"`
}

// Files are those that differ in the new versions, and how many of them came from a record.
type Files struct {
	Changed  int `json:"changed"`
	Replayed int `json:"replayed"`
}

// Seconds is how long the campaign took, and its upgrades.
type Seconds struct {
	Wall     int64 `json:"wall"` // from its beginning to its end, or to now
	Upgrades int64 `json:"upgrades"`
	Mean     int64 `json:"mean"`
	Longest  int64 `json:"longest"`
}

// Report tells what a campaign did so far.
func (s *Service) Report(ctx context.Context, c Campaign) (Report, error) {
	out := Report{Campaign: c.Viewed(s.Now()), Fixed: []FixedImage{}, Remaining: []Remaining{}}
	items, err := s.items(ctx, c.ID)
	if err != nil {
		return out, err
	}
	made := map[string]upgrade.Upgrade{}
	for u, err := range listing.Rows(ctx, listing.All().Where("campaign_id", c.ID), s.Upgrades.ListUpgrades, func(u upgrade.Upgrade) string { return u.ID }) {
		if err != nil {
			return out, err
		}
		made[u.ID] = u
	}
	for _, i := range items {
		if i.State == Done {
			out.Fixed = append(out.Fixed, fixedImage(i, made[i.UpgradeID]))
			continue
		}
		out.Remaining = append(out.Remaining, Remaining{i.ImageID, i.Name, i.ProjectID, i.State, i.Reason, i.UpgradeID, i.Lacks, i.CVEs})
	}
	out.sum(c, s.Now())
	return out, nil
}

func fixedImage(i Item, u upgrade.Upgrade) FixedImage {
	f := FixedImage{
		Name: i.Name, ProjectID: i.ProjectID, Family: i.Family, From: i.Version, FromImage: i.ImageID, To: i.ToVersion, ToImage: i.ToImageID, UpgradeID: i.UpgradeID,
	}
	if i.StartedAt != nil {
		f.Seconds = int64(cmp.Or(u.UpdatedAt, *i.StartedAt).Sub(*i.StartedAt) / time.Second)
	}
	if r := u.Report; r != nil {
		f.Packages, f.CVEs, f.Held, f.KernelTo, f.Conffiles = r.Packages, r.CVEs, r.Held, r.KernelTo, r.Conffiles
		f.Record, f.Replayed, f.Changed, f.Quarantine = r.Record, r.Replayed, r.Changed, r.Quarantine
	}
	return f
}

// sum adds up what the images have.
func (r *Report) sum(c Campaign, now time.Time) {
	packages := map[[2]string]*FixedPkg{}
	for _, f := range r.Fixed {
		r.CVEs = append(r.CVEs, f.CVEs...)
		r.Files.Changed += f.Changed
		r.Files.Replayed += f.Replayed
		r.Seconds.Upgrades += f.Seconds
		r.Seconds.Longest = max(r.Seconds.Longest, f.Seconds)
		for _, p := range f.Packages {
			key := [2]string{p.Name, p.To}
			if packages[key] == nil {
				packages[key] = &FixedPkg{Name: p.Name, To: p.To, CVEs: p.CVEs}
			}
			packages[key].Images++
		}
	}
	slices.Sort(r.CVEs)
	r.CVEs = slices.Compact(r.CVEs)
	if len(r.Fixed) > 0 {
		r.Seconds.Mean = r.Seconds.Upgrades / int64(len(r.Fixed))
	}
	if c.StartedAt != nil {
		end := now
		if c.FinishedAt != nil {
			end = *c.FinishedAt
		}
		r.Seconds.Wall = int64(end.Sub(*c.StartedAt) / time.Second)
	}
	for _, p := range packages {
		r.Packages = append(r.Packages, *p)
	}
	slices.SortFunc(r.Packages, func(a, b FixedPkg) int {
		return cmp.Or(cmp.Compare(b.Images, a.Images), cmp.Compare(a.Name, b.Name), cmp.Compare(a.To, b.To))
	})
}

// shownNames is how many names a line of the text has.
const shownNames = 8

// Text writes the report for people.
func (r Report) Text(w io.Writer) error {
	c, n := r.Campaign, r.Campaign.Counts
	p := &printer{w: w}
	p.line("campaign %s (%s): %s%s", c.Name, c.ID, c.State, behind(c.Reason))
	p.line("%d images: %d fixed, %d had nothing to do, %d failed, %d skipped, %d cancelled, %d open",
		n.Total, n.Succeeded, n.Unchanged, n.Failed, n.Skipped, n.Cancelled, n.Pending+n.Running)
	if c.HotfixBy != nil {
		p.line("promised by %s: %s", told(*c.HotfixBy), c.Promise)
	}
	if r.Seconds.Wall > 0 || len(r.Fixed) > 0 {
		p.line("took %s; an upgrade %s on average, %s at most", length(r.Seconds.Wall), length(r.Seconds.Mean), length(r.Seconds.Longest))
	}
	if r.Files.Changed > 0 {
		p.line("%d files changed, %d of them came from a record (%d %%)", r.Files.Changed, r.Files.Replayed, 100*r.Files.Replayed/r.Files.Changed)
	}
	if len(r.CVEs) > 0 {
		p.line("%d CVEs closed: %s", len(r.CVEs), some(r.CVEs))
	}
	for _, f := range r.Fixed {
		p.line("fixed      %s: %s %s (image %s) → %s (image %s): %d packages, %d CVEs, %s", f.Name, f.Family, f.From, f.FromImage, f.To, f.ToImage, len(f.Packages), len(f.CVEs), length(f.Seconds))
		if len(f.Held) > 0 {
			p.line("           not upgraded: %s", some(f.Held))
		}
		if q := f.Quarantine; q != nil {
			p.line("           in a quarantine boot of %s: %s", length(int64(q.Seconds)), some(q.Packages))
		}
	}
	for _, m := range r.Remaining {
		p.line("%-10s %s (image %s)%s", m.State, m.Name, m.ImageID, behind(m.Reason))
	}
	for _, f := range r.Packages[:min(len(r.Packages), 20)] {
		p.line("package    %s %s in %d images%s", f.Name, f.To, f.Images, behind(some(f.CVEs)))
	}
	if more := len(r.Packages) - 20; more > 0 {
		p.line("           and %d packages more", more)
	}
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func behind(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

func some(names []string) string {
	if more := len(names) - shownNames; more > 0 {
		return strings.Join(names[:shownNames], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

func length(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }
