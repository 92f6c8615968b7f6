package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Limits of a package whose changelog is read, in bytes.
const (
	maxData      = 2 << 30  // its files, unpacked
	maxChangelog = 64 << 20 // unpacked
	maxWindow    = 256 << 20
)

// ErrNoChangelog says that a package has none of its own. Many have only a link to another package of their source.
var ErrNoChangelog = errors.New("the package has no changelog")

// PackagedChangelog reads the changelog out of a .deb (deb(5)), from its beginning and no further than needed.
func PackagedChangelog(r io.Reader) ([]Entry, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	for {
		head := make([]byte, 60)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, fmt.Errorf("it has no data archive: %w", err)
		}
		member := strings.TrimRight(strings.TrimSpace(string(head[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 {
			return nil, errors.New("a member of it has no size")
		}
		if strings.HasPrefix(member, "data.tar") {
			return dataChangelog(io.LimitReader(r, size), path.Ext(member))
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("it breaks off: %w", err)
		}
	}
}

func dataChangelog(r io.Reader, ext string) ([]Entry, error) {
	var err error
	switch ext {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			defer z.Close()
			r = z
		}
	case ".tar":
	default:
		err = fmt.Errorf("its files are compressed as %q, which Kiln cannot read", ext)
	}
	if err != nil {
		return nil, err
	}
	return tarChangelog(tar.NewReader(io.LimitReader(r, maxData)))
}

// tarChangelog takes Debian's changelog; changelog.gz is that of a native package and else the upstream's, which has
// no entries of Debian's form.
func tarChangelog(t *tar.Reader) ([]Entry, error) {
	var plain []Entry
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if plain == nil {
				return nil, ErrNoChangelog
			}
			return plain, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(name, "/usr/share/doc/") || strings.Count(name, "/") != 5 {
			continue
		}
		base := path.Base(name)
		if base != "changelog.gz" && base != "changelog" && !strings.HasPrefix(base, "changelog.Debian.") {
			continue
		}
		entries, err := changelogEntries(t)
		switch {
		case err != nil:
			continue
		case strings.HasPrefix(base, "changelog.Debian."):
			return entries, nil
		}
		plain = entries
	}
}

func changelogEntries(r io.Reader) ([]Entry, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	whole := io.MultiReader(bytes.NewReader(head), r)
	if head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(whole)
		if err != nil {
			return nil, err
		}
		whole = z
	}
	return ParseChangelog(io.LimitReader(whole, maxChangelog))
}
