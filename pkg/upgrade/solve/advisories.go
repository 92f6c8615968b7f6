package solve

import (
	"context"
	"slices"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// PendingStore is what is read of the advisories.
type PendingStore interface {
	ListPending(ctx context.Context, imageID string) ([]advisory.Pending, error)
}

// Advisories implements Fixes by what was found pending for the image when it was last compared.
type Advisories struct{ Store PendingStore }

// Fill implements Fixes: a change closes what the fixes of its package close that are not later than its new version.
func (a Advisories) Fill(ctx context.Context, imageID, kind string, changes []upgrade.PlannedChange) error {
	pending, err := a.Store.ListPending(ctx, imageID)
	if err != nil {
		return err
	}
	of := map[string][]advisory.Pending{}
	for _, p := range pending {
		of[p.Package] = append(of[p.Package], p)
	}
	for i := range changes {
		c := &changes[i]
		for _, p := range of[c.Name] {
			if c.From == "" || c.To == "" || !within(kind, p.Fixed, c.From, c.To) || !sameArch(p.Architecture, c.Architecture) {
				continue
			}
			c.CVEs = append(c.CVEs, p.CVEs...)
			c.Urgency = advisory.Worse(c.Urgency, p.Urgency)
		}
		slices.Sort(c.CVEs)
		c.CVEs = slices.Compact(c.CVEs)
	}
	return nil
}

// within reports from < version <= to by the rules of a kind of packages.
func within(kind, version, from, to string) bool {
	below, err := advisory.Compare(kind, version, to)
	if err != nil || below > 0 {
		return false
	}
	above, err := advisory.Compare(kind, version, from)
	return err == nil && above > 0
}
