package githost

import (
	"context"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
)

// Upload answers a clone or fetch. Nothing was written to w where it returns an error of the request.
func (h *Host) Upload(ctx context.Context, src build.Source, r io.Reader, w io.Writer) error {
	req, err := readUpload(r)
	if err != nil {
		return err
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	repo, err := h.builds.Store.FindRepository(ctx, src.ID, true)
	if err != nil {
		return err
	}
	objects, err := packs.Open(repo, h.limits)
	if err != nil {
		return err
	}
	u := upload{req: req, objects: objects, out: pktline.NewEncoder(w), w: w}
	if err := u.check(ctx, repo); err != nil {
		return err
	}
	return u.answer(ctx)
}

// upload is one answer.
type upload struct {
	req     uploadRequest
	objects *packs.Objects
	out     *pktline.Encoder
	w       io.Writer
	cut     packs.Set // commits at the asked depth: their parents stay here
	common  []plumbing.Hash
}

// check refuses what no ref leads to: what was pushed away by force may have been a secret. A commit that a ref has left
// behind since the client was told of it is given, as upload-pack.c (check_non_tip) does for stateless clients.
func (u *upload) check(ctx context.Context, repo build.Repository) error {
	told := packs.Set{}
	var tips []plumbing.Hash
	for _, r := range repo.Refs {
		tip := plumbing.NewHash(r.Hash)
		told[tip] = true
		tips = append(tips, tip)
	}
	missing := packs.Set{}
	for _, want := range u.req.wants {
		if !told[want] {
			missing[want] = true
		}
	}
	for seen := (packs.Set{}); len(missing) > 0 && len(tips) > 0; tips = tips[1:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if seen[tips[0]] {
			continue
		}
		seen[tips[0]] = true
		delete(missing, tips[0])
		if c, err := u.objects.Commit(tips[0]); err == nil { // a tag of something else leads to no commit
			tips = append(tips, c.ParentHashes...)
			delete(missing, c.Hash)
		}
	}
	for want := range missing {
		return malformed("no ref leads to %s", want)
	}
	return nil
}

func (u *upload) answer(ctx context.Context) error {
	if len(u.req.wants) == 0 {
		return nil
	}
	if u.req.depth > 0 {
		if err := u.deepen(); err != nil {
			return err
		}
	}
	done, err := u.negotiate()
	if err != nil || !done {
		return err
	}
	return u.pack(ctx)
}

// deepen finds the commits that are cut off, and tells which of them are new to the client.
func (u *upload) deepen() error {
	u.cut = packs.Set{}
	seen, level := packs.Set{}, []plumbing.Hash{}
	for _, w := range u.req.wants {
		if c, err := u.objects.Commit(w); err == nil {
			level = append(level, c.Hash)
		}
	}
	for depth := 1; len(level) > 0; depth++ {
		var next []plumbing.Hash
		for _, h := range level {
			if seen[h] {
				continue
			}
			seen[h] = true
			c, err := object.GetCommit(u.objects, h)
			if err != nil {
				return err
			}
			if depth == u.req.depth && len(c.ParentHashes) > 0 {
				u.cut[h] = true
				continue
			}
			next = append(next, c.ParentHashes...)
		}
		level = next
	}
	theirs := packs.Set{}
	for _, h := range u.req.shallow {
		theirs[h] = true
		if seen[h] && !u.cut[h] {
			if err := u.out.Encodef("unshallow %s", h); err != nil {
				return err
			}
		}
	}
	for h := range u.cut {
		if theirs[h] {
			continue
		}
		if err := u.out.Encodef("shallow %s", h); err != nil {
			return err
		}
	}
	return u.out.Flush()
}

// negotiate finds what both have, as upload-pack.c (get_common_commits) does for stateless clients.
func (u *upload) negotiate() (done bool, err error) {
	_, detailed := u.req.can["multi_ack_detailed"]
	for n := 0; ; n++ {
		what, h, err := u.req.have()
		switch {
		case err != nil || what == theEnd: // a client that only asked for the depth
			return false, err
		case n > maxLines:
			return false, malformed("too many lines")
		case what == aFlush:
			return false, u.out.EncodeString("NAK\n")
		case what == aDone:
			if len(u.common) == 0 {
				return true, u.out.EncodeString("NAK\n")
			}
			return true, u.out.Encodef("ACK %s\n", u.common[len(u.common)-1])
		case !u.objects.Has(h):
			continue
		}
		u.common = append(u.common, h)
		if detailed {
			if err := u.out.Encodef("ACK %s common\n", h); err != nil {
				return false, err
			}
		}
	}
}

// pack sends what the wants need and the client does not have.
func (u *upload) pack(ctx context.Context) error {
	theirs := packs.Walk{Objects: u.objects, Shallow: packs.Set{}}
	for _, h := range u.req.shallow {
		theirs.Shallow[h] = true
	}
	if err := theirs.All(ctx, u.common...); err != nil {
		return err
	}
	need := packs.Walk{Objects: u.objects, Shallow: u.cut, Known: theirs.Seen}
	if err := need.All(ctx, u.req.wants...); err != nil {
		return err
	}
	if _, ok := u.req.can["side-band-64k"]; !ok {
		return u.objects.Encode(u.w, need.Order)
	}
	if err := u.objects.Encode(sideband.NewMuxer(sideband.Sideband64k, u.w), need.Order); err != nil {
		return err
	}
	return u.out.Flush()
}
