package upgrade

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
)

// Batch are images for which a part of the upgrade is the same: it is recorded on one of them and replayed on the others.
type Batch struct {
	Release      string       `json:"release"`
	Architecture string       `json:"architecture"`
	Share        []PackageRef `json:"share"`           // every image's plan has them; sorted; empty where there is one image
	ImageIDs     []string     `json:"image_ids"`       // sorted
	Parts        []Batch      `json:"parts,omitempty"` // what not all of its images have, but many
}

// Shares are what an image has in common with others: with all of the batch, then with a part of it. Each is closed when the first
// one is done.
func (b Batch) Shares(imageID string) [][]PackageRef {
	if len(b.Share) == 0 || !slices.Contains(b.ImageIDs, imageID) {
		return nil
	}
	out := [][]PackageRef{b.Share}
	for _, part := range b.Parts {
		out = append(out, part.Shares(imageID)...)
	}
	return out
}

// Saved counts the changes that need not be made by the package manager again.
func (b Batch) Saved() int {
	n := len(b.Share) * (len(b.ImageIDs) - 1)
	for _, part := range b.Parts {
		n += part.Saved()
	}
	return n
}

// Batches puts every plan that changes something into one batch. What the batches save is large: the sum of what each
// shares, by packages and bytes, times the images that need not do it themselves; where three and more plans are equal, what they do
// not share with others saves, too. The search is greedy, because the best partition is as hard to find as the best clustering; it is
// never worse than one batch for each set of equal plans, and the order of the plans does not matter.
//
// A Share is closed in every image of its batch: when it is done and the rest of the plan is not yet, no package lacks
// what it depends on (PlannedChange.Needs), and the scripts of one source have run together. What needs a running system is never shared.
func Batches(plans []Plan) []Batch {
	var out []Batch
	for _, p := range pools(plans) {
		out = append(out, p.batches()...)
	}
	byID := make(map[string]Plan, len(plans))
	for _, p := range plans {
		byID[p.ImageID] = p
	}
	for i := range out {
		out[i].part(byID)
	}
	slices.SortFunc(out, func(a, b Batch) int { return strings.Compare(a.ImageIDs[0], b.ImageIDs[0]) })
	return out
}

// pool are the plans that may share at all: those of one release, architecture and policy.
type pool struct {
	release, architecture string
	refs                  []PackageRef // by number
	weight                []int64      // by number: what doing the change costs
	number                map[PackageRef]int
	groups                []*group
}

// group are images that are in one batch so far.
type group struct {
	images []string
	common set   // changes that all of them have
	needs  needs // of the changes in common
	share  set   // the part of common that is closed under needs
	value  int64
	// Of three or more images with equal plans those after the first one: what is not shared is recorded for them as a part, or as the
	// rest of a plan.
	again   int64
	changes int64 // what all their changes cost
}

// needs are, for the number of a change, the numbers of those that go with it in some image of a group.
type needs map[int]set

func pools(plans []Plan) []*pool {
	sorted := slices.Clone(plans)
	slices.SortStableFunc(sorted, func(a, b Plan) int { return strings.Compare(a.ImageID, b.ImageID) })
	byKey, equal := map[string]*pool{}, map[string]*group{}
	for _, p := range sorted {
		if len(p.Changes) == 0 || p.Refused != "" {
			continue
		}
		key := fmt.Sprintf("%s\n%s\n%+v", p.Release, p.Architecture, p.Policy)
		if p.PackageKind == advisory.RPM {
			key += "\n" + p.ImageID // records are of dpkg's work
		}
		if byKey[key] == nil {
			byKey[key] = &pool{release: p.Release, architecture: p.Architecture, number: map[PackageRef]int{}}
		}
		same := key + fingerprint(p)
		if g := equal[same]; g != nil {
			g.images = append(g.images, p.ImageID)
			continue
		}
		equal[same] = byKey[key].add(p)
	}
	out := make([]*pool, 0, len(byKey))
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, byKey[key])
	}
	return out
}

// fingerprint tells plans apart that share differently.
func fingerprint(p Plan) string {
	var b strings.Builder
	ties := p.ties()
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "\n%v %t %v", c.PackageRef, c.Script == ScriptRunning, ties[c.ID()])
	}
	return b.String()
}

