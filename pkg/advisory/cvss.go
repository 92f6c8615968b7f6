package advisory

import (
	"math"
	"strings"
)

// The numbers of CVSS 3.1's base score (https://www.first.org/cvss/v3.1/specification-document, section 7.4).
var (
	attackVector = map[string]float64{"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2}
	complexity   = map[string]float64{"L": 0.77, "H": 0.44}
	privileges   = map[string]float64{"N": 0.85, "L": 0.62, "H": 0.27}
	privilegesC  = map[string]float64{"N": 0.85, "L": 0.68, "H": 0.5} // where the scope changes
	interaction  = map[string]float64{"N": 0.85, "R": 0.62}
	impact       = map[string]float64{"H": 0.56, "L": 0.22, "N": 0}
)

// CVSS is the base score of a CVSS 3.0 or 3.1 vector; false for any other text, version 4 included.
func CVSS(vector string) (score float64, ok bool) {
	if !strings.HasPrefix(vector, "CVSS:3.") {
		return 0, false
	}
	m := map[string]string{}
	for part := range strings.SplitSeq(vector, "/") {
		name, value, _ := strings.Cut(part, ":")
		m[name] = value
	}
	changed := m["S"] == "C"
	if !changed && m["S"] != "U" {
		return 0, false
	}
	pr := privileges
	if changed {
		pr = privilegesC
	}
	var v [7]float64
	for i, x := range []struct {
		name  string
		table map[string]float64
	}{{"AV", attackVector}, {"AC", complexity}, {"PR", pr}, {"UI", interaction}, {"C", impact}, {"I", impact}, {"A", impact}} {
		if v[i], ok = x.table[m[x.name]]; !ok {
			return 0, false
		}
	}
	base := 1 - (1-v[4])*(1-v[5])*(1-v[6])
	exploit := 8.22 * v[0] * v[1] * v[2] * v[3]
	sub := 6.42 * base
	if changed {
		sub = 7.52*(base-0.029) - 3.25*math.Pow(base-0.02, 15)
	}
	switch {
	case sub <= 0:
		return 0, true
	case changed:
		return roundUp(min(1.08*(sub+exploit), 10)), true
	}
	return roundUp(min(sub+exploit, 10)), true
}

// roundUp is the standard's own (appendix A): to one decimal, without the errors of binary fractions.
func roundUp(x float64) float64 {
	n := int(math.Round(x * 100000))
	if n%10000 == 0 {
		return float64(n) / 100000
	}
	return float64(n/10000+1) / 10
}
