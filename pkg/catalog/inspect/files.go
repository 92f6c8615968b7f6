package inspect

import (
	"context"
	"io"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/btrfs"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/xfs"
)

// fileSystem is what reading facts and manifests needs of a file system: ext4, xfs and btrfs have it. All follow links,
// never out of the file system, and trust nothing; tree.Tree documents the errors.
type fileSystem interface {
	ReadFile(name string, limit int64) ([]byte, error)
	ReadHead(name string, n int64) ([]byte, error)
	ReadDir(name string) ([]string, error)
	ReadLink(name string) (string, error)
	Stat(name string) (tree.Entry, error)
	Copy(w io.Writer, name string, buf []byte) error
	Mount(name string, other *tree.Tree) error
	Stream(w io.Writer, inode uint64, buf []byte) error
	Walk(ctx context.Context, limit int, fn func(tree.Node) error) error
	WalkFrom(ctx context.Context, top string, limit int, fn func(tree.Node) error) error
	UUID() string
	UsedBytes() int64
}

// readable reports whether there is a reader for a kind of file system, as disk.Filesystem names it.
func readable(kind string) bool {
	return strings.HasPrefix(kind, "ext") || kind == "xfs" || kind == "btrfs"
}

// openFileSystem opens a file system of a kind that is readable.
func openFileSystem(kind string, r io.ReaderAt, size int64) (fileSystem, error) {
	switch kind {
	case "xfs":
		return opened(xfs.Open(r, size))
	case "btrfs":
		return opened(btrfs.Open(r, size))
	}
	return opened(ext4.Open(r, size))
}

// opened keeps a failed open from becoming an interface that is not nil.
func opened[F fileSystem](f F, err error) (fileSystem, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}
