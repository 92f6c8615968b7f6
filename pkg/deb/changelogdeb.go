package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Limits of a package whose changelog is read, in bytes.
const (
	maxData      = 2 << 30  // its files, unpacked
	maxChangelog = 64 << 20 // unpacked
)

// ErrNoChangelog says that a package has none of its own. Many have only a link to another package of their source.
var ErrNoChangelog = errors.New("the package has no changelog")

// PackagedChangelog reads the changelog out of a .deb, from its beginning and no further than needed.
func PackagedChangelog(r io.Reader) ([]Entry, error) {
	t, done, err := Archive(r, DataArchive, maxData)
	if err != nil {
		return nil, err
	}
	defer done()
	return tarChangelog(t)
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
