package githost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/gitsource"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Pusher is who pushes.
type Pusher struct {
	By   job.By
	Name string                     // for people
	Link func(b build.Build) string // the address of a build
}

// pushTries is how often a push is looked at again because another one came first.
const pushTries = 5

// manyPacks is when the packs of a repository are written anew as one, without what no ref needs any more.
const manyPacks = 30

// Receive answers a push: it is written whole or not at all, and the pusher's terminal shows why. An error is one of
// the request, or of Kiln's own parts; nothing was written to w then.
func (h *Host) Receive(ctx context.Context, src build.Source, who Pusher, r io.Reader, w io.Writer) error {
	req, err := readReceive(r, h.limits.MaxRefs)
	if err != nil || len(req.moves) == 0 {
		return err
	}
	p := push{Host: h, src: src, who: who, moves: req.moves}
	if p.pack, err = readPack(req, h.limits); err == nil {
		err = p.run(ctx)
	}
	if err != nil && !refusal(err) {
		return err
	}
	return report(w, req, p.lines, err)
}

// refusal tells whether the error is the push's own fault.
func refusal(err error) bool {
	if _, faulty := errors.AsType[recipe.ParseErrors](err); faulty {
		return true
	}
	switch errs.KindOf(err) {
	case errs.Invalid, errs.Conflict, errs.TooLarge:
		return true
	}
	return false
}

// readPack reads the pack that follows the commands, but for those that only remove.
func readPack(req receiveRequest, l packs.Limits) ([]byte, error) {
	if !slices.ContainsFunc(req.moves, func(m build.RefMove) bool { return m.New != "" }) {
		return nil, nil
	}
	pack, err := io.ReadAll(io.LimitReader(req.pack, l.MaxBytes+1))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.git.pack", "the pack did not arrive whole")
	}
	if int64(len(pack)) > l.MaxBytes {
		return nil, l.TooLarge()
	}
	return pack, nil
}

// push is one push while it is checked.
type push struct {
	*Host
	src   build.Source
	who   Pusher
	moves []build.RefMove
	pack  []byte
	lines []string // for the pusher's terminal

	objects *packs.Objects
	repo    build.Repository
}

func (p *push) run(ctx context.Context) error {
	leave, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	for try := 1; ; try++ {
		p.lines = nil
		err := p.once(ctx)
		if !errors.Is(err, build.ErrMoved) || try == pushTries {
			return err
		}
	}
}

// once checks the push against the repository as it is now, and writes it if it still is so then.
func (p *push) once(ctx context.Context) (err error) {
	if p.repo, err = p.builds.Store.FindRepository(ctx, p.src.ID, true); err != nil {
		return err
	}
	if p.src, err = p.builds.Store.FindSource(ctx, p.src.ID); err != nil {
		return err
	}
	if p.objects, err = packs.Open(p.repo, p.limits); err != nil {
		return errs.Wrap(err, errs.Internal, "kiln.git.stored", "the repository of source %s cannot be read", p.src.ID)
	}
	if len(p.pack) > 0 {
		if err := p.objects.Add(p.pack); err != nil {
			return err
		}
	}
	refs, err := p.checkMoves()
	if err != nil {
		return err
	}
	whole := packs.Walk{Objects: p.objects}
	if err := whole.All(ctx, refs...); err != nil {
		return err
	}
	out := build.Push{Version: p.repo.Version, Change: build.RepositoryChange{Moves: p.moves, Pack: p.pack}}
	if err := p.tidy(&out.Change, whole.Order); err != nil {
		return err
	}
	if err := p.read(ctx, &out); err != nil {
		return err
	}
	outcomes, err := p.builds.Pushed(ctx, p.who.By, p.src.ID, out)
	if err != nil {
		return err
	}
	p.tell(out, outcomes)
	return nil
}

