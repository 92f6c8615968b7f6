package diff

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// Advisories is what the service asks about fixes.
type Advisories interface {
	ListPending(ctx context.Context, imageID string) ([]advisory.Pending, error)
	FindAdvisory(ctx context.Context, id string) (advisory.Advisory, error)
}

// Documents is where the lists of files are.
type Documents interface {
	FindDocument(ctx context.Context, imageID, kind string) (proof.Document, error)
}

// Service compares images that Kiln knows.
type Service struct {
	Advisories Advisories
	Documents  Documents
}

// Compare tells what differs between two images. The versions are named where the images are some.
func (s *Service) Compare(ctx context.Context, from, to Input) (*Report, error) {
	lacks, err := s.lacks(ctx, from.ImageID)
	if err != nil {
		return nil, err
	}
	r, err := Compare(from, to, lacks)
	if err != nil {
		return nil, err
	}
	return r, s.files(ctx, r)
}

// InputOf makes a side of an image and the version that it is, which may be nil.
func InputOf(i catalog.Image, v *catalog.Version) Input {
	side := Side{ImageID: i.ID, Version: i.Name, MadeAt: i.CreatedAt}
	if v != nil {
		side.Family, side.Version, side.MadeAt = string(v.Family), v.Name, v.CreatedAt
	}
	return Input{Side: side, Image: i}
}

func (s *Service) lacks(ctx context.Context, imageID string) ([]Lack, error) {
	pending, err := s.Advisories.ListPending(ctx, imageID)
	if err != nil {
		return nil, err
	}
	out := make([]Lack, 0, len(pending))
	for _, p := range pending {
		l := Lack{Package: p.Package, Fixed: p.Fixed, Security: p.Security}
		a, err := s.Advisories.FindAdvisory(ctx, p.AdvisoryID)
		switch {
		case err == nil:
			l.Urgency, l.CVEs = a.Urgency, a.CVEs
		case !errs.Is(err, errs.NotFound):
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// files compares the manifests where both images have one.
func (s *Service) files(ctx context.Context, r *Report) error {
	var lists [2]proof.Document
	for i, side := range []Side{r.From, r.To} {
		d, err := s.Documents.FindDocument(ctx, side.ImageID, proof.KindFiles)
		if errs.Is(err, errs.NotFound) {
			r.FilesNote = "there is no list of files of " + side.Label() + ": only images that Kiln made have one"
			return nil
		}
		if err != nil {
			return err
		}
		lists[i] = d
	}
	if lists[0].SHA256 == lists[1].SHA256 {
		return nil
	}
	from, err := lists[0].Open()
	if err != nil {
		return err
	}
	to, err := lists[1].Open()
	if err != nil {
		return err
	}
	return r.CompareFiles(from, to)
}