// add makes a group of one plan.
func (p *pool) add(plan Plan) *group {
	g := &group{images: []string{plan.ImageID}, needs: needs{}}
	own := map[string]int{}
	for _, c := range plan.Changes {
		n, known := p.number[c.PackageRef]
		if !known {
			n = len(p.refs)
			p.number[c.PackageRef] = n
			p.refs, p.weight = append(p.refs, c.PackageRef), append(p.weight, 1+c.Bytes>>20)
		}
		own[c.ID()] = n
		if c.Script != ScriptRunning {
			g.common.add(n)
		}
	}
	ties := plan.ties()
	for _, c := range plan.Changes {
		var with set
		for _, id := range ties[c.ID()] {
			if n, ok := own[id]; ok {
				with.add(n)
			}
		}
		if len(with) > 0 {
			g.needs[own[c.ID()]] = with
		}
	}
	p.groups = append(p.groups, g)
	return g
}

func (p *pool) batches() []Batch {
	p.merge()
	out := make([]Batch, 0, len(p.groups))
	for _, g := range p.groups {
		b := Batch{Release: p.release, Architecture: p.architecture, ImageIDs: g.images, Share: []PackageRef{}}
		slices.Sort(b.ImageIDs)
		if len(b.ImageIDs) > 1 {
			for n := range g.share.all() {
				b.Share = append(b.Share, p.refs[n])
			}
			slices.SortFunc(b.Share, ComparePackageRefs)
		}
		out = append(out, b)
	}
	return out
}

// merge unites the two groups that gain most by it, until none gain.
func (p *pool) merge() {
	for _, g := range p.groups { // of equal plans
		if len(g.images) > 2 {
			g.again = int64(len(g.images)) - 1
		}
		for n := range g.common.all() {
			g.changes += p.weight[n] * g.again
		}
		p.settle(g)
	}
	best := make([]offer, len(p.groups)) // of each group, among those after it
	for i := range p.groups {
		best[i] = p.bestFor(i)
	}
	for {
		a := -1
		for i, o := range best {
			if o.gain > 0 && (a < 0 || o.gain > best[a].gain) {
				a = i
			}
		}
		if a < 0 {
			break
		}
		b := best[a].with
		p.groups[a], p.groups[b] = p.united(p.groups[a], p.groups[b]), nil
		best[b] = offer{}
		for i := range p.groups {
			switch {
			case p.groups[i] == nil:
			case i == a || best[i].gain > 0 && (best[i].with == a || best[i].with == b):
				best[i] = p.bestFor(i)
			case i < a:
				if gain := p.gain(p.groups[i], p.groups[a]); gain > best[i].gain {
					best[i] = offer{with: a, gain: gain}
				}
			}
		}
	}
	p.groups = slices.DeleteFunc(p.groups, func(g *group) bool { return g == nil })
}

// offer is what a group would gain with another.
type offer struct {
	with int
	gain int64
}

func (p *pool) bestFor(i int) offer {
	var out offer
	for j := i + 1; j < len(p.groups) && p.groups[i] != nil; j++ {
		if p.groups[j] == nil {
			continue
		}
		if gain := p.gain(p.groups[i], p.groups[j]); gain > out.gain {
			out = offer{with: j, gain: gain}
		}
	}
	return out
}

func (p *pool) gain(a, b *group) int64 { return p.united(a, b).value - a.value - b.value }

// united is the group of both.
func (p *pool) united(a, b *group) *group {
	g := &group{
		images: slices.Concat(a.images, b.images), common: a.common.and(b.common), needs: needs{},
		again: a.again + b.again, changes: a.changes + b.changes,
	}
	for n := range g.common.all() {
		if both := a.needs[n].or(b.needs[n]); len(both) > 0 {
			g.needs[n] = both
		}
	}
	p.settle(g)
	return g
}

// settle takes out of what all have what cannot be done without something that not all have, and tells the group's worth.
func (p *pool) settle(g *group) {
	g.share = slices.Clone(g.common)
	for changed := true; changed; {
		changed = false
		for n := range g.share.all() {
			if !g.needs[n].within(g.share) {
				g.share.remove(n)
				changed = true
			}
		}
	}
	g.value = g.changes
	for n := range g.share.all() {
		g.value += p.weight[n] * (int64(len(g.images)-1) - g.again)
	}
}
