package glance

import (
	"context"
	"crypto/md5" //nolint:gosec // the checksum that Glance publishes is an MD5
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// received is a file that was written, outside of what can be seen.
type received struct {
	path           string
	size, virtual  int64 // virtual is -1 where it is not known
	checksum, hash string
}

var errTooLarge = errors.New("larger than the limit")

// receive streams bytes into incoming/ and computes the checksums on the way. The caller owns the file.
func (s *Service) receive(body io.Reader) (received, error) {
	s.mu.Lock()
	s.uploads++
	got := received{path: s.path("incoming", strconv.Itoa(s.uploads)), virtual: -1}
	s.mu.Unlock()
	f, err := os.Create(got.path)
	if err != nil {
		return got, err
	}
	if s.opts.Quota > 0 {
		body = io.LimitReader(body, s.opts.Quota+1)
	}
	sumMD5, sumSHA := md5.New(), sha512.New() //nolint:gosec // as above
	got.size, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, sumMD5, sumSHA)}, body, make([]byte, 1<<20))
	if err == nil && s.opts.Quota > 0 && got.size > s.opts.Quota {
		err = errTooLarge
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return got, errors.Join(err, os.Remove(got.path))
	}
	got.checksum, got.hash = hex.EncodeToString(sumMD5.Sum(nil)), hex.EncodeToString(sumSHA.Sum(nil))
	return got, nil
}

// virtualSize is what Glance's format inspector would find: the size inside a qcow2, the file's for a raw image.
func virtualSize(path, format string, size int64) *int64 {
	switch format {
	case "raw", "iso":
		return &size
	case "qcow2":
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer func() { _ = f.Close() }()
		head := make([]byte, 32)
		if _, err := io.ReadFull(f, head); err != nil || string(head[:4]) != "QFI\xfb" {
			return nil
		}
		inside := int64(binary.BigEndian.Uint64(head[24:]))
		return &inside
	}
	return nil
}

func transition(from, to string) error {
	return fail(http.StatusConflict, "Image status transition from %s to %s is not allowed", from, to)
}

