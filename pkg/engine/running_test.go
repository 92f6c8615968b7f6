package engine_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

type counted struct {
	calls        int
	byID, byName map[string]int
}

func (c *counted) SetRunning(_ context.Context, byID, byName map[string]int) error {
	c.calls++
	c.byID, c.byName = byID, byName
	return nil
}

func TestCountRunning(t *testing.T) {
	gives := func(m map[string]int, err error) func(context.Context) (map[string]int, error) {
		return func(context.Context) (map[string]int, error) { return m, err }
	}
	nova := engine.InUse{Service: "Nova", Count: gives(map[string]int{"i1": 2}, nil)}
	zun := engine.InUse{Service: "Zun", Optional: true, ByName: true, Count: gives(map[string]int{"i1": 1, "web": 3}, nil)}
	absent := engine.InUse{Service: "Cinder", Optional: true, Count: gives(nil, errs.New(errs.Unavailable, "kiln.cinder.no_endpoint", "none"))}
	store := &counted{}
	if err := engine.CountRunning(t.Context(), store, []engine.InUse{nova, zun, absent}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(store.byID, map[string]int{"i1": 3, "web": 3}) || !maps.Equal(store.byName, map[string]int{"i1": 1, "web": 3}) {
		t.Errorf("%+v", store)
	}
	away := engine.InUse{Service: "Zun", Optional: true, Count: gives(nil, errors.New("away"))}
	if err := engine.CountRunning(t.Context(), store, []engine.InUse{nova, away}); err == nil || store.calls != 1 {
		t.Errorf("half a count was written: %v", err)
	}
}
