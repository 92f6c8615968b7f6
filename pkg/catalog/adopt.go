package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Adopted is the origin of a version that somebody uploaded: Kiln made it the first of a family and left its bytes alone.
const Adopted = "adopted"

// upgradable are Glance's disk formats that a version can be made of offline.
var upgradable = []string{"qcow2", "raw"}

// Adoptable refuses an image that no family can begin with: errs.Conflict.
func Adoptable(g GlanceImage) error {
	no := func(format string, args ...any) error {
		return errs.New(errs.Conflict, "kiln.image.not_adoptable", "image %s cannot become a version: %s", g.ID, fmt.Sprintf(format, args...))
	}
	switch {
	case g.Status != "active":
		return no("it is %s in Glance", g.Status)
	case g.Properties[PropArtifactOf] != "":
		return no("it is another form of image %s", g.Properties[PropArtifactOf])
	case g.Properties[PropJob] != "":
		return no("job %s of Kiln is making it", g.Properties[PropJob])
	case g.ContainerFormat != "" && g.ContainerFormat != "bare":
		return no("its container format is %s", g.ContainerFormat)
	case !slices.Contains(upgradable, g.DiskFormat):
		return no("its disk format is %s: %s are upgraded", g.DiskFormat, strings.Join(upgradable, " and "))
	}
	return nil
}

// FamilyNameOf makes a family's name of an image's: "Debian 12 (web)" becomes "debian-12-web". Where nothing of the name
// can stand, it is "image".
func FamilyNameOf(image string) FamilyName {
	plain := strings.Map(func(r rune) rune {
		if r = unicode.ToLower(r); r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return ' '
	}, image)
	name := strings.Join(strings.Fields(plain), "-")
	name = strings.Trim(name[:min(len(name), 59)], ".-") // room for a number behind it
	if name == "" {
		return "image"
	}
	return FamilyName(name)
}

// mostNamesakes bounds the search for a free family name.
const mostNamesakes = 999

// Adopt makes an image that somebody uploaded the first version of a family of its project; neither its bytes nor who sees
// it change. Family "" makes the name of the image's. An image that is a version already is answered as it is, unless
// another family was asked for. errs.Conflict where the family has versions, or the image cannot be one (Adoptable).
func (s *Service) Adopt(ctx context.Context, by job.By, i Image, family FamilyName) (Version, error) {
	if family != "" {
		if err := family.Check(); err != nil {
			return Version{}, err
		}
	}
	if v, err := s.adoptedAs(ctx, i, family); !errs.Is(err, errs.NotFound) {
		return v, err
	}
	if s.Glance != nil {
		g, err := s.Glance.Image(ctx, i.ID)
		if err == nil {
			err = Adoptable(g)
		}
		if err != nil {
			return Version{}, err
		}
	}
	var out Version
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		f, err := s.familyFor(ctx, i, family)
		if err != nil {
			return err
		}
		out, err = s.firstVersion(ctx, by, i, f)
		return err
	})
	if errs.Is(err, errs.Conflict) { // somebody else may have been faster
		if v, ferr := s.adoptedAs(ctx, i, family); ferr == nil {
			return v, nil
		}
	}
	return out, err
}

// adoptedAs is the version that the image is already.
func (s *Service) adoptedAs(ctx context.Context, i Image, family FamilyName) (Version, error) {
	v, err := s.Store.VersionByImage(ctx, i.ID)
	if err == nil && family != "" && v.Family != family {
		return v, errs.New(errs.Conflict, "kiln.image.adopted", "image %s is version %s already", i.ID, v.Label()).At(errs.Where{Field: "family"})
	}
	return v, err
}

// familyFor is a family without versions: of the name, or of one made from the image's that is free.
func (s *Service) familyFor(ctx context.Context, i Image, family FamilyName) (Family, error) {
	name := family
	if name == "" {
		name = FamilyNameOf(i.Name)
	}
	for n := 1; n <= mostNamesakes; n++ {
		candidate := name
		if n > 1 {
			candidate = FamilyName(fmt.Sprintf("%s-%d", name, n))
		}
		f, err := s.Store.EnsureFamily(ctx, i.ProjectID, candidate)
		if err != nil {
			return f, err
		}
		if err := s.Store.LockFamily(ctx, f.ID); err != nil {
			return f, err
		}
		first, err := s.Store.ListVersions(ctx, listing.Query{Limit: 1}.Where("family_id", f.ID))
		if err != nil || len(first) == 0 {
			return f, err
		}
		if family != "" {
			break
		}
	}
	return Family{}, errs.New(errs.Conflict, "kiln.family.not_empty", "family %s has versions: an image is adopted as the first of a family", name).At(errs.Where{Field: "family"})
}

func (s *Service) firstVersion(ctx context.Context, by job.By, i Image, f Family) (Version, error) {
	if _, err := s.Store.FindImage(ctx, i.ID); errs.Is(err, errs.NotFound) {
		if err := s.Store.PutImage(ctx, i); err != nil {
			return Version{}, err
		}
	}
	day := i.CreatedAt
	if day.IsZero() {
		day = s.Now()
	}
	name, err := s.Store.NameVersion(ctx, f.ID, i.ID, day)
	if err != nil {
		return Version{}, err
	}
	v := Version{
		// Of the image alone, so that one image never becomes two versions.
		ID:        uuid.NewSHA1(uuid.NameSpaceURL, []byte("adopt "+i.ID)).String(),
		ProjectID: f.ProjectID, FamilyID: f.ID, Family: f.Name, Name: name, ImageID: i.ID, Origin: Adopted, OriginID: i.ID,
		InputDigest: i.Digest, State: Published, Artifacts: []Artifact{}, CreatedAt: s.Now().UTC(),
	}
	if err := s.Store.AddVersion(ctx, v); err != nil {
		return v, err
	}
	m := s.move(by, f, Candidate, v.Name, MovePublish, "adopted image "+i.ID)
	if _, err := s.Store.MoveChannel(ctx, m); err != nil {
		return v, err
	}
	return v, s.Tell(ctx, by, "image.adopted", "images/"+i.ID, i.ProjectID, v)
}