// begin moves a queued image to saving or uploading, if the caller may.
func (s *Service) begin(c call, rule, to string) (*image, error) {
	if c.Header.Get("Content-Type") != "application/octet-stream" {
		return nil, fail(http.StatusUnsupportedMediaType, "Invalid content type %s", c.Header.Get("Content-Type"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.own(c, rule)
	if err != nil {
		return nil, err
	}
	if i.status != queued {
		return nil, transition(i.status, to)
	}
	if to == saving && (i.diskFormat == nil || i.containerFormat == nil) {
		return nil, fail(http.StatusBadRequest, "Properties disk_format, container_format must be set prior to saving data.")
	}
	i.status = to
	s.touch(i)
	s.notify("update", i, nil)
	return i, nil
}

// restore puts an image back to queued after a failure, so that the upload can be tried again.
func (s *Service) restore(i *image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.status != deleted {
		i.status, i.size, i.virtualSize = queued, nil, nil
		s.touch(i)
		s.notify("update", i, nil)
	}
}

// upload is PUT /v2/images/{id}/file. Nothing is visible in the store before all of it is there.
func (s *Service) upload(c call) (answer, error) {
	store := c.Header.Get("X-Image-Meta-Store")
	if store == "" {
		store = s.opts.Stores[0]
	}
	if !slices.Contains(s.opts.Stores, store) {
		return answer{}, fail(http.StatusBadRequest, "Unknown scheme '%s' found in URI", store)
	}
	i, err := s.begin(c, "upload_image", saving)
	if err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	s.prepare(i, store)
	s.mu.Unlock()
	got, err := s.receive(c.Body)
	if err != nil {
		s.restore(i)
		return answer{}, s.uploadFailed(i, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.status == deleted {
		return answer{}, errors.Join(fail(http.StatusGone, "Image %s could not be found after upload. The image may have been "+
			"deleted during the upload, cleaning up the chunks uploaded.", i.id), os.Remove(got.path))
	}
	if err := os.Rename(got.path, s.path("stores", store, i.id)); err != nil {
		return answer{}, err
	}
	s.activate(i, store, got)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) uploadFailed(i *image, err error) error {
	if errors.Is(err, errTooLarge) {
		s.notifyError(i, "Image exceeds the storage quota")
		return fail(http.StatusRequestEntityTooLarge, "Image exceeds the storage quota: The size of the data %d bytes "+
			"will exceed the limit.", s.opts.Quota)
	}
	s.notifyError(i, "Failed to upload image data for image "+i.id+" due to internal error: "+err.Error())
	return fail(http.StatusBadRequest, "Cannot save data for image %s: %v", i.id, err)
}

// activate makes an image with its bytes in a store active. The lock is held.
func (s *Service) activate(i *image, store string, got received) {
	i.size, i.checksum, i.hash = &got.size, &got.checksum, &got.hash
	if text(i.containerFormat) == "bare" {
		i.virtualSize = virtualSize(s.path("stores", store, i.id), text(i.diskFormat), got.size)
	}
	i.stores = append(i.stores, store)
	i.status = active
	s.touch(i)
	s.notify("upload", i, importState(i))
	s.notify("activate", i, nil)
	s.notify("update", i, nil)
}

// open answers the image and a reader of its bytes; nil without any.
func (s *Service) open(c wire.Caller, id string) (*image, *os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.images[id]
	if i == nil || !i.seenBy(c) {
		return nil, nil, noImage(id)
	}
	if !readableBy(c) {
		return nil, nil, forbidden("download_image")
	}
	if i.status == deactivated && !c.Admin() {
		return nil, nil, fail(http.StatusForbidden, "The requested image has been deactivated. Image data download is forbidden.")
	}
	if len(i.stores) == 0 {
		return i, nil, nil
	}
	f, err := os.Open(s.path("stores", i.stores[0], i.id))
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil, nil
	}
	return i, f, err
}

// download is GET /v2/images/{id}/file.
func (s *Service) download(w http.ResponseWriter, r *http.Request) {
	caller := wire.CallerOf(r.Context())
	i, f, err := s.open(caller, r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if f == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	defer func() { _ = f.Close() }()
	size := *i.size
	part, err := parseRange(r.Header.Get("Range"), size)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if _, err := f.Seek(part.start, io.SeekStart); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Md5", *i.checksum)
	w.Header().Set("Content-Length", strconv.FormatInt(part.length, 10))
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", part.header(size))
	}
	w.WriteHeader(status)
	sent, err := io.CopyN(w, f, part.length)
	if err != nil {
		s.kit.Log.WithError(err).WithField("image", i.id).Debug("download ended early")
	}
	s.notifySend(i, caller, sent, part.length)
}

// Get implements wire.Images.
func (s *Service) Get(caller wire.Caller, id string) (wire.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.images[id]
	if i == nil || !i.seenBy(caller) {
		return wire.Image{}, wire.ErrImageNotFound
	}
	return i.shared(), nil
}

// Open implements wire.Images.
func (s *Service) Open(caller wire.Caller, id string) (wire.Image, io.ReadCloser, error) {
	i, f, err := s.open(caller, id)
	if err != nil {
		return wire.Image{}, nil, errors.Join(wire.ErrImageNotFound, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil || i.status != active {
		return i.shared(), nil, wire.ErrImageNotActive
	}
	return i.shared(), &counted{File: f, service: s, image: i, caller: caller}, nil
}

// counted notifies image.send and writes the request log when it is closed.
type counted struct {
	*os.File
	service *Service
	image   *image
	caller  wire.Caller
	sent    int64
	closed  bool
}

// Read counts what is read.
func (f *counted) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.sent += int64(n)
	return n, err
}

// WriteTo hides the file's own, which would not be counted.
func (f *counted) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}

// Close ends the download.
func (f *counted) Close() error {
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	s := f.service
	s.opts.Record(wire.Request{
		At: s.kit.Clock(), Service: s.kit.Service, Method: http.MethodGet, Path: "/v2/images/" + f.image.id + "/file",
		User: f.caller.UserName, Project: f.caller.ProjectName, Status: http.StatusOK, BytesOut: f.sent,
		RequestID: "req-" + s.kit.NewID(), InProcess: true,
	})
	s.notifySend(f.image, f.caller, f.sent, *f.image.size)
	return f.File.Close()
}

// copyFile copies an image's bytes from one store to another, outside of what can be seen first.
func (s *Service) copyFile(ctx context.Context, id, from, to string) error {
	source, err := os.Open(s.path("stores", from, id))
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	got, err := s.receive(source)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return os.Rename(got.path, s.path("stores", to, id))
}

var _ wire.Images = (*Service)(nil)
