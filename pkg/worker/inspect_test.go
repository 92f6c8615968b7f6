package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

const imageSize = 4 << 20

// ranges reads the pocket cloud's images as the programs do.
type ranges struct{ glance *glance.Client }

func (ranges) Method() string { return "range" }

func (w ranges) Open(ctx context.Context, g catalog.GlanceImage) (worker.RemoteImage, error) {
	return parts{remote.New(ctx, w.glance.Ranges(g.ID, g.Size), g.Size, remote.Options{Pause: time.Millisecond, Block: 4096})}, nil
}

type parts struct{ *remote.Reader }

func (p parts) BytesRead() int64 { return p.Stats().Bytes }

// elsewhere is a way that has no image.
type elsewhere struct{}

func (elsewhere) Method() string { return "rbd" }

func (elsewhere) Open(context.Context, catalog.GlanceImage) (worker.RemoteImage, error) {
	return nil, errs.New(errs.NotFound, "kiln.test.elsewhere", "not here")
}

// collector is a shop whose images are read where they are.
type collector struct {
	*shop
	data  []byte
	meet  func(off int64) // what happens before a read
	deaf  bool            // reads whatever the reads say
	local []byte          // what was read in a local file
	all   bool            // whether everything was asked for
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{shop: newShop(t), data: bytes.Repeat([]byte("kiln"), imageSize/4)}
	facts := c.deps.Inspect
	c.deps.Remotes = []worker.Remote{elsewhere{}, ranges{c.glance}}
	c.deps.InspectAt = func(ctx context.Context, r io.ReaderAt, size int64, format string, all bool) (*catalog.Facts, error) {
		c.all = all
		if size != imageSize || format != "raw" {
			t.Errorf("%d bytes of %s", size, format)
		}
		for _, off := range []int64{0, imageSize / 2, imageSize - 100} {
			if c.meet != nil {
				c.meet(off)
			}
			p := make([]byte, 100)
			n, err := r.ReadAt(p, off)
			if err != nil && !errors.Is(err, io.EOF) && !c.deaf {
				return nil, err
			}
			if err == nil && !bytes.Equal(p[:n], c.data[off:off+100]) {
				t.Errorf("other bytes at %d", off)
			}
		}
		return facts(ctx, "", format)
	}
	c.deps.Inspect = func(ctx context.Context, path, format string) (*catalog.Facts, error) {
		var err error
		if c.local, err = os.ReadFile(path); err != nil {
			return nil, err
		}
		return facts(ctx, path, format)
	}
	return c
}

