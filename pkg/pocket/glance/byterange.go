package glance

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// part is what of an image is sent.
type part struct {
	start, length int64
	partial       bool
}

func (p part) header(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", p.start, p.start+p.length-1, size)
}

// parseRange reads a Range header as Glance does: one range only
// (https://opendev.org/openstack/glance/src/branch/stable/zed/glance/common/wsgi.py, get_range_from_request).
func parseRange(header string, size int64) (part, error) {
	whole := part{length: size}
	if header == "" {
		return whole, nil
	}
	if strings.Contains(header, ",") {
		return whole, fail(http.StatusBadRequest, "Requests with multiple ranges are not supported in Glance. "+
			"You may make multiple single-range requests instead.")
	}
	invalid := fail(http.StatusRequestedRangeNotSatisfiable, "")
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, found := strings.Cut(spec, "-")
	if !ok || !found {
		return whole, invalid
	}
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil {
			return whole, invalid
		}
		n = min(n, size)
		return part{start: size - n, length: n, partial: true}, nil
	}
	start, err := strconv.ParseInt(first, 10, 64)
	if err != nil || start >= size {
		return whole, invalid
	}
	end := size - 1
	if last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < start {
			return whole, invalid
		}
		end = min(n, end)
	}
	return part{start: start, length: end - start + 1, partial: true}, nil
}
