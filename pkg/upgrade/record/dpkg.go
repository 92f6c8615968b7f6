package record

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Files of the package manager's databases, which differ between any two images and are merged by what they mean.
const (
	statusFile     = "var/lib/dpkg/status"
	infoFolder     = "var/lib/dpkg/info"
	triggersFolder = "var/lib/dpkg/triggers"
	fileTriggers   = triggersFolder + "/File"
	pendingFile    = triggersFolder + "/Unincorp" // deb-triggers(5): what dpkg takes up when it starts next
	diversionsFile = "var/lib/dpkg/diversions"
	overridesFile  = "var/lib/dpkg/statoverride"
	extendedFile   = "var/lib/apt/extended_states"
	configFile     = "var/cache/debconf/config.dat"
	templatesFile  = "var/cache/debconf/templates.dat"
)

// database is the part of dpkg's that records and checks need.
type database struct {
	status stanzas
	share  map[string]upgrade.PackageRef // by key of its stanza
}

func readDatabase(t *Tree, share []upgrade.PackageRef) (*database, error) {
	text, err := t.Read(statusFile)
	if err != nil {
		return nil, err
	}
	d := &database{status: parseStanzas(text, packageKey), share: map[string]upgrade.PackageRef{}}
	for _, ref := range share {
		d.share[ref.Name+":"+ref.Architecture] = ref
	}
	return d, nil
}

// pendingTriggers are those that packages of the image wait for.
func (d *database) pendingTriggers() map[string]bool {
	out := map[string]bool{}
	for _, text := range d.status.text {
		for name := range strings.FieldsSeq(fieldOf(text, "Triggers-Pending")) {
			out[name] = true
		}
	}
	return out
}

// version is the installed one of a stanza; "" where the package is not installed.
func version(stanza string) string {
	words := strings.Fields(fieldOf(stanza, "Status"))
	if len(words) != 3 || (words[2] != "installed" && !strings.HasPrefix(words[2], "triggers-")) {
		return ""
	}
	return fieldOf(stanza, "Version")
}

// settled is a stanza as it is when no trigger is pending.
func settled(stanza string) string {
	stanza = withoutFields(stanza, "Triggers-Pending", "Triggers-Awaited")
	for _, word := range []string{"triggers-pending", "triggers-awaited"} {
		stanza = strings.Replace(stanza, " ok "+word+"\n", " ok installed\n", 1)
	}
	return stanza
}

// Unpacked names the packages whose files are in the image and that are not configured yet, as dpkg takes names.
func Unpacked(t *Tree) ([]string, error) {
	db, err := readDatabase(t, nil)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range db.status.keys {
		text := db.status.text[key]
		if words := strings.Fields(fieldOf(text, "Status")); len(words) != 3 || words[2] != "unpacked" && words[2] != "half-configured" {
			continue
		}
		name := fieldOf(text, "Package")
		if fieldOf(text, "Multi-Arch") == "same" {
			name = key
		}
		out = append(out, name)
	}
	return out, nil
}

// infoName is the name of a package's file in dpkg's info folder; those of co-installable packages have the
// architecture in it.
func infoName(stanza, suffix string) string {
	name := fieldOf(stanza, "Package")
	if fieldOf(stanza, "Multi-Arch") == "same" {
		name += ":" + fieldOf(stanza, "Architecture")
	}
	return infoFolder + "/" + name + "." + suffix
}

// filesOf reads the list of a package's names, as dpkg writes them but without the leading slash.
func filesOf(t *Tree, stanza string) ([]string, error) {
	text, err := t.Read(infoName(stanza, "list"))
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if name := strings.TrimPrefix(line, "/"); name != "" && name != "." {
			out = append(out, name)
		}
	}
	return out, nil
}

// activations are the explicit triggers that a package's control file activates when its state changes.
func activations(t *Tree, stanza string) ([]string, error) {
	text, err := t.Read(infoName(stanza, "triggers"))
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(string(text), "\n") {
		words := strings.Fields(line)
		if len(words) >= 2 && strings.HasPrefix(words[0], "activate") {
			out = append(out, words[1])
		}
	}
	return out, nil
}

