package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"
)

// Every is a loop that runs round at once and then every so often until its context ends. A round that fails is logged
// and tried again with the next. Engines that were started together do not stay in step.
func Every(pause time.Duration, what string, log logrus.FieldLogger, round func(ctx context.Context) error) func(ctx context.Context) error {
	pause = max(pause, time.Second)
	return func(ctx context.Context) error {
		for {
			bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
			err := round(bounded)
			cancel()
			if err != nil && ctx.Err() == nil {
				log.WithError(err).Warning(what + ": the round was not complete; the next one tries again")
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause - pause/10 + rand.N(pause/5+1)): //nolint:gosec // jitter
			}
		}
	}
}
