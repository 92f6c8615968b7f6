package baddays

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// onSmallDisk is configuration that puts everything a worker writes onto a file system of so many MiB.
func (w *world) onSmallDisk(mib int) (config, dir string) {
	w.t.Helper()
	dir = filepath.Join(w.dir, "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("size=%dm", mib)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	return fmt.Sprintf("[worker]\nwork_dir = %[1]s/work\ncache_dir = %[1]s/cache\n", dir), dir
}

// wholeImages lets a worker fetch what it inspects, as it must where the image service gives no parts of it.
const wholeImages = "[collect]\nremote = false\n"

// A worker whose disk is too small for one image fails that job and says why, keeps nothing of it, and goes on with
// the next.
func TestDiskOfTheWorkerIsFull(t *testing.T) {
	w := newWorld(t)
	config, dir := w.onSmallDisk(24)
	config += wholeImages
	large := w.upload("large", "raw", bytes.NewReader(noise(32<<20, 3)), 32<<20)
	small := w.small()
	w.startAPI()
	worker := w.start("kiln-worker", config)
	failing := w.inspect(large)
	eventually(t, 30*time.Second, func() error { return w.failedAttempt(failing, 1) })
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("after the first attempt the disk holds %v", left)
	}
	if j, log := w.ended(w.inspect(small), 30*time.Second); j.State != job.Succeeded || j.Attempt != 1 {
		t.Errorf("the next job: %+v\n%v", j, log)
	}
	j, log := w.ended(failing, 90*time.Second)
	if j.State != job.Failed || j.Attempt != j.MaxAttempts || j.Error == nil || j.Error.Code != disk.CodeFull || !strings.Contains(j.Error.Detail, "disk is full") {
		t.Errorf("the job is %s after %d attempts: %+v", j.State, j.Attempt, j.Error)
	}
	told := 0
	for _, l := range log {
		if l.Level == "error" && strings.Contains(l.Text, "disk is full") {
			told++
		}
	}
	if told != j.MaxAttempts {
		t.Errorf("the job's log tells the reason %d times in %d attempts: %v", told, j.MaxAttempts, log)
	}
	for _, path := range files(t, dir) {
		if !strings.Contains(filepath.Base(path), small) {
			t.Errorf("%s was left", path)
		}
	}
	stillRun(t, worker)
}

// A worker that is killed in the middle of a download leaves nothing that stays on its disk.
func TestWorkerKilledWhileDownloading(t *testing.T) {
	w := newWorld(t)
	image := w.upload("some", "raw", bytes.NewReader(noise(4<<20, 5)), 4<<20)
	w.startAPI()
	worker := w.start("kiln-worker", wholeImages)
	w.valve.holdDownloads(1 << 20)
	inspection := w.inspect(image)
	w.valve.waitHeld(t, 1, 30*time.Second)
	cache := filepath.Join(w.dir, "state", "cache", "images")
	worker.kill()
	halves := files(t, cache)
	if len(halves) == 0 {
		t.Fatalf("the cache holds %v", halves)
	}
	w.valve.release()
	w.start("kiln-worker", wholeImages)
	if j, log := w.ended(inspection, 30*time.Second); j.State != job.Succeeded || j.Attempt != 2 {
		t.Errorf("the inspection: %+v\n%v", j, log)
	}
	left := files(t, cache)
	if len(left) != 1 || slices.Contains(halves, left[0]) {
		t.Errorf("the cache holds %v; %v was half", left, halves)
	}
}

// A build fills the disk of the worker: that is told as the worker's fault and not the recipe's, nothing stays
// mounted or on the disk, and the next job runs.
func TestDiskIsFullInTheMiddleOfABuild(t *testing.T) {
	w := newWorld(t)
	_, dir := w.onSmallDisk(200)
	w.startAPI()
	worker := w.start("kiln-worker", "[worker]\nwork_dir = "+dir+"\n")
	var src build.Source
	tree := map[string]string{"recipes/plain.yaml": "name: plain\nfrom:\n  release: bookworm\n"}
	if err := w.member.Post(t.Context(), "/v1/sources", build.NewSource{Name: "main", URL: "file://" + repository(t, tree)}, &src); err != nil {
		t.Fatal(err)
	}
	w.ended(src.JobID, 30*time.Second)
	var b build.Build
	if err := w.member.Post(t.Context(), "/v1/builds", map[string]string{"source": "main", "recipe": "plain"}, &b); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Minute, func() error { return w.failedAttempt(b.JobID, 1) })
	var j job.Job
	if err := w.member.Get(t.Context(), "/v1/jobs/"+b.JobID, &j); err != nil || j.Error == nil || j.Error.Code != disk.CodeFull {
		t.Errorf("the job is %s: %+v, error %v", j.State, j.Error, err)
	}
	t.Logf("at %q: %s", j.Progress.Stage, j.Error.Detail)
	if err := w.member.Post(t.Context(), "/v1/jobs/"+b.JobID+"/cancel", nil, nil); err != nil {
		t.Fatal(err)
	}
	if j, _ := w.ended(b.JobID, time.Minute); j.State != job.Cancelled {
		t.Errorf("the cancelled job is %s", j.State)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("the build left %v", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Count(string(mounts), dir) != 1 {
		t.Errorf("something is mounted from %s still (error %v):\n%s", dir, err, mounts)
	}
	if j, log := w.ended(w.inspect(w.small()), 30*time.Second); j.State != job.Succeeded {
		t.Errorf("the next job: %+v\n%v", j, log)
	}
	if len(w.images()) != 1 {
		t.Errorf("Glance has %d images", len(w.images()))
	}
	stillRun(t, worker)
}
