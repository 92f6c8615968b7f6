package deb

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Entry is one version's part of a Debian changelog.
type Entry struct {
	Source       string
	Version      string
	Distribution string
	Urgency      string // lower case, "medium"; "" where the entry gives none
	Text         string // the change lines, with their indentation
	Author       string
	Date         time.Time // zero where the entry's date cannot be read
}

var (
	changelogHeader = regexp.MustCompile(`^([a-zA-Z0-9][a-zA-Z0-9+.-]*) \(([^()\s]+)\)([^;]*);(.*)$`)
	cveID           = regexp.MustCompile(`\bCVE-((?:19|20)\d\d)-(\d{4,19})\b`)
)

// ParseChangelog reads a debian/changelog (https://manpages.debian.org/deb-changelog), newest entry
// first. Like dpkg it passes over what it cannot read, such as the old formats at the end of long
// changelogs; a file without any entry is Invalid.
func ParseChangelog(r io.Reader) ([]Entry, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	var all []Entry
	var text strings.Builder
	open := false
	finish := func() {
		if open {
			all[len(all)-1].Text = strings.Trim(text.String(), "\n")
		}
		text.Reset()
		open = false
	}
	for s.Scan() {
		line := strings.TrimRight(s.Text(), " \t\r")
		if m := changelogHeader.FindStringSubmatch(line); m != nil {
			finish()
			all = append(all, Entry{Source: m[1], Version: m[2], Distribution: strings.TrimSpace(m[3]), Urgency: urgencyOf(m[4])})
			open = true
			continue
		}
		if !open {
			continue
		}
		if trailer, ok := strings.CutPrefix(line, " -- "); ok {
			e := &all[len(all)-1]
			author, date, _ := strings.Cut(trailer, "  ")
			e.Author = author
			if when, err := time.Parse("Mon, _2 Jan 2006 15:04:05 -0700", strings.TrimSpace(date)); err == nil {
				e.Date = when
			}
			finish()
			continue
		}
		text.WriteString(line)
		text.WriteByte('\n')
	}
	finish()
	if err := s.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errs.New(errs.Invalid, "kiln.advisory.changelog_malformed", "the changelog has no entry")
	}
	return all, nil
}

func urgencyOf(options string) string {
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(option), "=")
		if strings.EqualFold(strings.TrimSpace(name), "urgency") {
			value, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(value)), " ")
			return value
		}
	}
	return ""
}

// Since gives the entries that are newer than a version. An empty version gives the newest entry
// only: for a package that was not there before, its past is nobody's news.
func Since(entries []Entry, version string) []Entry {
	if version == "" {
		return entries[:min(1, len(entries))]
	}
	var fresh []Entry
	for _, e := range entries {
		if newer(e.Version, version) {
			fresh = append(fresh, e)
		}
	}
	return fresh
}

// CVEs names the CVE ids that the entries mention, each once, by year and number.
func CVEs(entries []Entry) []string {
	found := map[string]bool{}
	for _, e := range entries {
		for _, id := range cveID.FindAllString(e.Text, -1) {
			found[id] = true
		}
	}
	ids := make([]string, 0, len(found))
	for id := range found {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareCVE)
	return ids
}

func compareCVE(a, b string) int {
	ma, mb := cveID.FindStringSubmatch(a), cveID.FindStringSubmatch(b)
	for i := 1; i <= 2; i++ {
		na, _ := strconv.ParseUint(ma[i], 10, 64)
		nb, _ := strconv.ParseUint(mb[i], 10, 64)
		if na != nb {
			if na < nb {
				return -1
			}
			return 1
		}
	}
	return strings.Compare(a, b)
}

var urgencies = []string{"low", "medium", "high", "emergency", "critical"}

// Urgency is the highest urgency among the entries; "" where none gives a known one.
func Urgency(entries []Entry) string {
	highest := -1
	for _, e := range entries {
		highest = max(highest, slices.Index(urgencies, e.Urgency))
	}
	if highest < 0 {
		return ""
	}
	return urgencies[highest]
}
