package agent

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// plantHandler puts an image into Nova's image cache of this node, so that a server starts without a download.
// Nova checks neither checksum nor size of what stands there: the file gets its name only once its bytes were
// read back and verified.
type plantHandler struct{ *Agent }

func (h *plantHandler) Kind() job.Kind { return job.Plant }

func (h *plantHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	c, err := h.Store.FindCopy(ctx, r.Job.ResourceID())
	if err != nil {
		return job.Result{}, err
	}
	if c.Node != h.Node {
		return job.Result{}, errs.New(errs.Invalid, "kiln.copy.node", "the copy is for node %q and this agent is of %q", c.Node, h.Node)
	}
	g, digest, err := h.image(ctx, c.ImageID)
	if err != nil {
		return job.Result{}, err
	}
	target := cache.NovaCachePath(h.InstancesPath, c.ImageID)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return job.Result{}, err
	}
	info, err := os.Stat(target)
	switch {
	case err == nil && planted(target, digest, info):
		r.Logf("the image stands in the cache already")
	case err == nil:
		// Nova fetched it itself. Its bytes are not known to be good, and it may be in use as a base: it is left
		// alone and the copy is not called verified.
		return job.Result{}, errs.New(errs.Conflict, "kiln.copy.foreign", "%s stands there already and was not planted by Kiln", target)
	case !os.IsNotExist(err):
		return job.Result{}, err
	default:
		if err := h.plant(ctx, r, &c, g, digest, target); err != nil {
			return job.Result{}, err
		}
		if info, err = os.Stat(target); err != nil {
			return job.Result{}, err
		}
	}
	now := h.Now()
	c.State, c.Bytes, c.Digest, c.Path, c.Error, c.VerifiedAt, c.UpdatedAt = cache.CopyVerified, info.Size(), digest, target, "", &now, now
	return h.done(r, c, "copy.verified"), nil
}

func (h *plantHandler) plant(ctx context.Context, r *job.Run, c *cache.Copy, g catalog.GlanceImage, digest, target string) (err error) {
	c.State, c.UpdatedAt = cache.CopyCopying, h.Now()
	if err := h.Store.UpdateCopy(ctx, *c); err != nil {
		return err
	}
	if err := h.room(g, filepath.Dir(target)); err != nil {
		return err
	}
	body, err := h.source(ctx, r, *c, g)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	// The temporary names are in the same folder: a rename is then one step, and Nova ignores names that are
	// not 40 hex digits (nova/virt/libvirt/imagecache.py).
	tmp, err := os.CreateTemp(filepath.Dir(target), tempPrefix+"*")
	if err != nil {
		return disk.NoSpace(err, "the node's disk")
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // renamed by then, or half-made
	defer tmp.Close()           //nolint:errcheck // synced below
	if err := receive(tmp, r.Metered("copy", body, g.Size), digest); err != nil {
		return err
	}
	raw := tmp.Name() + ".raw"
	defer os.Remove(raw) //nolint:errcheck // renamed by then, or half-made
	if g.DiskFormat == "raw" {
		err = os.Rename(tmp.Name(), raw)
	} else {
		err = disk.Convert(ctx, disk.Image{Path: tmp.Name(), Format: g.DiskFormat}, disk.Image{Path: raw, Format: "raw"},
			func(done, total int64) { r.Progress("convert", done, total, "bytes") })
	}
	if err != nil {
		return disk.NoSpace(err, "the node's disk")
	}
	if err := os.Chmod(raw, 0o644); err != nil {
		return err
	}
	return publish(raw, target, digest)
}

// publish gives the file its name, and before that writes beside it which file it is: an attempt that comes
// after a crash then knows its own work from what Nova fetched.
func publish(raw, target, digest string) error {
	info, err := os.Stat(raw)
	if err != nil {
		return err
	}
	note := raw + ".note"
	if err := os.WriteFile(note, []byte(noteOf(digest, info)), 0o644); err != nil {
		return disk.NoSpace(err, "the node's disk")
	}
	if err := os.Rename(note, notePath(target)); err != nil {
		return err
	}
	return os.Rename(raw, target)
}

// planted reports whether the file is the one that an agent planted with that digest.
func planted(target, digest string, info os.FileInfo) bool {
	note, err := os.ReadFile(notePath(target))
	return err == nil && string(note) == noteOf(digest, info)
}

func notePath(target string) string {
	return filepath.Join(filepath.Dir(target), ".kiln-planted-"+filepath.Base(target))
}

// noteOf names a file by its inode, which a rename keeps and a new download does not.
func noteOf(digest string, info os.FileInfo) string {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf("%s %d %d\n", digest, inode, info.Size())
}

// source opens the copy of the node's own cluster where there is one, and Glance otherwise.
func (h *plantHandler) source(ctx context.Context, r *job.Run, c cache.Copy, g catalog.GlanceImage) (io.ReadCloser, error) {
	near, err := h.Store.ListCopies(ctx, listing.All().Where("image_id", g.ID).Where("cluster", c.Cluster).Where("state", string(cache.CopyVerified)))
	if err != nil {
		return nil, err
	}
	for _, n := range near {
		if n.Node != "" {
			continue
		}
		store, err := h.storeOf(ctx, n.Cluster, n.Store)
		if err == nil {
			var body io.ReadCloser
			if body, err = store.Open(ctx, g.ID); err == nil {
				r.Logf("from store %s of cluster %s", n.Store, n.Cluster)
				return body, nil
			}
		}
		r.Warnf("store %s of cluster %s cannot give the image, Glance is asked: %v", n.Store, n.Cluster, err)
	}
	r.Logf("from Glance")
	return h.Glance.Download(ctx, g.ID, 0)
}

// receive writes the bytes and checks them as they are on the disk, not as they came in.
func receive(f *os.File, body io.Reader, digest string) error {
	if _, err := io.Copy(f, body); err != nil {
		return disk.NoSpace(err, "the node's disk")
	}
	if err := f.Sync(); err != nil {
		return disk.NoSpace(err, "the node's disk")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha512.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := "sha512:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return errs.New(errs.Unavailable, "kiln.copy.digest", "the bytes that arrived have %s, Glance says %s", got, digest)
	}
	return nil
}

// room refuses a copy that would leave less than MinFree on the disk; the received and the raw file stand
// beside each other for a moment.
func (h *plantHandler) room(g catalog.GlanceImage, dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	free := int64(fs.Bavail) * fs.Bsize
	need := 2*g.Size + h.MinFree
	if free < need {
		return errs.New(errs.TooLarge, disk.CodeFull, "the node's disk has %d bytes free, the copy needs %d and must leave %d", free, 2*g.Size, h.MinFree)
	}
	return nil
}

// Failed keeps the reason on the copy.
func (h *plantHandler) Failed(ctx context.Context, j job.Job, _ job.State, f *job.Failure) error {
	return h.failed(ctx, j, f)
}

const tempPrefix = ".kiln-plant-"

// sweepPlanted removes what a killed agent left in Nova's image cache.
func sweepPlanted(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) || strings.HasPrefix(e.Name(), "."+tempPrefix) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
