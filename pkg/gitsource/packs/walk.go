package packs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Set is objects by hash.
type Set map[plumbing.Hash]bool

// Walk is one look at all that some commits and tags need.
type Walk struct {
	Objects *Objects
	Known   Set // what is there already: it is not listed, but commits behind it are looked for
	Shallow Set // commits whose parents are not looked at
	Seen    Set
	Order   []plumbing.Hash // as they were found, commits before what they hold
	trees   map[plumbing.Hash]bool
}

// All walks from the roots to the last blob. An object that is missing, or not what its parent says, is errs.Invalid
// kiln.git.object; names that no file system should hold are, too.
func (w *Walk) All(ctx context.Context, roots ...plumbing.Hash) error {
	if w.Seen == nil {
		w.Seen, w.trees = Set{}, map[plumbing.Hash]bool{}
	}
	todo := roots
	for n := 0; len(todo) > 0; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if w.Seen[next] {
			continue
		}
		w.take(next)
		more, err := w.root(next)
		if err != nil {
			return bad(next, err)
		}
		todo = append(todo, more...)
	}
	return nil
}

// take lists an object, and tells whether it must be looked at.
func (w *Walk) take(h plumbing.Hash) bool {
	if w.Seen[h] {
		return false
	}
	w.Seen[h] = true
	if w.Known[h] {
		return false
	}
	w.Order = append(w.Order, h)
	return true
}

func bad(h plumbing.Hash, err error) error {
	if own, ok := errors.AsType[*errs.Error](err); ok {
		return own
	}
	return errs.Wrap(err, errs.Invalid, "kiln.git.object", "object %s cannot be read", h)
}

// root looks at a commit or tag and tells where to go on.
func (w *Walk) root(h plumbing.Hash) ([]plumbing.Hash, error) {
	o, err := w.Objects.EncodedObject(plumbing.AnyObject, h)
	if err != nil {
		return nil, err
	}
	switch o.Type() {
	case plumbing.CommitObject:
		c, err := object.DecodeCommit(w.Objects, o)
		if err != nil {
			return nil, err
		}
		if !w.Known[h] {
			if err := w.tree(c.TreeHash); err != nil {
				return nil, err
			}
		}
		if w.Shallow[h] {
			return nil, nil
		}
		return c.ParentHashes, nil
	case plumbing.TagObject:
		t, err := object.DecodeTag(w.Objects, o)
		if err != nil {
			return nil, err
		}
		return []plumbing.Hash{t.Target}, nil
	}
	return nil, fmt.Errorf("%w: a %s stands where a commit belongs", plumbing.ErrInvalidType, o.Type())
}

// tree looks at a tree and all below it.
func (w *Walk) tree(root plumbing.Hash) error {
	todo := []plumbing.Hash{root}
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if w.Known[h] || w.trees[h] {
			continue
		}
		w.trees[h] = true
		w.take(h)
		t, err := object.GetTree(w.Objects, h)
		if err != nil {
			return bad(h, err)
		}
		names := map[string]bool{}
		for _, e := range t.Entries {
			if !goodName(e.Name) || names[e.Name] {
				return errs.New(errs.Invalid, "kiln.git.object", "tree %s has the name %q, which Kiln does not keep", h, e.Name)
			}
			names[e.Name] = true
			switch e.Mode {
			case filemode.Dir:
				todo = append(todo, e.Hash)
			case filemode.Submodule:
			default:
				if err := w.blob(e.Hash); err != nil {
					return bad(e.Hash, err)
				}
			}
		}
	}
	return nil
}

func (w *Walk) blob(h plumbing.Hash) error {
	if !w.take(h) {
		return nil
	}
	if _, ok := w.Objects.Blobs[h]; !ok {
		return plumbing.ErrObjectNotFound
	}
	return nil
}

func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.EqualFold(name, ".git") && !strings.ContainsAny(name, "/\x00") && fs.ValidPath(name)
}

// IsAncestor tells whether old is in the history of fresh.
func (o *Objects) IsAncestor(old, fresh plumbing.Hash) bool {
	seen, todo := Set{}, []plumbing.Hash{fresh}
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if h == old {
			return true
		}
		if seen[h] {
			continue
		}
		seen[h] = true
		if c, err := object.GetCommit(o, h); err == nil {
			todo = append(todo, c.ParentHashes...)
		}
	}
	return false
}

// Commit follows a tag to its commit.
func (o *Objects) Commit(h plumbing.Hash) (*object.Commit, error) {
	for range 10 {
		t, err := object.GetTag(o, h)
		if err != nil {
			break
		}
		h = t.Target
	}
	return object.GetCommit(o, h)
}

// Has tells whether the object is there.
func (o *Objects) Has(h plumbing.Hash) bool { return o.HasEncodedObject(h) == nil }
