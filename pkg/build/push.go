package build

import (
	"context"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/job"
)

// Push is what came to a hosted source, already checked: its objects are whole, and its recipes have no faults.
type Push struct {
	Version int64 // of the repository that it was checked against
	Change  RepositoryChange
	Ref     string   // what the source follows from now on: a branch's or tag's short name; "" keeps it
	Reading *Reading // of that ref, where it moved
	Reason  string   // why changed recipes are built: "push of 1a2b3c by alice"
}

// Pushed writes a push and asks for the builds of the recipes that it changed, all in one transaction.
// ErrMoved where the repository is not the one that was checked, errs.Conflict kiln.source.ref_moved where a ref is
// not where the pusher saw it.
func (s *Service) Pushed(ctx context.Context, by job.By, sourceID string, p Push) ([]Outcome, error) {
	var out []Outcome
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.ChangeRepository(ctx, sourceID, p.Version, p.Change); err != nil {
			return err
		}
		src, err := s.Store.FindSource(ctx, sourceID)
		if err != nil {
			return err
		}
		if p.Ref != "" && p.Ref != src.Ref {
			src.Ref, src.UpdatedAt = p.Ref, s.Now().UTC()
			if err := s.Store.UpdateSource(ctx, src); err != nil {
				return err
			}
		}
		if err := s.Tell(ctx, by, "source.pushed", "sources/"+sourceID, src.ProjectID, p.Change.Moves); err != nil {
			return err
		}
		out = nil
		if p.Reading != nil {
			out, err = s.Found(ctx, by, sourceID, *p.Reading, p.Reason)
		}
		return err
	})
	return out, err
}

// Follows tells whether the source reads its recipes from the ref (in full).
func (src Source) Follows(ref string) bool {
	if src.Ref == "" {
		return false
	}
	name := strings.TrimPrefix(src.Ref, "refs/heads/")
	return ref == src.Ref || ref == "refs/heads/"+name || ref == "refs/tags/"+src.Ref
}
