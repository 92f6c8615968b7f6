package hostdnf

import (
	"regexp"
	"strconv"
)

// rpm's words for a file system that is too small, which it finds before anything is changed
// (https://github.com/rpm-software-management/rpm/blob/rpm-4.18.x/lib/rpmprob.c).
var (
	roomRule  = regexp.MustCompile(`needs ([0-9]{1,12})([KM])B (?:more space )?on the (\S+) filesystem`)
	shortRule = regexp.MustCompile(`At least ([0-9]{1,12})MB more space needed on the (\S+) filesystem`) // dnf's summary of these
	inodeRule = regexp.MustCompile(`needs ([0-9]{1,12}) more inodes on the (\S+) filesystem`)
)

// Lacks reads from the output of dnf how many bytes and inodes rpm missed in the image's root file system when it tested
// the transaction; 0 where it missed none.
func Lacks(output string) (bytes, inodes int64) {
	most := func(n *int64, text string, unit int64) {
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			*n = max(*n, v*unit)
		}
	}
	for _, m := range roomRule.FindAllStringSubmatch(output, -1) {
		unit := int64(1 << 10)
		if m[2] == "M" {
			unit = 1 << 20
		}
		if m[3] == "/" {
			most(&bytes, m[1], unit)
		}
	}
	for _, m := range shortRule.FindAllStringSubmatch(output, -1) {
		if m[2] == "/" {
			most(&bytes, m[1], 1<<20)
		}
	}
	for _, m := range inodeRule.FindAllStringSubmatch(output, -1) {
		if m[2] == "/" {
			most(&inodes, m[1], 1)
		}
	}
	return bytes, inodes
}
