package gitsource

import (
	"context"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
)

// Hosted fetches the repositories that Kiln keeps itself. It passes the same contract as Fetcher.
type Hosted struct {
	Store  build.Repositories
	Limits packs.Limits
}

// Fetch brings the commit that ref means of the source (build.HostedURL) into dir, with the errors of Fetcher.Fetch;
// "" is the branch main or, where there is none, the first one.
func (h Hosted) Fetch(ctx context.Context, url, ref, dir string) (Checkout, error) {
	id, ok := build.HostedID(url)
	if !ok {
		return Checkout{}, invalid("url", "url", "this is no source that Kiln hosts")
	}
	repo, err := h.Store.FindRepository(ctx, id, true)
	if errs.Is(err, errs.NotFound) {
		return Checkout{}, invalid("url", "not_found", "there is no source %s", id)
	}
	if err != nil {
		return Checkout{}, err
	}
	if len(repo.Refs) == 0 {
		return Checkout{}, invalid("url", "empty", "nothing was pushed to this source yet")
	}
	objects, err := packs.Open(repo, h.Limits)
	if err != nil {
		return Checkout{}, err
	}
	hash, ok := find(repo.Refs, ref)
	if !ok {
		return Checkout{}, noRef(ref)
	}
	commit, err := objects.Commit(hash)
	if err != nil {
		return Checkout{}, noRef(ref)
	}
	return Write(ctx, commit, filepath.Join(dir, "tree"), h.Limits)
}

// find resolves a ref as Fetcher does.
func find(refs []build.Ref, ref string) (plumbing.Hash, bool) {
	byName := map[plumbing.ReferenceName]string{}
	for _, r := range refs {
		byName[plumbing.ReferenceName(r.Name)] = r.Hash
	}
	names := candidates(ref)
	if ref == "" || ref == "HEAD" {
		names = []plumbing.ReferenceName{"refs/heads/main", "refs/heads/master", plumbing.ReferenceName(refs[0].Name)}
	}
	for _, name := range names {
		if hash, ok := byName[name]; ok {
			return plumbing.NewHash(hash), true
		}
	}
	return plumbing.NewHash(ref), plumbing.IsHash(ref)
}

// Write lays the files of a commit into dir, which is made. The errors are those of Fetcher.Fetch.
func Write(ctx context.Context, commit *object.Commit, dir string, l packs.Limits) (Checkout, error) {
	l = l.Complete()
	root, err := Fetcher{MaxBytes: l.MaxInflated, MaxFiles: l.MaxFiles}.write(ctx, commit, dir)
	if err != nil {
		return Checkout{}, err
	}
	return Checkout{Commit: commit.Hash.String(), Files: root.FS(), root: root}, nil
}