// checkMoves refuses what no push may do, and gives what all refs are at after it.
func (p *push) checkMoves() ([]plumbing.Hash, error) {
	after := map[string]string{}
	for _, r := range p.repo.Refs {
		after[r.Name] = r.Hash
	}
	for _, m := range p.moves {
		if !goodRef(m.Name) {
			return nil, errs.New(errs.Invalid, "kiln.git.ref", "%.100q is not the name of a branch or tag", m.Name)
		}
		if after[m.Name] != m.Old {
			return nil, errs.New(errs.Conflict, "kiln.source.ref_moved", "%s is not where you saw it: fetch, and push again", m.Name)
		}
		if m.New == "" {
			if p.src.Follows(m.Name) {
				return nil, errs.New(errs.Invalid, "kiln.git.followed", "%s is what the recipes are read from: it cannot be removed", m.Name)
			}
			delete(after, m.Name)
			continue
		}
		after[m.Name] = m.New
		fresh, old := plumbing.NewHash(m.New), plumbing.NewHash(m.Old)
		if _, err := p.objects.Commit(fresh); err != nil {
			return nil, errs.New(errs.Invalid, "kiln.git.object", "%s would not be at a commit", m.Name)
		}
		if m.Old != "" && strings.HasPrefix(m.Name, "refs/heads/") && !p.objects.IsAncestor(old, fresh) {
			p.log.WithField("source", p.src.ID).WithField("user_id", p.who.By.UserID).WithField("request_id", p.who.By.RequestID).
				WithField("ref", m.Name).WithField("from", m.Old).WithField("to", m.New).Warning("a push rewrote history")
			p.say("%s was rewritten: %.7s is no longer in its history", m.Name, m.Old)
		}
	}
	if len(after) > p.limits.MaxRefs {
		return nil, errs.New(errs.TooLarge, "kiln.git.refs", "a repository has %d branches and tags at most", p.limits.MaxRefs)
	}
	out := make([]plumbing.Hash, 0, len(after))
	for _, hash := range after {
		out = append(out, plumbing.NewHash(hash))
	}
	return out, nil
}

func goodRef(name string) bool {
	rest, branch := strings.CutPrefix(name, "refs/heads/")
	if !branch {
		var tag bool
		if rest, tag = strings.CutPrefix(name, "refs/tags/"); !tag {
			return false
		}
	}
	return rest != "" && rest != "HEAD" && len(name) <= 200 && plumbing.ReferenceName(name).Validate() == nil
}

// tidy writes all packs anew as one where there are many or too much, and refuses what is too much even then.
func (p *push) tidy(c *build.RepositoryChange, needed []plumbing.Hash) error {
	if len(p.repo.Packs) < manyPacks && p.repo.Bytes+int64(len(p.pack)) <= p.limits.MaxBytes {
		return nil
	}
	var all bytes.Buffer
	if err := p.objects.Encode(&all, needed); err != nil {
		return err
	}
	if int64(all.Len()) > p.limits.MaxBytes {
		return p.limits.TooLarge()
	}
	c.Pack, c.Whole = all.Bytes(), true
	return nil
}

// read reads the recipes where the push moves what the source follows.
func (p *push) read(ctx context.Context, out *build.Push) error {
	follow := p.src
	if follow.Ref == "" {
		follow.Ref = firstBranch(p.moves)
		out.Ref = follow.Ref
	}
	i := slices.IndexFunc(p.moves, func(m build.RefMove) bool { return m.New != "" && follow.Follows(m.Name) })
	if i < 0 {
		p.say("the recipes are read from %s, which this push does not move", follow.Ref)
		return nil
	}
	commit, err := p.objects.Commit(plumbing.NewHash(p.moves[i].New))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kiln-push-")
	if err != nil {
		return errs.Wrap(err, errs.Internal, "kiln.git.disk", "a folder for the pushed files cannot be made")
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system's temporary folder
	co, err := gitsource.Write(ctx, commit, filepath.Join(dir, "tree"), p.limits)
	if err != nil {
		return err
	}
	defer co.Close() //nolint:errcheck // only read
	set, err := recipe.Load(co.Files)
	if err != nil {
		return err
	}
	if len(set.Faults) > 0 {
		return p.faults(set)
	}
	reading, err := build.ReadRecipes(p.src, co.Commit, set, p.builds.Now().UTC(), newID)
	if err != nil {
		return err
	}
	out.Reading, out.Reason = &reading, fmt.Sprintf("push of %.7s by %s", co.Commit, p.who.Name)
	return nil
}

// firstBranch is what a source follows that was not told: main, master, or the first branch of its first push.
func firstBranch(moves []build.RefMove) string {
	first := ""
	for _, m := range moves {
		name, branch := strings.CutPrefix(m.Name, "refs/heads/")
		switch {
		case !branch || m.New == "":
		case name == "main" || name == "master" && first != "main" || first == "":
			first = name
		}
	}
	return first
}
