package inspect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// MaxFiles is the most names that a root file system may have.
const MaxFiles = 2_000_000

// hashSlack is how many bytes may be hashed beyond four times the size of the file system: a disk whose files share
// blocks, which only a hostile one does, ends there.
const hashSlack = 1 << 30

// Manifest lists every file of the image's root file system in the order of their paths, with the digests of their
// contents. What is on other partitions is not in it. It reads and hashes with as many goroutines as there are
// processors, in the order in which the contents lie on the disk. Errors are those of Read.
func Manifest(ctx context.Context, r io.ReaderAt, size int64, format string) (files []catalog.File, err error) {
	header, err := disk.Check(r, size, format, disk.Limits{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			files, err = nil, damaged(format, p)
		}
	}()
	s, err := open(ctx, r, header)
	if err != nil {
		return nil, err
	}
	m := &manifest{sys: s}
	if err := s.fsys.Walk(ctx, MaxFiles, m.add); err != nil {
		return nil, unreadable(ctx, err)
	}
	if err := m.hash(ctx); err != nil {
		return nil, unreadable(ctx, err)
	}
	return m.files, nil
}

func damaged(format string, p any) error {
	return errs.New(errs.Invalid, CodeUnreadable, "the %s image is damaged: %v", format, p)
}

// manifest is one on its way.
type manifest struct {
	sys   *system
	files []catalog.File
	todo  []content
}

// content is what one inode holds; all its names share the digest.
type content struct {
	inode uint64
	place int64
	size  int64
	file  int // index of the file
}

var fileTypes = map[uint16]string{
	tree.TypeFile: "file", tree.TypeDir: "dir", tree.TypeLink: "link", tree.TypeChar: "char", tree.TypeBlock: "block",
	tree.TypeFIFO: "fifo", tree.TypeSocket: "socket",
}

func (m *manifest) add(n tree.Node) error {
	kind, ok := fileTypes[n.Mode&tree.TypeMask]
	if !ok {
		return fmt.Errorf("%w: %q is of no type that exists", tree.ErrCorrupt, n.Path)
	}
	f := catalog.File{
		Path: strings.ToValidUTF8(n.Path, "\uFFFD"), Type: kind, Mode: fmt.Sprintf("%04o", n.Mode&0o7777), UID: n.UID, GID: n.GID,
		Target: strings.ToValidUTF8(n.Target, "\uFFFD"),
	}
	if kind == "file" {
		f.Size = n.Size
		if n.Size <= m.sys.root.size { // a larger one is nearly all hole, and says less than its hashing costs
			m.todo = append(m.todo, content{inode: n.Inode, place: n.Place, size: n.Size, file: len(m.files)})
		}
	}
	m.files = append(m.files, f)
	return nil
}

// batch is how many bytes of content a goroutine takes at once: neighbours on the disk share pages.
const batch = 4 << 20

// hash fills in the digests.
func (m *manifest) hash(ctx context.Context) error {
	slices.SortFunc(m.todo, func(a, b content) int {
		switch {
		case a.place != b.place:
			return cmp.Compare(a.place, b.place)
		case a.inode != b.inode:
			return cmp.Compare(a.inode, b.inode)
		}
		return a.file - b.file
	})
	if err := m.bounded(); err != nil {
		return err
	}
	workers := max(2, runtime.GOMAXPROCS(0))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for from := 0; from < len(m.todo); {
		to, bytes := from, int64(0)
		for to < len(m.todo) && (bytes < batch || m.todo[to].inode == m.todo[to-1].inode) { // one inode is hashed by one
			bytes += m.todo[to].size
			to++
		}
		part := m.todo[from:to]
		group.Go(func() error { return m.hashAll(ctx, part) })
		from = to
	}
	return group.Wait()
}

// bounded refuses a disk whose files say that they hold far more than it has.
func (m *manifest) bounded() error {
	left := 4*m.sys.root.size + hashSlack
	for k, c := range m.todo {
		if k > 0 && c.inode == m.todo[k-1].inode {
			continue
		}
		if left -= c.size; left < 0 {
			return fmt.Errorf("%w: its files hold more than four times its size", tree.ErrCorrupt)
		}
	}
	return nil
}

// hashAll digests some files. The qcow2 reader is not ours: its panics must end here, because a goroutine's panic ends
// the program.
func (m *manifest) hashAll(ctx context.Context, part []content) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damaged(m.sys.header.Format, p)
		}
	}()
	sum, buf := sha256.New(), make([]byte, 256<<10)
	var last string
	for k, c := range part {
		if err := ctx.Err(); err != nil {
			return err
		}
		if k == 0 || c.inode != part[k-1].inode {
			if last, err = m.digest(sum, c, buf); err != nil {
				return fmt.Errorf("%s: %w", m.files[c.file].Path, err)
			}
		}
		m.files[c.file].SHA256 = last
	}
	return nil
}

func (m *manifest) digest(sum hash.Hash, c content, buf []byte) (string, error) {
	sum.Reset()
	err := m.sys.fsys.Stream(sum, c.inode, buf)
	if errors.Is(err, tree.ErrEncrypted) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
