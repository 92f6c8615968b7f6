package catalog

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// CompareVersions orders the names of one family's versions by day, then by number: 20260305.9 is older than
// 20260305.10. Names of another form are older than all of this form, in the order of their text.
func CompareVersions(a, b string) int {
	dayA, numberA, okA := splitVersion(a)
	dayB, numberB, okB := splitVersion(b)
	switch {
	case !okA && !okB:
		return strings.Compare(a, b)
	case !okA:
		return -1
	case !okB:
		return 1
	}
	return cmp.Or(strings.Compare(dayA, dayB), cmp.Compare(numberA, numberB))
}

// splitVersion reads YYYYMMDD.N.
func splitVersion(name string) (day string, number int, ok bool) {
	day, rest, _ := strings.Cut(name, ".")
	number, err := strconv.Atoi(rest)
	if err != nil || number < 1 || len(day) != 8 || strings.Trim(day, "0123456789") != "" {
		return "", 0, false
	}
	return day, number, true
}

// newestFirst is a sorted copy.
func newestFirst(versions []Version) []Version {
	return slices.SortedStableFunc(slices.Values(versions), func(a, b Version) int { return CompareVersions(b.Name, a.Name) })
}

// Newest is the newest version that may be used; false where there is none.
func Newest(versions []Version) (Version, bool) {
	for _, v := range newestFirst(versions) {
		if v.State.Usable() {
			return v, true
		}
	}
	return Version{}, false
}

// Sight says whether Glance's lists show the images of a version (os_hidden), and why.
type Sight struct {
	Hidden bool
	Why    string
}

// Visible decides for all versions of one family, by version id, whether Glance hides them. What a channel points to
// and the newest version that may be used are always shown, whatever their state says; a revoked one never is; all
// others are superseded and hidden. Versions whose images are gone are not in the answer.
//
// The newest is found by name and not by time or state, so that neither a clock that went back, nor a newest
// version whose image was lost or revoked, nor a roll back hides what people shall use
// (osism/openstack-image-manager#1278 hid the new image and showed the old ones).
func Visible(versions []Version, channels map[string]string) map[string]Sight {
	newest, found := Newest(versions)
	sights := make(map[string]Sight, len(versions))
	for _, v := range versions {
		switch in := channelsOf(channels, v.Name); {
		case v.State == Deleted:
		case v.State == Deleting:
			sights[v.ID] = Sight{true, "it is being deleted"}
		case v.State == Revoked:
			sights[v.ID] = Sight{true, "it is revoked"}
		case len(in) > 0:
			sights[v.ID] = Sight{false, "channel " + strings.Join(in, ", ") + " points to it"}
		case found && v.ID == newest.ID:
			sights[v.ID] = Sight{false, "it is the newest"}
		default:
			sights[v.ID] = Sight{true, "it is superseded by " + newest.Name}
		}
	}
	return sights
}

// channelsOf lists the channels that point to a version, by name.
func channelsOf(channels map[string]string, version string) []string {
	var names []string
	for name, v := range channels {
		if v == version {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
