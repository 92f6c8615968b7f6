package gitsource

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// write lays the commit's files into dir. Nothing is written through a link that leaves it (os.Root), and files
// are made new, so that a tree that names one twice cannot write through the first.
func (f Fetcher) write(ctx context.Context, commit *object.Commit, dir string) (*os.Root, error) {
	tree, err := commit.Tree()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, disk(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, disk(err)
	}
	w := treeWriter{root: root, limits: f}
	if err := w.all(ctx, tree); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func disk(err error) error {
	return errs.Wrap(err, errs.Internal, "kiln.source.disk", "the source's files cannot be written")
}

type treeWriter struct {
	root   *os.Root
	limits Fetcher
	bytes  int64
	files  int
}

func (w *treeWriter) all(ctx context.Context, tree *object.Tree) error {
	walker := object.NewTreeWalker(tree, true, nil)
	defer walker.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, entry, err := walker.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) { // go-git refuses hostile names by itself
			return errs.Wrap(err, errs.Invalid, "kiln.source.content", "the repository's tree cannot be read")
		}
		if err != nil {
			return err
		}
		if !goodPath(name) {
			return errs.New(errs.Invalid, "kiln.source.content", "the repository has the path %q, which Kiln does not write", name)
		}
		if w.files++; w.files > w.limits.MaxFiles {
			return w.limits.tooLarge()
		}
		if err := w.entry(tree, name, entry.Mode); err != nil {
			return err
		}
	}
}

// goodPath refuses what git itself refuses to check out (https://git-scm.com/docs/git-config, core.protectHFS).
func goodPath(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") || strings.Contains(part, "\x00") {
			return false
		}
	}
	return fs.ValidPath(name) && name != "."
}

func (w *treeWriter) entry(tree *object.Tree, name string, mode filemode.FileMode) error {
	switch mode {
	case filemode.Dir, filemode.Submodule:
		return content(w.root.MkdirAll(name, 0o755), name)
	case filemode.Regular, filemode.Deprecated:
		return w.file(tree, name, 0o644)
	case filemode.Executable:
		return w.file(tree, name, 0o755)
	case filemode.Symlink:
		return w.link(tree, name)
	}
	return errs.New(errs.Invalid, "kiln.source.content", "%s is of a kind that git does not have", name)
}

// content blames a tree that cannot be written on the tree, unless it is the disk.
func content(err error, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist), strings.Contains(err.Error(), "path escapes"), errors.Is(err, fs.ErrInvalid):
		return errs.Wrap(err, errs.Invalid, "kiln.source.content", "%s cannot be written: it is there twice, or through a link", name)
	}
	return disk(err)
}

// open reads a blob and counts it.
func (w *treeWriter) open(tree *object.Tree, name string) (io.ReadCloser, int64, error) {
	file, err := tree.File(name)
	if err != nil {
		return nil, 0, err
	}
	if w.bytes += file.Size; w.bytes > w.limits.MaxBytes {
		return nil, 0, w.limits.tooLarge()
	}
	r, err := file.Reader()
	return r, file.Size, err
}

func (w *treeWriter) file(tree *object.Tree, name string, mode fs.FileMode) error {
	r, size, err := w.open(tree, name)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	if err := content(w.root.MkdirAll(path.Dir(name), 0o755), name); err != nil {
		return err
	}
	out, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return content(err, name)
	}
	_, err = io.Copy(out, io.LimitReader(r, size))
	if err = errors.Join(err, out.Close()); err != nil {
		return disk(err)
	}
	return nil
}

// maxTarget is PATH_MAX.
const maxTarget = 4096

func (w *treeWriter) link(tree *object.Tree, name string) error {
	r, size, err := w.open(tree, name)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	if size > maxTarget {
		return errs.New(errs.Invalid, "kiln.source.content", "the link %s is longer than a path", name)
	}
	target, err := io.ReadAll(io.LimitReader(r, maxTarget))
	if err != nil {
		return err
	}
	if err := content(w.root.MkdirAll(path.Dir(name), 0o755), name); err != nil {
		return err
	}
	return content(w.root.Symlink(string(target), name), name)
}
