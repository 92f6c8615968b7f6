package job

import (
	"strconv"
	"strings"
)

// Fits tells whether an owner with the labels may run a job with the needs. A need is a label that must be there
// ("builder=packer", "gpu"), or a number that a label must reach: "disk_gib>=50" is met by "disk_gib=120".
func Fits(needs, labels []string) bool {
	for _, need := range needs {
		if !met(need, labels) {
			return false
		}
	}
	return true
}

func met(need string, labels []string) bool {
	name, least, number := strings.Cut(need, ">=")
	for _, label := range labels {
		if !number {
			if label == need {
				return true
			}
			continue
		}
		key, value, _ := strings.Cut(label, "=")
		have, err := strconv.ParseFloat(value, 64)
		want, wantErr := strconv.ParseFloat(least, 64)
		if key == name && err == nil && wantErr == nil && have >= want {
			return true
		}
	}
	return false
}
