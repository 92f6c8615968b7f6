package daemon

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack/cinder"
)

// lookEvery is how often is looked whether the published fixes are due to be read.
const lookEvery = time.Minute

// knowledge has the published fixes read on schedule.
func (p *Parts) knowledge() Loop {
	every := p.Config.Advisory.Interval
	if every <= 0 {
		return idle
	}
	desk := job.Desk{Jobs: p.DB, Tx: p.DB, Events: p.DB, Now: time.Now, NewID: uuid.NewString}
	s := &advisory.Schedule{Service: &advisory.Service{Desk: desk}, Images: p.DB, Every: every}
	return engine.Every(min(lookEvery, every), "advisories", p.Log, s.Round)
}

// running counts what runs from each image.
func (p *Parts) running() Loop {
	every := p.Config.Advisory.RunningInterval
	if every <= 0 {
		return idle
	}
	services := []engine.InUse{
		{Service: "Nova", Count: p.Nova.ImagesInUse},
		{Service: "Cinder", Optional: true, Count: cinder.New(p.Cloud).ImagesInUse},
		{Service: "Zun", Optional: true, ByName: true, Count: p.Zun.ImagesInUse},
	}
	return engine.Every(every, "what runs from the images", p.Log, func(ctx context.Context) error {
		return engine.CountRunning(ctx, p.DB, services)
	})
}

// idle is a loop that is not wanted.
func idle(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
