package advisory

import (
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// The scale of urgencies. Every source's words and scores are mapped onto it, see docs/advisories.md.
const (
	Low      = "low"
	Medium   = "medium"
	High     = "high"
	Critical = "critical"
)

var words = map[string]string{
	"negligible": Low, "unimportant": Low, "minor": Low, Low: Low,
	Medium: Medium, "moderate": Medium,
	High: High, "important": High,
	Critical: Critical, "emergency": Critical, "urgent": Critical,
}

// Urgency maps a word of a changelog, the Debian security tracker, Ubuntu, Red Hat or GitHub onto the scale; "" for
// one that says nothing, such as "not yet assigned". Debian's tracker marks what a person has not looked at with stars.
func Urgency(word string) string {
	return words[strings.TrimRight(strings.ToLower(strings.TrimSpace(word)), "*")]
}

// Level orders urgencies: 0 for "", 1 for low to 4 for critical.
func Level(urgency string) int {
	switch Urgency(urgency) {
	case Low:
		return 1
	case Medium:
		return 2
	case High:
		return 3
	case Critical:
		return 4
	}
	return 0
}

// Worse is the higher of two urgencies.
func Worse(a, b string) string {
	if Level(b) > Level(a) {
		return b
	}
	return a
}

// OfScore maps a CVSS base score onto the scale, by the standard's own qualitative ratings
// (https://www.first.org/cvss/v3.1/specification-document, section 5).
func OfScore(score float64) string {
	switch {
	case score >= 9:
		return Critical
	case score >= 7:
		return High
	case score >= 4:
		return Medium
	case score > 0:
		return Low
	}
	return ""
}

// counted is the urgency by which a fix counts where nobody said one: what a security suite has is medium.
func counted(p Pending) string {
	switch {
	case Level(p.Urgency) > 0:
		return Urgency(p.Urgency)
	case p.Security:
		return Medium
	}
	return Low
}

// Count counts the source packages with a pending fix by the urgency of their worst one.
func Count(ps []Pending) catalog.Urgencies {
	worst := map[string]string{}
	for _, p := range ps {
		source := p.Source
		if source == "" {
			source = p.Package
		}
		worst[source] = Worse(worst[source], counted(p))
	}
	var n catalog.Urgencies
	for _, u := range worst {
		switch u {
		case Critical:
			n.Critical++
		case High:
			n.High++
		case Medium:
			n.Medium++
		default:
			n.Low++
		}
	}
	return n
}

// Weight is how bad it is that a system lacks so many fixes: 100 for each critical one, 20 for a high, 5 for a medium
// and 1 for a low one. An image's rank is its weight times one more than the servers and containers that run from it.
func Weight(u catalog.Urgencies) int {
	return 100*u.Critical + 20*u.High + 5*u.Medium + u.Low
}
