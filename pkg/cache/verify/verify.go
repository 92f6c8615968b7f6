// Package verify is what all backends of copies share: reading a source in whole pieces, and holding what came
// against what was promised.
package verify

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Fill reads until the piece is full or the source ends. err is nil for a full piece, io.EOF at the end (n bytes
// came before it), or *errs.Error. io.ReadFull would not tell the end of a source from one that broke.
func Fill(r io.Reader, piece []byte) (n int, err error) {
	for n < len(piece) {
		got, err := r.Read(piece[n:])
		n += got
		if errors.Is(err, io.EOF) {
			return n, io.EOF
		}
		if err != nil {
			return n, source(err)
		}
	}
	return n, nil
}

// source keeps Kiln's own errors (Glance is away) and names those that are none.
func source(err error) error {
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return err
	}
	return errs.Wrap(err, errs.KindOf(err), "kiln.cache.source", "the image's bytes cannot be read")
}

// Check compares the size and the SHA-512 of what came with what was promised; size 0 and digest "" promise nothing.
// The error is errs.Invalid.
func Check(n int64, sum []byte, size int64, digest string) error {
	if size > 0 && n != size {
		return errs.New(errs.Invalid, "kiln.cache.size", "%d bytes came where %d were promised", n, size)
	}
	if got := Digest(sum); digest != "" && !strings.EqualFold(digest, got) {
		return errs.New(errs.Invalid, "kiln.cache.digest", "the bytes have the digest %s where %s was promised", got, digest)
	}
	return nil
}

// Digest writes a SHA-512 as Kiln does.
func Digest(sum []byte) string { return "sha512:" + hex.EncodeToString(sum) }
