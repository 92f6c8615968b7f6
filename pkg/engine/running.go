package engine

import (
	"context"
	"maps"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// InUse is a service that counts what runs from each image.
type InUse struct {
	Service  string // "Nova"
	Optional bool   // a cloud may lack it
	ByName   bool   // it keeps the name of an image where its caller said one
	Count    func(ctx context.Context) (map[string]int, error)
}

// CountRunning writes how many servers and containers run from each image. Where one of the services cannot be asked,
// what was counted before stays: half a count would rank images wrongly.
func CountRunning(ctx context.Context, store advisory.RunStore, services []InUse) error {
	byID, byName := map[string]int{}, map[string]int{}
	for _, s := range services {
		found, err := s.Count(ctx)
		if err != nil && s.Optional && strings.HasSuffix(errs.CodeOf(err), ".no_endpoint") {
			continue
		}
		if err != nil {
			return errs.Wrap(err, errs.KindOf(err), errs.CodeOf(err), "could not ask %s what runs", s.Service)
		}
		for image, n := range found {
			byID[image] += n
		}
		if s.ByName {
			maps.Copy(byName, found)
		}
	}
	return store.SetRunning(ctx, byID, byName)
}
