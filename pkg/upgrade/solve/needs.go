package solve

import (
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// alternative is one package that a dependency may be met by.
type alternative struct{ name, op, version string }

// unit is one version of a package as dependencies see it.
type unit struct {
	id, name, version string
	provides          []alternative // op is "=" or ""
	depends           [][]alternative
	against           []alternative // Breaks and Conflicts
}

func unitOf(id, name, version string, fields map[string]string) *unit {
	u := &unit{id: id, name: name, version: version}
	u.depends = slices.Concat(clauses(fields["pre-depends"]), clauses(fields["depends"]))
	for _, clause := range clauses(fields["provides"]) {
		u.provides = append(u.provides, clause...)
	}
	for _, clause := range slices.Concat(clauses(fields["breaks"]), clauses(fields["conflicts"])) {
		u.against = append(u.against, clause...)
	}
	return u
}

// clauses reads a relation (https://www.debian.org/doc/debian-policy/ch-relationships.html). The architecture behind a
// name is left out: a package of another architecture then meets it too, which only makes more changes go together.
func clauses(field string) [][]alternative {
	var out [][]alternative
	for clause := range strings.SplitSeq(field, ",") {
		var alts []alternative
		for text := range strings.SplitSeq(clause, "|") {
			name, rest, _ := strings.Cut(strings.TrimSpace(text), "(")
			name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
			if name == "" {
				continue
			}
			a := alternative{name: name}
			rest = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), ")"))
			if at := strings.LastIndexAny(rest, "<>="); at >= 0 {
				a.op, a.version = strings.TrimSpace(rest[:at+1]), strings.TrimSpace(rest[at+1:])
			}
			alts = append(alts, a)
		}
		if len(alts) > 0 {
			out = append(out, alts)
		}
	}
	return out
}

// meets reports whether the unit is what the alternative names.
func (u *unit) meets(a alternative) bool {
	if u.name == a.name && holds(u.version, a) {
		return true
	}
	return slices.ContainsFunc(u.provides, func(p alternative) bool {
		return p.name == a.name && (a.op == "" || p.version != "" && holds(p.version, a))
	})
}

func holds(version string, a alternative) bool {
	if a.op == "" {
		return true
	}
	c, err := deb.Compare(version, a.version)
	if err != nil {
		return false
	}
	switch a.op {
	case "=":
		return c == 0
	case ">=", ">":
		return c >= 0
	case "<=", "<":
		return c <= 0
	case ">>":
		return c > 0
	case "<<":
		return c < 0
	}
	return false
}

// names are those by which the unit can meet something.
func (u *unit) names() []string {
	out := []string{u.name}
	for _, p := range u.provides {
		out = append(out, p.name)
	}
	return out
}

// ties finds which changes must be made in one step.
type ties struct {
	before  map[string]*unit // by id: the image as it is
	after   map[string]*unit // by id: the changed packages only; nil where one is removed
	byName  map[string][]*unit
	wanting map[string][]*unit // by a name: the packages of the image that depend on it or are against it
}

// tie fills Needs of all the changes: what a change, made alone, would leave unmet until another one is made.
func tie(s *state, changes []upgrade.PlannedChange, after map[string]*unit) {
	t := ties{before: map[string]*unit{}, after: after, byName: map[string][]*unit{}, wanting: map[string][]*unit{}}
	touched := map[string]bool{}
	for i := range s.packages {
		p := &s.packages[i]
		if !p.Installed() {
			continue
		}
		u := unitOf(s.id(p.Name, p.Architecture), p.Name, p.Version, p.fields)
		t.before[u.id] = u
		for _, n := range u.names() {
			t.byName[n] = append(t.byName[n], u)
		}
	}
	for id, u := range after {
		for _, v := range []*unit{u, t.before[id]} {
			if v != nil {
				for _, n := range v.names() {
					touched[n] = true
				}
			}
		}
	}
	for _, u := range t.before {
		for _, clause := range append(slices.Clone(u.depends), u.against) {
			for _, a := range clause {
				if touched[a.name] {
					t.wanting[a.name] = append(t.wanting[a.name], u)
				}
			}
		}
	}
	ids := map[string]string{} // as the changes say it
	for _, c := range changes {
		ids[s.id(c.Name, c.Architecture)] = c.ID()
	}
	for i := range changes {
		id := s.id(changes[i].Name, changes[i].Architecture)
		changes[i].Needs = nil
		for other := range t.needs(id) {
			changes[i].Needs = append(changes[i].Needs, ids[other])
		}
		slices.Sort(changes[i].Needs)
	}
}

// needs gives the ids of the changes without which the one of id leaves something unmet.
func (t *ties) needs(id string) map[string]bool {
	out := map[string]bool{}
	was, becomes := t.before[id], t.after[id]
	if becomes != nil {
		for _, clause := range becomes.depends {
			if !t.met(clause, id) {
				t.addMeeting(out, clause)
			}
		}
		for _, a := range becomes.against {
			for _, u := range t.byName[a.name] {
				if u.meets(a) {
					t.add(out, u.id)
				}
			}
		}
	}
	for u := range t.wantingOf(was, becomes) {
		if u.id == id {
			continue
		}
		for _, clause := range u.depends {
			if t.met(clause, "") && !t.met(clause, id) {
				if _, changes := t.after[u.id]; changes {
					out[u.id] = true
				} else {
					t.addMeeting(out, clause)
				}
			}
		}
		if becomes != nil && slices.ContainsFunc(u.against, becomes.meets) {
			t.add(out, u.id)
		}
	}
	// Multi-Arch: same is installed in one version for all architectures.
	name, _, _ := strings.Cut(id, ":")
	for other := range t.after {
		if n, _, _ := strings.Cut(other, ":"); n == name {
			out[other] = true
		}
	}
	delete(out, id)
	return out
}

func (t *ties) wantingOf(units ...*unit) map[*unit]bool {
	out := map[*unit]bool{}
	for _, u := range units {
		if u == nil {
			continue
		}
		for _, n := range u.names() {
			for _, w := range t.wanting[n] {
				out[w] = true
			}
		}
	}
	return out
}

// met reports whether the image meets a dependency when nothing but the change of id is made.
func (t *ties) met(clause []alternative, id string) bool {
	for _, a := range clause {
		for _, u := range t.byName[a.name] {
			if u.id != id && u.meets(a) {
				return true
			}
		}
		if u := t.after[id]; u != nil && u.meets(a) {
			return true
		}
	}
	return false
}

// addMeeting adds the changes whose new version meets the clause.
func (t *ties) addMeeting(out map[string]bool, clause []alternative) {
	for _, id := range slices.Sorted(maps.Keys(t.after)) {
		if u := t.after[id]; u != nil && slices.ContainsFunc(clause, u.meets) {
			out[id] = true
		}
	}
}

func (t *ties) add(out map[string]bool, id string) {
	if _, changes := t.after[id]; changes {
		out[id] = true
	}
}
