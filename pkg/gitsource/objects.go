package gitsource

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	gitcache "github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// candidates are the full names that a ref may mean, in git's own order
// (https://git-scm.com/docs/gitrevisions, refname), branches before tags.
func candidates(ref string) []plumbing.ReferenceName {
	if ref == "" || ref == "HEAD" {
		return []plumbing.ReferenceName{plumbing.HEAD}
	}
	names := []plumbing.ReferenceName{plumbing.NewBranchReferenceName(ref), plumbing.NewTagReferenceName(ref)}
	if strings.HasPrefix(ref, "refs/") {
		names = append([]plumbing.ReferenceName{plumbing.ReferenceName(ref)}, names...)
	}
	return slices.DeleteFunc(names, func(n plumbing.ReferenceName) bool { return n.Validate() != nil })
}

// local opens a repository on this disk and reads it where it lies.
func (f Fetcher) local(s source, ref string) (*object.Commit, error) {
	repo, err := git.PlainOpenWithOptions(s.endpoint.Path, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, err
	}
	for _, name := range candidates(ref) {
		found, err := repo.Reference(name, true)
		if err == nil {
			return commitOf(repo, found.Hash(), ref)
		}
		if !errors.Is(err, plumbing.ErrReferenceNotFound) {
			return nil, err
		}
	}
	if plumbing.IsHash(ref) {
		return commitOf(repo, plumbing.NewHash(ref), ref)
	}
	if ref == "" {
		return nil, transport.ErrEmptyRemoteRepository
	}
	return nil, noRef(ref)
}

// want is where the fetched commit is kept.
const want = plumbing.ReferenceName("refs/kiln/want")

// remote fetches one commit into a bare repository in dir.
func (f Fetcher) remote(ctx context.Context, s source, ref, dir string) (*object.Commit, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.Wrap(err, errs.Internal, "kiln.source.disk", "making a folder for the source")
	}
	repo, err := git.Init(filesystem.NewStorage(osfs.New(dir), gitcache.NewObjectLRU(32*gitcache.MiByte)), nil)
	if err != nil {
		return nil, err
	}
	remote := git.NewRemote(repo.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{s.raw}})
	advertised, err := remote.ListContext(ctx, &git.ListOptions{Auth: s.auth})
	if err != nil {
		return nil, err
	}
	spec, err := choose(advertised, ref)
	if err != nil {
		return nil, err
	}
	limited, stop := f.watch(ctx, dir)
	defer stop()
	err = remote.FetchContext(limited, &git.FetchOptions{
		RefSpecs: []config.RefSpec{config.RefSpec(spec + ":" + want.String())}, Depth: 1, Tags: git.NoTags, Auth: s.auth, Force: true,
	})
	if errors.Is(context.Cause(limited), errTooLarge) {
		return nil, f.tooLarge()
	}
	var missing git.NoMatchingRefSpecError
	switch {
	case errors.As(err, &missing), errors.Is(err, git.ErrExactSHA1NotSupported):
		return nil, noRef(ref)
	case err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate):
		return nil, err
	}
	found, err := repo.Reference(want, true)
	if err != nil {
		return nil, err
	}
	return commitOf(repo, found.Hash(), ref)
}

// choose finds the source half of the refspec: a full reference that the remote has, or a commit.
func choose(advertised []*plumbing.Reference, ref string) (string, error) {
	byName := map[plumbing.ReferenceName]*plumbing.Reference{}
	for _, r := range advertised {
		byName[r.Name()] = r
	}
	for _, name := range candidates(ref) {
		r, ok := byName[name]
		if ok && r.Type() == plumbing.SymbolicReference {
			r, ok = byName[r.Target()]
		}
		switch {
		case !ok:
		case r.Name() == plumbing.HEAD: // detached
			return r.Hash().String(), nil
		default:
			return r.Name().String(), nil
		}
	}
	if plumbing.IsHash(ref) {
		for _, r := range advertised { // a server need not give commits by their digits, but these it does
			if r.Hash().String() == ref {
				return r.Name().String(), nil
			}
		}
		return ref, nil
	}
	if ref == "" {
		return "", transport.ErrEmptyRemoteRepository
	}
	return "", noRef(ref)
}

var errTooLarge = errors.New("the repository is too large")

func (f Fetcher) tooLarge() error {
	return errs.New(errs.TooLarge, "kiln.source.too_large", "the repository has more than %d MiB or %d files", f.MaxBytes>>20, f.MaxFiles)
}

// watch ends the context when the folder has grown too large: no transport of go-git has a limit.
func (f Fetcher) watch(ctx context.Context, dir string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if folderSize(dir) > f.MaxBytes {
					cancel(errTooLarge)
					return
				}
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

func folderSize(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // files come and go meanwhile
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
