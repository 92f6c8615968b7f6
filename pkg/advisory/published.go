package advisory

import (
	"maps"
	"slices"
)

// EventPublished tells of a security fix that at least one image lacks: when it is first seen, and again when it turns
// out to be more urgent (its changelog or the operator's files were read later). Its payload is a Published.
const EventPublished = "advisory.published"

// Published is the payload of EventPublished: all packages of one source that were fixed together.
type Published struct {
	Suite      string   `json:"suite"`
	Source     string   `json:"source"`
	Version    string   `json:"version"`
	Urgency    string   `json:"urgency"` // low, medium, high, critical; "" where it is not known yet
	Was        string   `json:"was"`     // the urgency that was told before; "" the first time
	CVEs       []string `json:"cves"`
	Packages   []string `json:"packages"`
	Advisories []string `json:"advisories"` // ids
	Images     []string `json:"images"`     // that were found to lack it just now
}

// Add takes one advisory of the source; was is what was known of it.
func (p *Published) Add(a, was Advisory) {
	p.Urgency, p.Was = Worse(p.Urgency, a.Urgency), Worse(p.Was, was.Urgency)
	set := map[string]bool{}
	for _, id := range slices.Concat(p.CVEs, a.CVEs) {
		set[id] = true
	}
	p.CVEs = SortCVEs(set)
	p.Packages, p.Advisories = append(p.Packages, a.Package), append(p.Advisories, a.ID)
}

// Merge adds what was known of the same advisory: images with older versions lack more than those with newer ones.
func (a Advisory) Merge(was Advisory) Advisory {
	set := map[string]bool{}
	for _, id := range slices.Concat(a.CVEs, was.CVEs) {
		set[id] = true
	}
	a.CVEs, a.Urgency = SortCVEs(set), Worse(a.Urgency, was.Urgency)
	return a
}

// SortCVEs lists CVE numbers by year and number.
func SortCVEs(set map[string]bool) []string {
	out := slices.SortedFunc(maps.Keys(set), compareCVEs)
	if out == nil {
		return []string{}
	}
	return out
}

// FileNames are the names that the operator's files may have for packages and sources with these names.
func FileNames(names map[string]bool) map[string]bool {
	out := maps.Clone(names)
	for name := range names {
		out[Unsigned(name)] = true
	}
	return out
}
