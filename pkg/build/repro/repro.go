// Package repro tells how two disks differ that were to be the same: which files of which partition, and which areas
// outside of files.
package repro

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/lima-vm/go-qcow2reader"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeRead is the code of disks that cannot be read.
const CodeRead = "kiln.build.compare"

// Difference is one thing that two disks do not share.
type Difference struct {
	Area string // "boot sector", "partition table", "partition 1 (root)"
	Path string // of a file in it; "" for the area itself
	What string // "content", "mode", "only in the first", "12 blocks outside of files"
}

// String is "partition 1 (root): /etc/shadow: content".
func (d Difference) String() string {
	if d.Path == "" {
		return d.Area + ": " + d.What
	}
	return d.Area + ": " + d.Path + ": " + d.What
}

// most is how many differences are told.
const most = 200

// maxNodes bounds the files of one file system.
const maxNodes = 5_000_000

// Disk is a disk as the guest sees it.
type Disk struct {
	io.ReaderAt
	Size int64
	io.Closer
}

// Open reads a disk image that Kiln made. format is "raw" or "qcow2"; a file that names other files is refused.
func Open(path, format string) (*Disk, error) {
	if _, err := disk.CheckFile(disk.Image{Path: path, Format: format}, disk.Limits{}); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeRead, "The image cannot be opened.")
	}
	fail := func(err error) (*Disk, error) {
		return nil, errs.Wrap(errors.Join(err, f.Close()), errs.Internal, CodeRead, "The image cannot be read.")
	}
	if format == disk.Raw {
		info, err := f.Stat()
		if err != nil {
			return fail(err)
		}
		return &Disk{ReaderAt: f, Size: info.Size(), Closer: f}, nil
	}
	img, err := qcow2reader.OpenWithType(f, qcow2.Type)
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return fail(err)
	}
	return &Disk{ReaderAt: img, Size: img.Size(), Closer: f}, nil
}

// Compare lists how b differs from a, at most 200 differences; none means that the guest sees the same bytes.
func Compare(ctx context.Context, a, b *Disk) ([]Difference, error) {
	c := &comparison{ctx: ctx}
	if a.Size != b.Size {
		return []Difference{{Area: "disk", What: fmt.Sprintf("%d bytes and %d bytes", a.Size, b.Size)}}, nil
	}
	as, err := disk.Partitions(a, a.Size)
	if err != nil {
		return nil, err
	}
	bs, err := disk.Partitions(b, b.Size)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(as, bs, func(x, y disk.Partition) bool {
		return x.Index == y.Index && x.Start == y.Start && x.Length == y.Length
	}) {
		return []Difference{{Area: "partition table", What: "other partitions"}}, nil
	}
	slices.SortFunc(as, func(x, y disk.Partition) int { return int(min(1, max(-1, x.Start-y.Start))) })
	const bootCode = 440
	if err := c.area("boot sector", a, b, 0, bootCode); err != nil {
		return nil, err
	}
	at := int64(bootCode)
	for _, p := range as {
		if err := c.area("partition table", a, b, at, p.Start); err != nil {
			return nil, err
		}
		if err := c.partition(a, b, p); err != nil {
			return nil, err
		}
		at = p.Start + p.Length
	}
	return c.found, c.area("partition table", a, b, at, a.Size)
}

type comparison struct {
	ctx   context.Context //nolint:containedctx // one comparison is one call
	found []Difference
}

func (c *comparison) add(d Difference) {
	if len(c.found) < most {
		c.found = append(c.found, d)
	}
}

const block = 4096

// area compares bytes from one offset to another and notes how many blocks differ.
func (c *comparison) area(name string, a, b io.ReaderAt, from, to int64) error {
	n, err := c.blocks(a, b, from, to)
	if n > 0 {
		c.add(Difference{Area: name, What: fmt.Sprintf("%d blocks differ", n)})
	}
	return err
}

