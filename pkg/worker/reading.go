package worker

import (
	"context"
	"io"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Remote reads images where they are, without a copy.
type Remote interface {
	Method() string // rbd, range
	// Open gives the image's bytes; an error where the image cannot be read in this way.
	Open(ctx context.Context, g catalog.GlanceImage) (RemoteImage, error)
}

// RemoteImage is the bytes of an image that is elsewhere.
type RemoteImage interface {
	io.ReaderAt
	io.Closer
	BytesRead() int64
	// Err is the first error of a read. Facts that were found in spite of one are not believed. Conflict and TooLarge
	// say that the image is to be read in another way, the rest that there is none now.
	Err() error
}

// ways that are no Remote.
const (
	byCache    = "cache"
	byDownload = "download"
	byConvert  = "convert"
	byNothing  = "none"
)

// reading is one image that is read by the first of the ways that works.
type reading struct {
	Deps
	images *imageCache
	run    *job.Run
	image  catalog.GlanceImage
	all    bool // everything that can be found, whatever it costs

	method string
	bytes  int64
}

// facts reads those of the image; Invalid where it has none to read.
func (r *reading) facts(ctx context.Context) (*catalog.Facts, error) {
	how := catalog.ReadingOf(r.image)
	if how.Refused != "" {
		r.method = byNothing
		return nil, errs.New(errs.Invalid, "kiln.image.no_disk", "%s", how.Refused)
	}
	if how.Convert != "" {
		return r.converted(ctx, how.Convert)
	}
	if _, here := r.images.has(r.image); !here && r.InspectAt != nil && r.image.Status == "active" {
		for _, remote := range r.Remotes {
			facts, done, err := r.remote(ctx, remote, how.Format)
			if done {
				return facts, err
			}
			r.run.Logf("%s: the image is read in another way: %v", remote.Method(), err)
		}
	}
	path, err := r.local(ctx)
	if err != nil {
		return nil, err
	}
	return r.Inspect(ctx, path, how.Format)
}

// remote reads in one way; done is false where the next one is tried.
func (r *reading) remote(ctx context.Context, way Remote, format string) (facts *catalog.Facts, done bool, err error) {
	img, err := way.Open(ctx, r.image)
	if err != nil {
		return nil, ctx.Err() != nil, err
	}
	defer img.Close() //nolint:errcheck // only read
	r.run.Progress("read by "+way.Method(), 0, 0, "bytes")
	facts, err = r.InspectAt(ctx, img, r.image.Size, format, r.all)
	r.bytes += img.BytesRead()
	if broken := img.Err(); broken != nil {
		return nil, !errs.Is(broken, errs.Conflict) && !errs.Is(broken, errs.TooLarge), broken
	}
	r.method = way.Method()
	return facts, true, err
}

// local gives the path of the whole image.
func (r *reading) local(ctx context.Context) (string, error) {
	if path, here := r.images.has(r.image); here {
		r.method = byCache
		return path, nil
	}
	path, err := r.images.get(ctx, r.run, r.image)
	if err == nil {
		r.method = byDownload
		r.bytes += r.image.Size
	}
	return path, err
}

// converted reads a format that only qemu knows: the whole image is fetched and made raw in a folder of its own.
func (r *reading) converted(ctx context.Context, format string) (facts *catalog.Facts, err error) {
	path, err := r.local(ctx)
	if err != nil {
		return nil, err
	}
	r.method = byConvert
	err = r.work(func(dir string) error {
		raw := filepath.Join(dir, "disk.raw")
		if err := disk.ConvertForeign(ctx, disk.Image{Path: path, Format: format}, raw, disk.Limits{}, func(done, total int64) {
			r.run.Progress("convert", done, total, "bytes")
		}); err != nil {
			return err
		}
		facts, err = r.Inspect(ctx, raw, disk.Raw)
		if facts != nil {
			facts.DiskFormat = r.image.DiskFormat
		}
		return err
	})
	return facts, err
}
