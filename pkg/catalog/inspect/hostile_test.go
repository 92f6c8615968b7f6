package inspect_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/btrfs"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/xfs"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// edited is a disk with some blocks replaced.
type edited struct {
	base   io.ReaderAt
	blocks map[int64][]byte
}

const editSize = 512

func (e edited) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.base.ReadAt(p, off)
	for at := off / editSize; at*editSize < off+int64(n); at++ {
		if b, ok := e.blocks[at]; ok {
			from := max(off, at*editSize)
			to := min(off+int64(n), (at+1)*editSize)
			copy(p[from-off:to-off], b[from-at*editSize:to-at*editSize])
		}
	}
	return n, err
}

func (e edited) write(off int64, data []byte) {
	for k, c := range data {
		at := (off + int64(k)) / editSize
		if e.blocks[at] == nil {
			e.blocks[at] = make([]byte, editSize)
			_, _ = e.base.ReadAt(e.blocks[at], at*editSize)
		}
		e.blocks[at][(off+int64(k))%editSize] = c
	}
}

// target is a file system to be damaged: where its metadata lies, and how a block of it gets a right checksum again, so
// that what is read is hostile and not only broken.
type target struct {
	image string
	size  int64
	file  *os.File
	meta  []int64 // blocks of metadata
	block int64
	mend  func(block []byte)
	open  func(r io.ReaderAt, size int64) (walked, error)
}

type walked interface {
	Walk(ctx context.Context, limit int, fn func(tree.Node) error) error
	Stream(w io.Writer, inode uint64, buf []byte) error
	ReadFile(name string, limit int64) ([]byte, error)
	ReadDir(name string) ([]string, error)
}

// damage changes bytes of the metadata: each 5 bytes of edits choose a block, a place and a value. What was put into a
// field of the first bytes of a block is what a parser looks at first, so half of the places are small.
func (d *target) damage(edits []byte) edited {
	e := edited{base: d.file, blocks: map[int64][]byte{}}
	touched := map[int64][]byte{}
	for ; len(edits) >= 5; edits = edits[5:] {
		at := d.meta[int(binary.LittleEndian.Uint16(edits))%len(d.meta)]
		if touched[at] == nil {
			touched[at] = make([]byte, d.block)
			_, _ = d.file.ReadAt(touched[at], at)
		}
		place := int64(binary.LittleEndian.Uint16(edits[2:]))
		if place&1 == 1 {
			place = place >> 1 & 0xff
		}
		touched[at][place%d.block] = edits[4]
	}
	for at, b := range touched {
		d.mend(b)
		e.write(at, b)
	}
	return e
}

// explore reads everything that a damaged disk still shows. It must end, without a panic.
func (d *target) explore(t *testing.T, r io.ReaderAt) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fsys, err := d.open(r, d.size)
	if err != nil {
		return err
	}
	var files []uint64
	err = fsys.Walk(ctx, 10_000, func(n tree.Node) error {
		if n.Mode&tree.TypeMask == tree.TypeFile && n.Size < 16<<20 {
			files = append(files, n.Inode)
		}
		return nil
	})
	buf := make([]byte, 256<<10)
	for _, n := range files {
		if e := fsys.Stream(io.Discard, n, buf); err == nil {
			err = e
		}
	}
	_, _ = fsys.ReadFile("/usr/lib/os-release", 1<<20)
	_, _ = fsys.ReadDir("/many")
	if ctx.Err() != nil {
		t.Fatal("a damaged disk took more than a minute")
	}
	if err != nil && !errors.Is(err, tree.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, tree.ErrEncrypted) && len(err.Error()) < 10 {
		t.Errorf("an error that says nothing: %v", err)
	}
	return err
}

// smallTree is what the disks to be damaged hold: few files, all forms.
func smallTree(t testing.TB) string {
	root := t.TempDir()
	for name, text := range debianTree() {
		if len(text) > 2 && text[:2] == "->" {
			link(t, root, text[2:], name)
			continue
		}
		write(t, root, name, text, 0o644)
	}
	for i := range 200 {
		write(t, root, "many/file-with-a-long-name-"+string(rune('a'+i%26))+string(rune('a'+i/26)), "x", 0o644)
	}
	pieces(t, root+"/pieces", 64)
	return root
}