func (c *comparison) blocks(a, b io.ReaderAt, from, to int64) (n int, err error) {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for ; from < to; from += int64(len(x)) {
		if err := c.ctx.Err(); err != nil {
			return n, err
		}
		length := min(int64(len(x)), to-from)
		x, y = x[:length], y[:length]
		for _, side := range []struct {
			r io.ReaderAt
			p []byte
		}{{a, x}, {b, y}} {
			if _, err := side.r.ReadAt(side.p, from); err != nil && !errors.Is(err, io.EOF) {
				return n, errs.Wrap(err, errs.Internal, CodeRead, "A disk cannot be read at byte %d.", from)
			}
		}
		if bytes.Equal(x, y) {
			continue
		}
		for at := 0; at < len(x); at += block {
			if end := min(at+block, len(x)); !bytes.Equal(x[at:end], y[at:end]) {
				n++
			}
		}
	}
	return n, nil
}

// partition compares the files where both sides are ext4, and only the bytes of what is not.
func (c *comparison) partition(a, b io.ReaderAt, p disk.Partition) error {
	name := fmt.Sprintf("partition %d", p.Index)
	if p.Name != "" {
		name += " (" + p.Name + ")"
	}
	n, err := c.blocks(a, b, p.Start, p.Start+p.Length)
	if err != nil || n == 0 {
		return err
	}
	before := len(c.found)
	if strings.HasPrefix(disk.Filesystem(a, p.Start, p.Length), "ext") && strings.HasPrefix(disk.Filesystem(b, p.Start, p.Length), "ext") {
		if err := c.files(name, a, b, p); err != nil {
			return err
		}
	}
	if len(c.found) == before {
		c.add(Difference{Area: name, What: fmt.Sprintf("%d blocks differ, no file does", n)})
	}
	return nil
}

// file is what of one file must be the same.
type file struct {
	kind, owner, target, sum string
	size                     int64
	links                    uint32
}

func (c *comparison) files(name string, a, b io.ReaderAt, p disk.Partition) error {
	x, err := c.tree(a, p)
	if err != nil {
		return err
	}
	y, err := c.tree(b, p)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(x)) {
		other, both := y[path]
		if !both {
			c.add(Difference{name, path, "only in the first"})
			continue
		}
		if what := x[path].differs(other); what != "" {
			c.add(Difference{name, path, what})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(y)) {
		if _, both := x[path]; !both {
			c.add(Difference{name, path, "only in the second"})
		}
	}
	return nil
}

func (f file) differs(o file) string {
	switch {
	case f.kind != o.kind:
		return "mode " + f.kind + " and " + o.kind
	case f.owner != o.owner:
		return "owner " + f.owner + " and " + o.owner
	case f.target != o.target:
		return fmt.Sprintf("link to %q and %q", f.target, o.target)
	case f.size != o.size:
		return fmt.Sprintf("content, %d bytes and %d bytes", f.size, o.size)
	case f.sum != o.sum:
		return "content"
	case f.links != o.links:
		return fmt.Sprintf("%d names and %d names", f.links, o.links)
	}
	return ""
}

func (c *comparison) tree(r io.ReaderAt, p disk.Partition) (map[string]file, error) {
	fail := func(err error) (map[string]file, error) {
		return nil, errs.Wrap(err, errs.KindOf(err), CodeRead, "The files of partition %d cannot be read.", p.Index)
	}
	fsys, err := ext4.Open(io.NewSectionReader(r, p.Start, p.Length), p.Length)
	if err != nil {
		return fail(err)
	}
	out := map[string]file{}
	buf := make([]byte, 256<<10)
	err = fsys.Walk(c.ctx, maxNodes, func(n ext4.Node) error {
		f := file{kind: fmt.Sprintf("%o", n.Mode), owner: fmt.Sprintf("%d:%d", n.UID, n.GID), target: n.Target}
		switch n.Mode & ext4.TypeMask {
		case ext4.TypeFile:
			sum := sha256.New()
			if err := fsys.Stream(sum, n.Inode, buf); err != nil {
				return err
			}
			f.size, f.links, f.sum = n.Size, n.Links, string(sum.Sum(nil))
		case ext4.TypeDir:
		default:
			f.links = n.Links
		}
		out[n.Path] = f
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return out, nil
}