// interests reads dpkg's file triggers: folder or file, without the leading slash.
func interests(t *Tree) ([]string, error) {
	text, err := t.Read(fileTriggers)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if words := strings.Fields(line); len(words) >= 2 {
			out = append(out, strings.TrimPrefix(words[0], "/"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// addInterests: dpkg puts the interests of a package that it unpacks behind those of all others. Nothing else may change in its
// lists of who has an interest.
func (f *finisher) addInterests(name string) error {
	text, err := f.tree.Read(name)
	if err != nil {
		return err
	}
	var ours []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line) // of fileTriggers: a file and a package, of the others: a package
		if len(words) == 0 {
			continue
		}
		who, _, _ := strings.Cut(words[len(words)-1], "/")
		who, _, _ = strings.Cut(who, ":")
		if slices.ContainsFunc(f.share, func(ref upgrade.PackageRef) bool { return ref.Name == who }) {
			ours = append(ours, line)
		}
	}
	if behind(string(f.texts[name]), ours) != string(text) {
		return no("the shared changes change who has an interest in dpkg's trigger %s", path.Base(name))
	}
	f.rec.Interests[name] = ours
	return nil
}

// behind moves lines of a text to its end.
func behind(text string, lines []string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !slices.Contains(lines, line) {
			out.WriteString(line)
		}
	}
	return out.String() + strings.Join(lines, "")
}

// hit gives the interests that one of the names, or a folder above it, fulfils.
func hit(interests []string, names map[string]bool) []string {
	wanted := map[string]bool{}
	for _, i := range interests {
		wanted[i] = true
	}
	found := map[string]bool{}
	for name := range names {
		for at := name; at != "." && at != "/"; at = path.Dir(at) {
			if wanted[at] {
				found[at] = true
			}
		}
	}
	var out []string
	for at := range found {
		out = append(out, at)
	}
	slices.Sort(out)
	return out
}

// relation is one alternative of a dependency field.
type relation struct{ name, op, version string }

// relations reads a dependency field: groups of alternatives.
func relations(field string) [][]relation {
	var out [][]relation
	for group := range strings.SplitSeq(field, ",") {
		var alternatives []relation
		for one := range strings.SplitSeq(group, "|") {
			name, rest, _ := strings.Cut(one, "(")
			words := strings.Fields(strings.TrimSuffix(strings.TrimSpace(rest), ")"))
			name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
			r := relation{name: name}
			if len(words) == 2 {
				r.op, r.version = words[0], words[1]
			}
			if r.name != "" {
				alternatives = append(alternatives, r)
			}
		}
		if len(alternatives) > 0 {
			out = append(out, alternatives)
		}
	}
	return out
}

// holds reports whether a version fulfils the relation.
func (r relation) holds(v string) bool {
	if r.op == "" {
		return true
	}
	c, err := deb.Compare(v, r.version)
	if err != nil {
		return false
	}
	switch r.op {
	case "=":
		return c == 0
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case ">>":
		return c > 0
	case ">=":
		return c >= 0
	}
	return false
}

// loose names a package outside of the share whose dependencies the share alone would break, or that a package of the
// share does not bear: dpkg would deconfigure it on the way, which a replay would not.
func (d *database) loose(after map[string]string) string {
	to := map[string]string{} // versions of the share by package name
	from := map[string]string{}
	for key, text := range after {
		name := fieldOf(text, "Package")
		to[name], from[name] = fieldOf(text, "Version"), version(d.status.text[key])
	}
	for _, key := range d.status.keys {
		text := d.status.text[key]
		have := version(text)
		if _, mine := after[key]; mine || have == "" {
			continue
		}
		name := fieldOf(text, "Package")
		if breaks(text, to, from) || forbids(after, name, have, text) {
			return name
		}
	}
	return ""
}

// breaks reports whether a stanza's relation to a package of the share holds with the old version and not with the new.
func breaks(text string, to, from map[string]string) bool {
	for _, field := range []string{"Depends", "Pre-Depends"} {
		for _, group := range relations(fieldOf(text, field)) {
			for _, r := range group {
				if v, ours := to[r.name]; ours && r.holds(cmp.Or(from[r.name], v)) && !r.holds(v) {
					return true
				}
			}
		}
	}
	for _, field := range []string{"Breaks", "Conflicts"} {
		for _, group := range relations(fieldOf(text, field)) {
			for _, r := range group {
				if v, ours := to[r.name]; ours && r.holds(v) {
					return true
				}
			}
		}
	}
	return false
}

// forbids reports whether a new version of the share breaks or conflicts with an installed package, by its name or by
// what it provides.
func forbids(after map[string]string, name, have, stanza string) bool {
	names := []string{name}
	for _, group := range relations(fieldOf(stanza, "Provides")) {
		names = append(names, group[0].name)
	}
	for _, text := range after {
		for _, field := range []string{"Breaks", "Conflicts"} {
			for _, group := range relations(fieldOf(text, field)) {
				r := group[0]
				if r.name == name && r.holds(have) || r.op == "" && r.name != fieldOf(text, "Package") && slices.Contains(names, r.name) {
					return true
				}
			}
		}
	}
	return false
}
