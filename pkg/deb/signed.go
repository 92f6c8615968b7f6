package deb

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Signed is one suite as its signer wrote it: for apt, which keeps the same files.
type Signed struct {
	InRelease []byte
	Lists     []SignedList
}

// SignedList is a Packages file of a suite.
type SignedList struct {
	Name   string // below the suite: main/binary-amd64/Packages
	SHA256 string // of the packed file that the InRelease names; two lists with the same are the same
	// Unpack writes the list's text. Invalid where it cannot be unpacked.
	Unpack func(ctx context.Context, to io.Writer) error
}

// Signed is Fetch without reading what is in the lists: the same requests, the same checks, the same errors.
func (c *Client) Signed(ctx context.Context, s Suite) (Signed, error) {
	base := strings.TrimRight(s.Mirror, "/") + "/dists/" + s.Suite + "/"
	data, err := c.conditional(ctx, base+"InRelease")
	if err != nil {
		return Signed{}, err
	}
	rel, err := c.trusted(s.Suite, data)
	if err != nil {
		c.forget(base + "InRelease")
		return Signed{}, err
	}
	out := Signed{InRelease: data}
	for _, component := range s.Components {
		name := component + "/binary-" + s.Arch + "/Packages"
		file, address, ok := rel.packed(base, name)
		if !ok {
			return Signed{}, errs.New(errs.NotFound, "kiln.advisory.list_missing", "%s does not offer %s", base, name)
		}
		out.Lists = append(out.Lists, SignedList{Name: name, SHA256: file.sha256, Unpack: func(ctx context.Context, to io.Writer) error {
			data, err := c.list(ctx, address, file.releaseFile)
			if err != nil {
				return err
			}
			return copyUnpacked(to, data, file.ext)
		}})
	}
	return out, nil
}

type packedFile struct {
	releaseFile
	ext string
}

// packed finds the form of a list that is the quickest to read, and its address.
func (r *release) packed(base, name string) (packedFile, string, bool) {
	for _, ext := range []string{".gz", ".xz", ""} {
		want, ok := r.files[name+ext]
		if !ok {
			continue
		}
		address := base + name + ext
		if r.byHash {
			address = base + name[:strings.LastIndex(name, "/")] + "/by-hash/SHA256/" + want.sha256
		}
		return packedFile{want, ext}, address, true
	}
	return packedFile{}, "", false
}

func copyUnpacked(to io.Writer, data []byte, ext string) error {
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch ext {
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	}
	if err == nil {
		_, err = io.Copy(to, io.LimitReader(r, maxPackages))
	}
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "kiln.advisory.list_malformed", "cannot read a package list")
	}
	return nil
}
