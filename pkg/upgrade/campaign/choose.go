package campaign

import (
	"cmp"
	"context"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Pick is an image that a campaign takes.
type Pick struct {
	ImageID    string             `json:"image_id"`
	ProjectID  string             `json:"project_id"`
	Name       string             `json:"name"`
	Family     catalog.FamilyName `json:"family"` // "" where it would be adopted into one
	Version    string             `json:"version"`
	Visibility string             `json:"visibility"`
	OS         string             `json:"os"`
	Lacks      int                `json:"lacks"` // published fixes
	Severity   string             `json:"severity"`
	CVEs       []string           `json:"cves"`
	Rank       int                `json:"rank"` // catalog.Image.Rank: how bad it is, times what runs from it
}

// LeftOut is an image that is chosen by where it is and cannot be taken.
type LeftOut struct {
	ImageID string `json:"image_id"`
	Name    string `json:"name"`
	Reason  string `json:"reason"`
}

// Choice is what a filter chooses now. Choosing changes nothing.
type Choice struct {
	Taken   []Pick    `json:"taken"`
	LeftOut []LeftOut `json:"left_out"`
}

// Images is the image service as far as choosing needs it.
type Images interface {
	Images(ctx context.Context, filter map[string]string) ([]catalog.GlanceImage, error)
}

// Chooser finds the images of a filter.
type Chooser struct {
	Store   Store
	Catalog catalog.Store
	Glance  Images
}

// Choose finds the images that the filter takes. projectID is whose campaign it is: without a word about projects in the
// filter, its images are meant.
func (c *Chooser) Choose(ctx context.Context, projectID string, f Filter) (Choice, error) {
	out := Choice{Taken: []Pick{}, LeftOut: []LeftOut{}}
	if c.Glance == nil {
		return out, errs.New(errs.Unavailable, "kiln.image.no_glance", "the image service is not known here")
	}
	scope := cmp.Or(f.ProjectID, projectID)
	if f.AllProjects {
		scope = ""
	}
	shown, err := c.Glance.Images(ctx, map[string]string{"status": "active"})
	if err != nil {
		return out, err
	}
	seen := map[string]bool{}
	for _, g := range shown {
		if !f.ofRecord(g, scope) {
			continue
		}
		seen[g.ID] = true
		p, reason, err := c.one(ctx, g, f)
		switch {
		case err != nil:
			return out, err
		case reason != "":
			out.LeftOut = append(out.LeftOut, LeftOut{g.ID, g.Name, reason})
		case p != nil:
			out.Taken = append(out.Taken, *p)
		}
	}
	for _, id := range f.ImageIDs {
		if !seen[id] {
			out.LeftOut = append(out.LeftOut, LeftOut{ImageID: id, Reason: "it is no active image of the project that the filter takes"})
		}
	}
	slices.SortFunc(out.Taken, func(a, b Pick) int { // the most urgent first
		return cmp.Or(cmp.Compare(b.Rank, a.Rank), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ImageID, b.ImageID))
	})
	return out, nil
}

// one decides about an image: taken, left out for a reason, or not meant (nil without a reason).
func (c *Chooser) one(ctx context.Context, g catalog.GlanceImage, f Filter) (*Pick, string, error) {
	named := slices.Contains(f.ImageIDs, g.ID)
	p := &Pick{ImageID: g.ID, ProjectID: g.Owner, Name: g.Name, Visibility: g.Visibility}
	v, err := c.Catalog.VersionByImage(ctx, g.ID)
	switch {
	case errs.Is(err, errs.NotFound):
		if len(f.Families) > 0 {
			return nil, "", nil
		}
		if reason := stranger(g, named); reason != nil {
			return nil, reason.text, nil
		}
	case err != nil:
		return nil, "", err
	default:
		if len(f.Families) > 0 && !slices.Contains(f.Families, v.Family) {
			return nil, "", nil
		}
		if v.State != catalog.Published {
			if !named {
				return nil, "", nil // its family has a newer one
			}
			return nil, "version " + v.Label() + " is " + string(v.State), nil
		}
		p.Family, p.Version = v.Family, v.Name
	}
	return c.known(ctx, p, f, named)
}

type reason struct{ text string }

// stranger is why an image of no family is not taken; a reason without a text where it is not even meant.
func stranger(g catalog.GlanceImage, named bool) *reason {
	switch {
	case g.Properties[catalog.PropArtifactOf] != "" || g.Properties[catalog.PropJob] != "":
		return &reason{} // a form of a version, which is made anew with it, or one that is being made
	case !named && (g.Hidden || g.Properties["image_type"] == "snapshot" || g.Properties["base_image_ref"] != ""):
		return &reason{} // somebody's server, not a template
	}
	if err := catalog.Adoptable(g); err != nil {
		return &reason{err.Error()}
	}
	return nil
}

// known holds what Kiln read of the image against the filter.
func (c *Chooser) known(ctx context.Context, p *Pick, f Filter, named bool) (*Pick, string, error) {
	img, err := c.Catalog.FindImage(ctx, p.ImageID)
	switch {
	case err != nil && !errs.Is(err, errs.NotFound):
		return nil, "", err
	case err != nil || img.Facts == nil:
		why := "its disk was not read yet: kiln image inspect " + p.ImageID
		if img.Reason != "" {
			why = "its disk cannot be read: " + img.Reason
		}
		return nil, why, nil
	case !f.ofFacts(img.Facts):
		return nil, "", nil
	}
	lacks, err := c.Store.ListPending(ctx, p.ImageID)
	if err != nil {
		return nil, "", err
	}
	if (!named || f.CVE != "" || f.MinSeverity != "" || f.Security) && !f.ofLacks(lacks) {
		return nil, "", nil
	}
	p.Rank = img.Rank
	p.OS, p.Lacks = cmp.Or(img.Facts.OS.PrettyName, img.Facts.OS.ID+" "+img.Facts.OS.VersionID), len(lacks)
	for _, l := range lacks {
		p.CVEs = append(p.CVEs, l.CVEs...)
		p.Severity = advisory.Worse(p.Severity, severity(l))
	}
	slices.Sort(p.CVEs)
	p.CVEs = slices.Compact(p.CVEs)
	return p, "", nil
}
