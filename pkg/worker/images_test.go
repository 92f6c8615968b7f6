package worker_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// TestAnImageInUseStaysInTheCache: what a job reads from the cache is the youngest there, however long ago it came.
func TestAnImageInUseStaysInTheCache(t *testing.T) {
	s := newShop(t)
	b := s.build(s.synced(), false)
	dir := filepath.Join(s.deps.CacheDir, "images")
	kept, err := filepath.Glob(filepath.Join(dir, b.ImageID+"*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("%v in the cache, error %v", kept, err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(kept[0], long, long); err != nil {
		t.Fatal(err)
	}
	inspect := s.deps.Inspect
	var read string
	s.deps.Inspect = func(ctx context.Context, path, format string) (*catalog.Facts, error) {
		if strings.HasPrefix(path, dir) {
			read = path
			if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) > time.Minute {
				t.Errorf("the image that is read may be trimmed: %v, error %v", info, err)
			}
		}
		return inspect(ctx, path, format)
	}
	now := time.Now()
	if err := s.db.AddJob(t.Context(), job.Job{
		ID: uuid.NewString(), Kind: job.Inspect, Queue: job.WorkerQueue, State: job.Pending, Resource: "images/" + b.ImageID,
		Payload: []byte("{}"), MaxAttempts: 1, RunAfter: now, CreatedAt: now, UpdatedAt: now,
	}); err != nil {
		t.Fatal(err)
	}
	s.drain()
	if read != kept[0] {
		t.Errorf("%q was read, not %q", read, kept[0])
	}
}
