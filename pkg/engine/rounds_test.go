package engine_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/engine"
)

// A round that fails does not end the loop, and rounds come about as often as asked.
func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		rounds := 0
		err := engine.Every(time.Minute, "test", log, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a round without an end")
			}
			rounds++
			return errors.New("away")
		})(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || rounds < 9 || rounds > 12 {
			t.Errorf("%d rounds in ten minutes, %v", rounds, err)
		}
	})
}
