package upgrade

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// What a part must be worth. To record one, the package manager has to be called once more, which takes as long as some six changes, and
// watching doubles the time of each: so a few changes, or two images, are not worth it.
const (
	partChanges = 6
	partWorth   = 20 // changes of further images than two
)

// part finds what many images of the batch share beside what all of them do: changes that need each other in the same way. A package
// that one image has beside them, and that is bound to them, makes them another set there.
func (b *Batch) part(plans map[string]Plan) {
	if len(b.Share) == 0 {
		return
	}
	found := map[string]*Batch{}
	for _, id := range b.ImageIDs {
		for _, share := range bound(plans[id], b.Share) {
			key := fmt.Sprint(share)
			if found[key] == nil {
				found[key] = &Batch{Release: b.Release, Architecture: b.Architecture, Share: share}
			}
			found[key].ImageIDs = append(found[key].ImageIDs, id)
		}
	}
	same := map[string]*Batch{} // sets that the same images have are one part
	for _, f := range found {
		key := strings.Join(f.ImageIDs, " ")
		if same[key] == nil {
			same[key] = f
			continue
		}
		same[key].Share = slices.SortedFunc(slices.Values(slices.Concat(same[key].Share, f.Share)), ComparePackageRefs)
	}
	for _, f := range same {
		if len(f.Share) >= partChanges && (len(f.ImageIDs)-2)*len(f.Share) >= partWorth {
			b.Parts = append(b.Parts, *f)
		}
	}
	slices.SortFunc(b.Parts, func(x, y Batch) int {
		return cmp.Or(cmp.Compare(len(y.ImageIDs), len(x.ImageIDs)), ComparePackageRefs(x.Share[0], y.Share[0]))
	})
}

// ties are, for each change by its ID, those that it is to be made with: what it needs, and what comes from the same source with
// scripts as it does. Such scripts look at each other's work (PostgreSQL's client at what its server has installed), so that a
// record of the one does not fit an image that has the other one too.
func (p Plan) ties() map[string][]string {
	out := map[string][]string{}
	last, first := map[string]string{}, map[string]string{}
	for _, c := range p.Changes {
		out[c.ID()] = c.Needs
		if c.Source == "" || c.Script == ScriptNone {
			continue
		}
		if first[c.Source] == "" {
			first[c.Source] = c.ID()
		} else {
			out[c.ID()] = append(slices.Clone(c.Needs), last[c.Source])
		}
		last[c.Source] = c.ID()
	}
	for source, id := range first {
		if last[source] != id {
			out[id] = append(slices.Clone(out[id]), last[source]) // a ring: none without all
		}
	}
	return out
}

// bound gives the changes that a plan has beside those that are done, in sets that need nothing of each other. Sets with something
// that needs a running system are left out.
func bound(p Plan, done []PackageRef) [][]PackageRef {
	set := map[string]string{} // of each change by its ID: the set that it is in, by an ID of one of them
	var find func(id string) string
	find = func(id string) string {
		if set[id] == id {
			return id
		}
		set[id] = find(set[id])
		return set[id]
	}
	for _, c := range p.Changes {
		if _, is := slices.BinarySearchFunc(done, c.PackageRef, ComparePackageRefs); !is {
			set[c.ID()] = c.ID()
		}
	}
	running := map[string]bool{}
	for from, to := range p.ties() {
		for _, id := range to {
			if set[from] != "" && set[id] != "" {
				set[find(from)] = find(id)
			}
		}
	}
	sets := map[string][]PackageRef{}
	for _, c := range p.Changes {
		if set[c.ID()] == "" {
			continue
		}
		at := find(c.ID())
		running[at] = running[at] || c.Script == ScriptRunning
		sets[at] = append(sets[at], c.PackageRef)
	}
	var out [][]PackageRef
	for at, refs := range sets {
		if !running[at] {
			slices.SortFunc(refs, ComparePackageRefs)
			out = append(out, refs)
		}
	}
	return out
}