func makeTarget(t testing.TB, kind string) *target {
	t.Helper()
	root := smallTree(t)
	d := &target{mend: func([]byte) {}, block: 4096}
	switch kind {
	case "xfs":
		d.image, d.open = xfs4(t, root), func(r io.ReaderAt, size int64) (walked, error) { return xfs.Open(r, size) }
	case "btrfs":
		d.image = blank(t, 150)
		run(t, "mkfs.btrfs", "-q", "-n", "4096", "-U", rootUUID, "--rootdir", root, d.image)
		d.open = func(r io.ReaderAt, size int64) (walked, error) { return btrfs.Open(r, size) }
		d.mend = func(b []byte) {
			binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
		}
	default:
		d.image = blank(t, 32)
		run(t, "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-d", root, d.image, "32m")
		d.open = func(r io.ReaderAt, size int64) (walked, error) { return ext4.Open(r, size) }
	}
	var err error
	if d.file, err = os.Open(d.image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.file.Close() })
	info, err := d.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d.size = info.Size()
	// Whatever a walk without reading contents touches is metadata.
	seen := &touched{ReaderAt: d.file, blocks: map[int64]bool{}, size: d.block}
	fsys, err := d.open(seen, d.size)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsys.Walk(t.Context(), 10_000, func(tree.Node) error { return nil }); err != nil {
		t.Fatal(err)
	}
	d.meta = slices.Sorted(maps.Keys(seen.blocks))
	return d
}

// touched notes which blocks are read.
type touched struct {
	io.ReaderAt
	blocks map[int64]bool
	size   int64
}

func (d *touched) ReadAt(p []byte, off int64) (int, error) {
	for at := off / d.size * d.size; at < off+int64(len(p)); at += d.size {
		d.blocks[at] = true
	}
	return d.ReaderAt.ReadAt(p, off)
}

// TestHostileFileSystems damages each kind in many ways behind right checksums.
func TestHostileFileSystems(t *testing.T) {
	if testing.Short() {
		t.Skip("needs xfsprogs and btrfs-progs")
	}
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			d := makeTarget(t, kind)
			if err := d.explore(t, d.file); err != nil {
				t.Fatal(err)
			}
			r, refused := rand.New(rand.NewPCG(9, 10)), 0
			for range 200 {
				edits := make([]byte, 5*(1+r.IntN(6)))
				for k := range edits {
					edits[k] = byte(r.Uint32())
				}
				if d.explore(t, d.damage(edits)) != nil {
					refused++
				}
			}
			if refused < 20 {
				t.Errorf("only %d of 200 damages were seen", refused)
			}
			for _, size := range []int64{70 << 10, 1 << 20, d.size / 2} { // what is cut off
				_, err := inspect.Read(t.Context(), io.NewSectionReader(d.file, 0, size), size, "raw")
				if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != inspect.CodeUnreadable {
					t.Errorf("%d of %d bytes: %v", size, d.size, err)
				}
			}
		})
	}
}

func fuzz(f *testing.F, kind string) {
	if testing.Short() {
		f.Skip("needs mkfs")
	}
	d := makeTarget(f, kind)
	f.Add([]byte{})
	for k := range min(len(d.meta), 40) {
		f.Add([]byte{byte(k), 0, 0, 0, 1, byte(k), 0, 8, 0, 0xff})
	}
	f.Fuzz(func(t *testing.T, edits []byte) { _ = d.explore(t, d.damage(edits)) })
}

func FuzzExt4(f *testing.F)  { fuzz(f, "ext4") }
func FuzzXFS(f *testing.F)   { fuzz(f, "xfs") }
func FuzzBtrfs(f *testing.F) { fuzz(f, "btrfs") }
