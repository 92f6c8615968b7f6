package glance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// CodeNoRange is the code of errors of an image whose parts cannot be read: its store, or a server before Glance, gives
// the whole or nothing. It never changes.
const CodeNoRange = "kiln.glance.no_range"

// Ranges reads parts of an image of size bytes (https://docs.openstack.org/api-ref/image/v2/#download-binary-image-data).
// Errors beside those of the service: errs.Conflict with CodeNoRange, errs.NotFound where the image was deleted,
// errs.Forbidden where it was deactivated. Glance tells its bus of each read (image.send).
func (c *Client) Ranges(id string, size int64) remote.Source {
	return &ranges{client: c, id: id, size: size}
}

type ranges struct {
	client *Client
	id     string
	size   int64
}

// noRange is what servers answer to a Range that they do not do: Glance 400 where the store has no random access, 416
// where it does not understand the header
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/api/v2/image_data.py, ResponseSerializer.download).
var noRange = []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented}

// ReadRange implements remote.Source.
func (r *ranges) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	last := off + int64(len(p)) - 1
	header := map[string]string{
		"Accept": "application/octet-stream", "Accept-Encoding": "identity",
		"Range": "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(last, 10),
	}
	ok := append([]int{http.StatusOK, http.StatusPartialContent, http.StatusNoContent}, noRange...)
	st, err := r.client.service.Stream(ctx, "read_range", "images/"+openstack.Segment(r.id)+"/file", header, ok...)
	if err != nil {
		return 0, err
	}
	defer st.Body.Close() //nolint:errcheck // only read; closing early ends the connection of a server that sends more
	switch st.Status {
	case http.StatusPartialContent:
	case http.StatusNoContent:
		return 0, errs.New(errs.Conflict, "kiln.glance.no_data", "image %s has no bytes", r.id)
	default:
		return 0, errs.New(errs.Conflict, CodeNoRange, "parts of image %s cannot be read: the answer to a Range is %d", r.id, st.Status)
	}
	got, want := strings.TrimSpace(st.Header.Get("Content-Range")), fmt.Sprintf("bytes %d-%d/", off, last)
	if total, ours := strings.CutPrefix(got, want); !ours || total != "*" && total != strconv.FormatInt(r.size, 10) {
		return 0, errs.New(errs.Conflict, CodeNoRange, "parts of image %s cannot be read: %q was asked for, and %.100q came", r.id, want, got)
	}
	n, err := io.ReadFull(st.Body, p)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return n, errs.Wrap(err, errs.Unavailable, "kiln.glance.short", "%d bytes of image %s came where %d were announced", n, r.id, len(p))
	}
	if err == nil {
		// The end is read, too, so that the connection serves the next read.
		if more, _ := st.Body.Read(make([]byte, 1)); more > 0 {
			return n, errs.New(errs.Conflict, CodeNoRange, "parts of image %s cannot be read: more comes than was asked for", r.id)
		}
	}
	return n, err
}