// upload makes an image and the job that reads it.
func (c *collector) upload(format, container string, data []byte) (image, jobID string) {
	c.t.Helper()
	n := catalog.NewGlanceImage{ID: uuid.NewString(), Name: "theirs", DiskFormat: format, ContainerFormat: container, Visibility: "private", Tags: []string{"b", "a"}}
	_, err := c.glance.CreateImage(c.t.Context(), n)
	if err == nil {
		err = c.glance.Upload(c.t.Context(), n.ID, bytes.NewReader(data), int64(len(data)))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.cloud.ResetRequests()
	return n.ID, c.ask(n.ID)
}

func (c *collector) ask(image string) string {
	c.t.Helper()
	now := time.Now()
	id := uuid.NewString()
	if err := c.db.AddJob(c.t.Context(), job.Job{ID: id, Kind: job.Inspect, Queue: job.WorkerQueue, State: job.Pending, ProjectID: c.project, Resource: "images/" + image,
		Payload: json.RawMessage("{}"), MaxAttempts: 2, RunAfter: now, CreatedAt: now, UpdatedAt: now}); err != nil {
		c.t.Fatal(err)
	}
	return id
}

// result runs the worker and gives what came of a job.
func (c *collector) result(id string) (job.Job, worker.Inspected) {
	c.t.Helper()
	c.drain()
	j, err := c.db.FindJob(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	var out worker.Inspected
	if len(j.Result) > 0 {
		if err := json.Unmarshal(j.Result, &out); err != nil {
			c.t.Fatal(err)
		}
	}
	return j, out
}

// sent is how many bytes of images left Glance.
func (c *collector) sent() (n int64) {
	for _, r := range c.cloud.Requests() {
		if r.Method == http.MethodGet && strings.HasSuffix(r.Path, "/file") {
			n += r.BytesOut
		}
	}
	return n
}

func (c *collector) row(id string) catalog.Image {
	c.t.Helper()
	i, err := c.db.FindImage(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	return i
}

// Facts come without a download, and the job tells what they cost.
func TestInspectReadsParts(t *testing.T) {
	c := newCollector(t)
	id, jobID := c.upload("raw", "bare", c.data)
	j, out := c.result(jobID)
	if j.State != job.Succeeded || out.State != catalog.Inspected || out.Method != "range" || out.Size != imageSize || out.BytesRead == 0 || out.BytesRead > 5*4096 {
		t.Errorf("%s: %+v", j.State, out)
	}
	if n := c.sent(); n != out.BytesRead {
		t.Errorf("%d bytes left Glance, the job says %d", n, out.BytesRead)
	}
	i := c.row(id)
	if i.State != catalog.Inspected || i.FactsVersion != catalog.FactsVersion || i.Status != "active" || i.Visibility != "private" || strings.Join(i.Tags, "") != "ab" || !strings.HasPrefix(i.Digest, "sha512:") {
		t.Errorf("%+v", i)
	}
	if len(c.local) > 0 || c.all {
		t.Errorf("%d bytes were fetched, all: %v", len(c.local), c.all)
	}
	if c.result(c.ask(id)); !c.all {
		t.Error("what was known before was not asked for again")
	}
	if i = c.row(id); i.State != catalog.Inspected {
		t.Errorf("%+v", i)
	}
}

// A Glance that gives no parts gives the whole, which is kept for the next time.
func TestInspectFallsBackToTheWhole(t *testing.T) {
	c := newCollector(t)
	c.cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodGet, PathSuffix: "/file"}, wire.Fault{Status: http.StatusBadRequest}, 1)
	id, jobID := c.upload("raw", "bare", c.data)
	j, out := c.result(jobID)
	if j.State != job.Succeeded || out.Method != "download" || out.BytesRead != imageSize || !bytes.Equal(c.local, c.data) {
		t.Errorf("%s: %+v, %v", j.State, out, j.Error)
	}
	c.cloud.ResetRequests()
	if _, out := c.result(c.ask(id)); out.Method != "cache" || out.BytesRead != 0 || c.sent() != 0 {
		t.Errorf("again: %+v, %d bytes left Glance", out, c.sent())
	}
}

func TestInspectMeetsAnImageThatLeaves(t *testing.T) {
	c := newCollector(t)
	id, jobID := c.upload("raw", "bare", c.data)
	c.meet = func(off int64) {
		if off == imageSize/2 {
			if err := c.glance.DeleteImage(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
	}
	if err := c.db.PutImageHead(t.Context(), catalog.Image{ID: id, ProjectID: c.project, State: catalog.Waiting}); err != nil {
		t.Fatal(err)
	}
	if j, out := c.result(jobID); j.State != job.Succeeded || out.State != catalog.Gone || c.row(id).State != catalog.Gone {
		t.Errorf("deleted in the middle: %s, %+v, %v", j.State, out, j.Error)
	}
	if j, out := c.result(c.ask(uuid.NewString())); j.State != job.Succeeded || out.State != catalog.Gone {
		t.Errorf("never there: %s, %+v, %v", j.State, out, j.Error)
	}
	c.meet = nil
	id, jobID = c.upload("raw", "bare", c.data)
	if err := c.glance.Deactivate(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if j, out := c.result(jobID); j.State != job.Succeeded || out.State != catalog.Waiting || c.sent() != 0 {
		t.Errorf("deactivated: %s, %+v, %v", j.State, out, j.Error)
	}
}

// What a file system's reader makes of bytes that did not come is not believed.
func TestInspectDoesNotBelieveLostReads(t *testing.T) {
	c := newCollector(t)
	c.deaf = true
	id, jobID := c.upload("raw", "bare", c.data)
	c.cloud.Fail(wire.Match{Service: pocket.Image, Method: http.MethodGet, PathSuffix: "/file"}, wire.Fault{Status: http.StatusServiceUnavailable}, -1)
	if j, _ := c.result(jobID); j.State != job.Failed || j.Error == nil || j.Error.Code != "kiln.glance.unavailable" {
		t.Errorf("%s: %v", j.State, j.Error)
	}
	if _, err := c.db.FindImage(t.Context(), id); !errs.Is(err, errs.NotFound) {
		t.Errorf("a row: %v", err)
	}
}

// What is no disk is said to be none, once, and nothing is read of it.
func TestInspectKnowsWhatIsNoDisk(t *testing.T) {
	c := newCollector(t)
	for _, f := range []struct{ disk, container, reason string }{
		{"iso", "bare", "installation medium"}, {"raw", "docker", "container image"}, {"aki", "aki", "kernel"}, {"ari", "ari", "initrd"},
		{"qcow2", "ovf", "archive"}, {"vmdk", "ova", "archive"}, {"ploop", "bare", "ploop"},
	} {
		id, jobID := c.upload(f.disk, f.container, c.data[:4096])
		j, out := c.result(jobID)
		if i := c.row(id); j.State != job.Succeeded || out.Method != "none" || out.BytesRead != 0 || i.State != catalog.Unreadable || !strings.Contains(i.Reason, f.reason) {
			t.Errorf("%s in %s: %s, %+v, %q, %v", f.disk, f.container, j.State, out, i.Reason, j.Error)
		}
		if n := c.sent(); n != 0 {
			t.Errorf("%s in %s: %d bytes were read", f.disk, f.container, n)
		}
	}
	// The bytes of an ami are those of a file system.
	if _, jobID := c.upload("ami", "ami", c.data); true {
		if j, out := c.result(jobID); out.Method != "range" {
			t.Errorf("ami: %+v, %v", out, j.Error)
		}
	}
}

func TestInspectConverts(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		if testing.Short() {
			t.Skip("needs qemu-img")
		}
		t.Fatal(err)
	}
	c := newCollector(t)
	dir := t.TempDir()
	raw, vmdk := filepath.Join(dir, "raw"), filepath.Join(dir, "vmdk")
	if err := os.WriteFile(raw, c.data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(vmdk)
	if err != nil {
		t.Fatal(err)
	}
	id, jobID := c.upload("vmdk", "bare", data)
	j, out := c.result(jobID)
	if j.State != job.Succeeded || out.Method != "convert" || out.BytesRead != int64(len(data)) || !bytes.Equal(c.local, c.data) {
		t.Errorf("%s: %+v, %v", j.State, out, j.Error)
	}
	if i := c.row(id); i.State != catalog.Inspected || i.Facts.DiskFormat != "vmdk" {
		t.Errorf("%+v", i)
	}
	id, jobID = c.upload("vmdk", "bare", []byte("# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n"+strings.Repeat(" ", 1024)))
	if j, out := c.result(jobID); j.State != job.Succeeded || out.State != catalog.Unreadable || c.row(id).Reason == "" {
		t.Errorf("a description: %s, %+v, %v", j.State, out, j.Error)
	}
	left, err := os.ReadDir(c.deps.WorkDir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
