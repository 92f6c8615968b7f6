package glance

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Upload sends the bytes of an image that CreateImage made, and compares the size and the digest that Glance
// found with what was sent. Whatever fails, no half image stays: the record is deleted where it is not active,
// and its id is used up then.
func (c *Client) Upload(ctx context.Context, id string, r io.Reader, size int64) error {
	sent := &counted{r: r, size: size, sum: sha512.New()}
	err := c.service.Upload(ctx, "upload", "images/"+openstack.Segment(id)+"/file", sent)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && sent.short:
		err = errs.New(errs.Internal, "kiln.glance.short", "the image has %d bytes where %d were announced", sent.n, size)
	case err != nil && !isFault(err): // the reader's own
		err = errs.Wrap(err, errs.Internal, "kiln.glance.source", "the image's bytes cannot be read")
	case err == nil:
		err = c.compare(ctx, id, sent)
	}
	if err != nil {
		c.forget(ctx, id, errs.CodeOf(err) == codeDamaged)
	}
	return err
}

func isFault(err error) bool {
	var e *errs.Error
	return errors.As(err, &e)
}

const codeDamaged = "kiln.glance.damaged"

func (c *Client) compare(ctx context.Context, id string, sent *counted) error {
	image, err := c.Image(ctx, id)
	if err != nil {
		return err
	}
	sum := hex.EncodeToString(sent.sum.Sum(nil))
	if image.Status == "active" && image.Size == sent.n && (image.HashAlgo != "sha512" || image.HashValue == sum) {
		return nil
	}
	return errs.New(errs.Unavailable, codeDamaged, "image %s is %s with %d bytes and %s %s in glance, where %d bytes with sha512 %s were sent",
		id, image.Status, image.Size, image.HashAlgo, image.HashValue, sent.n, sum)
}

// forget removes what a failed upload left, also where the caller is gone already. An image that is active was
// filled by somebody else, and stays.
func (c *Client) forget(ctx context.Context, id string, damaged bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	image, err := c.Image(ctx, id)
	if err != nil {
		return // nothing is there, or Kiln's sweep of unfinished images finds it later
	}
	if damaged || slices.Contains([]string{"queued", "saving", "importing", "killed"}, image.Status) {
		_ = c.DeleteImage(ctx, id) // the sweep repeats it
	}
}

// counted counts and hashes what is sent, and holds it against the size that was announced.
type counted struct {
	r     io.Reader
	size  int64 // 0 for unknown
	n     int64
	sum   hash.Hash
	short bool
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.sum.Write(p[:n])
	if c.size > 0 && (c.n > c.size || errors.Is(err, io.EOF) && c.n != c.size) {
		c.short = true
		return 0, io.ErrUnexpectedEOF // not io.EOF: Glance would take the half for the whole
	}
	return n, err
}

// Download opens the image's bytes from the offset. A Range goes past Glance's own cache, so there is none at 0.
// errs.NotFound for no image, errs.Conflict kiln.glance.no_data for one without bytes.
func (c *Client) Download(ctx context.Context, id string, offset int64) (io.ReadCloser, error) {
	header := map[string]string{"Accept": "application/octet-stream"}
	if offset > 0 {
		header["Range"] = "bytes=" + strconv.FormatInt(offset, 10) + "-"
	}
	status, body, err := c.service.Download(ctx, "download", "images/"+openstack.Segment(id)+"/file", header,
		http.StatusOK, http.StatusPartialContent, http.StatusNoContent)
	if err != nil {
		return nil, err
	}
	switch {
	case status == http.StatusNoContent:
		return nil, errors.Join(errs.New(errs.Conflict, "kiln.glance.no_data", "image %s has no bytes yet", id), body.Close())
	case status == http.StatusOK && offset > 0: // the answer to a Range that the server does not know
		if _, err := io.CopyN(io.Discard, body, offset); err != nil {
			return nil, errors.Join(err, body.Close())
		}
	}
	return body, nil
}

// Digest is the image's digest as Kiln writes it, "sha512:<hex>"; "" while Glance has none.
func Digest(i catalog.GlanceImage) string {
	if i.HashValue == "" {
		return ""
	}
	return i.HashAlgo + ":" + i.HashValue
}
