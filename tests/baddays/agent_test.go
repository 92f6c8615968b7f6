package baddays

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/dircache"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// An agent that is killed in the middle of a warm-up shows nothing half; after its return the copy is made and what
// it had left is gone.
func TestAgentKilledWhileWarmingUp(t *testing.T) {
	w, data, image := agentWorld(t)
	agent := w.startAgent("node1")
	w.valve.holdDownloads(2 << 20)
	made := w.warmUp(image)[0]
	w.valve.waitHeld(t, 1, 30*time.Second)
	store := filepath.Join(w.dir, "stores", "disk")
	eventually(t, 10*time.Second, func() error { return some(files(t, store)) })
	agent.kill()
	backend, err := dircache.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	names, listErr := backend.List(t.Context())
	if _, err := backend.Stat(t.Context(), image); !errs.Is(err, errs.NotFound) || len(names) > 0 || listErr != nil {
		t.Errorf("the half copy is seen: %v %v %v", err, names, listErr)
	}
	w.notVerified(made)
	halves := files(t, store)

	w.valve.release()
	w.startAgent("node1")
	w.verified(made)
	stat, err := backend.Stat(t.Context(), image)
	sum := sha512.Sum512(data)
	if err != nil || stat.Digest != "sha512:"+hex.EncodeToString(sum[:]) {
		t.Errorf("the copy is %+v, error %v", stat, err)
	}
	for _, path := range files(t, store) {
		if slices.Contains(halves, path) {
			t.Errorf("%s of the killed agent is still there", path)
		}
	}
	if n := len(files(t, store)); n != 2 { // the bytes and their record
		t.Errorf("the store has %v", files(t, store))
	}
}

// An agent that is killed in the middle of a plant leaves no file that Nova would use.
func TestAgentKilledWhilePlanting(t *testing.T) {
	w, data, image := agentWorld(t)
	agent := w.startAgent("node1")
	copies := w.warmUp(image, "node1")
	w.verified(copies[0])
	base := filepath.Join(w.dir, "nova", "node1", "_base")
	target := cache.NovaCachePath(filepath.Join(w.dir, "nova", "node1"), image)
	planted := copies[1]
	w.verified(planted)
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the planted file has %d bytes, error %v", len(got), err)
	}

	// Once more with another image, whose bytes come from Glance and are held there.
	second := noise(8<<20, 9)
	other := w.upload("second", "raw", bytes.NewReader(second), int64(len(second)))
	w.version("second", other)
	w.valve.holdDownloads(2 << 20)
	again := w.warmUp(other, "node1")
	w.valve.waitHeld(t, 1, 30*time.Second)
	w.cancelled(again[0]) // the store's copy, so that the plant asks Glance
	w.valve.waitHeld(t, 1, 30*time.Second)
	eventually(t, 20*time.Second, func() error { return some(halfPlanted(t, base)) })
	agent.kill()
	halves := halfPlanted(t, base)
	if _, err := os.Stat(cache.NovaCachePath(filepath.Join(w.dir, "nova", "node1"), other)); err == nil || len(halves) == 0 {
		t.Errorf("Nova would use a half file: %v, %v", err, halves)
	}
	w.notVerified(again[1])

	w.valve.release()
	w.startAgent("node1")
	w.verified(again[1])
	if got, err := os.ReadFile(cache.NovaCachePath(filepath.Join(w.dir, "nova", "node1"), other)); err != nil || !bytes.Equal(got, second) {
		t.Errorf("the planted file has %d bytes, error %v", len(got), err)
	}
	if left := halfPlanted(t, base); len(left) > 0 {
		t.Errorf("left of the killed agent: %v", left)
	}
}

// agentWorld is a world with an API, a cluster of one node, and an image.
func agentWorld(t *testing.T) (w *world, data []byte, image string) {
	t.Helper()
	w = newWorld(t)
	w.startAPI()
	w.cluster("node1")
	data = noise(8<<20, 7)
	image = w.upload("first", "raw", bytes.NewReader(data), int64(len(data)))
	w.version("first", image)
	return w, data, image
}

func some(list []string) error {
	if len(list) == 0 {
		return os.ErrNotExist
	}
	return nil
}

// halfPlanted are the files in Nova's cache that have not their names yet.
func halfPlanted(t *testing.T, base string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(base, ".kiln-plant-*"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(base, "..kiln-plant-*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(found, more...)
}

func (w *world) copyNow(c cache.Copy) cache.Copy {
	w.t.Helper()
	if err := w.admin.Get(w.t.Context(), "/v1/copies/"+c.ID, &c); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) verified(c cache.Copy) {
	w.t.Helper()
	j, log := w.ended(c.JobID, 60*time.Second)
	if got := w.copyNow(c); j.State != job.Succeeded || got.State != cache.CopyVerified || got.VerifiedAt == nil {
		w.t.Fatalf("job %s %+v, copy %+v\n%v", j.State, j.Error, got, log)
	}
}

func (w *world) notVerified(c cache.Copy) {
	w.t.Helper()
	if got := w.copyNow(c); got.State != cache.CopyCopying || got.VerifiedAt != nil {
		w.t.Errorf("copy %+v", got)
	}
}

// cancelled cancels the job of a copy and waits for its end.
func (w *world) cancelled(c cache.Copy) {
	w.t.Helper()
	if err := w.admin.Post(w.t.Context(), "/v1/jobs/"+c.JobID+"/cancel", nil, nil); err != nil {
		w.t.Fatal(err)
	}
	if j, _ := w.ended(c.JobID, 30*time.Second); j.State != job.Cancelled {
		w.t.Fatal(fmt.Errorf("the job is %s", j.State))
	}
}
