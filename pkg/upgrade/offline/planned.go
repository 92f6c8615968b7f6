package offline

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
)

// namesShown bounds the packages and files that one error names.
const namesShown = 8

// check holds the packages that the image has now against those that it had and the changes that apt announced.
func (p plan) check(before, after []deb.Package) error {
	want, have := versions(before), versions(after)
	for _, c := range p.packages {
		for id := range want { // a package that changes between "all" and an architecture is still one package
			name, arch, _ := strings.Cut(id, ":")
			if name == c.Name && (arch == "all" || c.Architecture == "all") {
				delete(want, id)
			}
		}
		want[c.Name+":"+c.Architecture] = c.Version
	}
	for _, name := range p.removed {
		name = strings.TrimSuffix(name, "*") // purged
		for id := range want {
			if id == name || !strings.Contains(name, ":") && strings.HasPrefix(id, name+":") && !p.comes(id) {
				delete(want, id)
			}
		}
	}
	var wrong []string
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got, ok := have[id]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s %s is not installed", id, want[id]))
		} else if got != want[id] {
			wrong = append(wrong, fmt.Sprintf("%s is %s instead of %s", id, got, want[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[id]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s %s was not planned", id, have[id]))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return failed("its packages are not those of the plan: %s", shown(wrong))
}

// comes reports whether the plan brings a package.
func (p plan) comes(id string) bool {
	return slices.ContainsFunc(p.packages, func(c deb.Package) bool { return c.Name+":"+c.Architecture == id })
}

func versions(packages []deb.Package) map[string]string {
	out := make(map[string]string, len(packages))
	for _, p := range packages {
		out[p.Name+":"+p.Architecture] = p.Version
	}
	return out
}

// shown is a list for an error, which does not grow with a hostile image.
func shown(list []string) string {
	if more := len(list) - namesShown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:namesShown], ", "), more)
	}
	return strings.Join(list, ", ")
}
