package baddays

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// health asks /healthcheck and gives the status with the names of the parts that are red.
func (w *world) health() (status int, red []string, err error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.api+"/healthcheck", http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var body struct {
		Reasons []struct{ Class, Reason string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return resp.StatusCode, nil, err
	}
	for _, r := range body.Reasons {
		if r.Reason != "OK" {
			red = append(red, r.Class)
		}
	}
	return resp.StatusCode, red, nil
}

// red waits until the health check names the part.
func (w *world) red(part string) {
	w.t.Helper()
	eventually(w.t, 30*time.Second, func() error {
		status, red, err := w.health()
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(strings.Join(red, " "), part)) {
			err = fmt.Errorf("status %d, red is %q and not %s", status, red, part)
		}
		return err
	})
}

// green waits until the health check is.
func (w *world) green() {
	w.t.Helper()
	eventually(w.t, 30*time.Second, func() error {
		status, red, err := w.health()
		if err == nil && (status != http.StatusOK || len(red) > 0) {
			err = fmt.Errorf("status %d, red is %q", status, red)
		}
		return err
	})
}

// stillRun expects that no program ended.
func stillRun(t *testing.T, programs ...*program) {
	t.Helper()
	for _, p := range programs {
		select {
		case <-p.done:
			t.Errorf("%s ended:\n%s", p.name, p.text())
		default:
		}
	}
}
