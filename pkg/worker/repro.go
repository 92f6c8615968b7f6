package worker

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/repro"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// mostDifferences is how many of them the log of a build tells.
const mostDifferences = 20

// compareWithEarlier tells in the build's log whether a locked build gave the same bytes as the version that the same
// inputs made before, and what differs. It never stops a build.
func (h *buildHandler) compareWithEarlier(ctx context.Context, r *job.Run, in *inputs, made build.Result) {
	if in.request.Lock == nil {
		return
	}
	earlier, err := h.unchanged(ctx, in.family, in.input)
	if err != nil || earlier == nil {
		return
	}
	found, err := h.differences(ctx, r, earlier.ImageID, made)
	switch {
	case err != nil:
		r.Warnf("the image cannot be compared with version %s, which the same inputs made: %v", earlier.Name, err)
	case len(found) == 0:
		r.Logf("the disk has the same bytes as that of version %s, which the same inputs made", earlier.Name)
	default:
		r.Warnf("the same inputs made version %s, whose disk differs in %d places", earlier.Name, len(found))
		for _, d := range found[:min(len(found), mostDifferences)] {
			r.Warnf("differs: %s", d)
		}
	}
}

func (h *buildHandler) differences(ctx context.Context, r *job.Run, imageID string, made build.Result) ([]repro.Difference, error) {
	g, err := h.Glance.Image(ctx, imageID)
	if err != nil {
		return nil, err
	}
	path, err := h.publisher.images.get(ctx, r, g)
	if err != nil {
		return nil, err
	}
	old, err := repro.Open(path, g.DiskFormat)
	if err != nil {
		return nil, err
	}
	defer old.Close() //nolint:errcheck // read only
	fresh, err := repro.Open(made.Path, made.Format)
	if err != nil {
		return nil, err
	}
	defer fresh.Close() //nolint:errcheck // read only
	return repro.Compare(ctx, old, fresh)
}
