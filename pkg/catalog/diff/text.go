package diff

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// summary is one line with the numbers that a reader wants first.
func (r *Report) summary() string {
	var parts []string
	if n := len(r.CVEs()); n > 0 {
		parts = append(parts, plural(n, "CVE", "CVEs")+" fixed")
	}
	count := map[string]int{}
	for _, p := range r.Packages {
		count[p.Change]++
	}
	var changes []string
	for _, change := range []string{Upgraded, Downgraded, Added, Removed} {
		if n := count[change]; n > 0 {
			changes = append(changes, fmt.Sprintf("%d %s", n, change))
		}
	}
	if len(changes) > 0 {
		parts = append(parts, plural(len(r.Packages), "package differs", "packages differ")+" ("+strings.Join(changes, ", ")+")")
	} else {
		parts = append(parts, "the same packages")
	}
	if n := r.Files.Count(); n > 0 {
		parts = append(parts, plural(n, "file differs", "files differ"))
	}
	if g := r.Sizes["image"]; g.From != g.To {
		parts = append(parts, "image "+growth(g))
	}
	return strings.Join(parts, ", ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func growth(g Grown) string {
	if g.To >= g.From {
		return "+" + bytesText(g.To-g.From)
	}
	return "-" + bytesText(g.From-g.To)
}

func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// line is one row of a section: words in columns.
type line []string

type section struct {
	title string
	lines []line
	code  int // the column that holds names and no prose; -1 for none
}

// filesShown is how many files a text lists: those under /etc first, because people wrote them.
const filesShown = 25

// sections are the report in the order of a release note; empty ones are left out.
func (r *Report) sections() []section {
	all := []section{
		{plural(len(r.CVEs()), "CVE", "CVEs") + " fixed", r.cveLines(), 0},
		{"Kernel", changes(r.Kernels), 1}, {"System", r.settingLines(), -1}, {"Services that start", changes(r.Services), 1},
		{"Users with a shell", changes(r.Users), 1}, {"Setuid programs", changes(r.Setuid), 1},
	}
	for _, change := range []struct{ name, title string }{{Added, "added"}, {Removed, "removed"}, {Upgraded, "upgraded"}, {Downgraded, "downgraded"}} {
		lines := r.packageLines(change.name)
		all = append(all, section{plural(len(lines), "package ", "packages ") + change.title, lines, 0})
	}
	all = append(all, section{"Size", r.sizeLines(), -1}, section{r.filesTitle(), r.fileLines(), 1})
	return slices.DeleteFunc(all, func(s section) bool { return len(s.lines) == 0 })
}

// cveLines are the fixes with CVEs; packages of one source, which share everything else, share a line.
func (r *Report) cveLines() []line {
	var out []line
	at := map[string]int{}
	for _, f := range r.Fixed {
		if len(f.CVEs) == 0 {
			continue
		}
		rest := line{cmp.Or(f.Urgency, "unrated"), f.From + " → " + cmp.Or(f.To, "removed"), strings.Join(f.CVEs, ", ")}
		key := strings.Join(rest, "\n")
		if i, ok := at[key]; ok {
			out[i][0] += ", " + f.Package
			continue
		}
		at[key] = len(out)
		out = append(out, append(line{f.Package}, rest...))
	}
	return out
}

func changes(n Names) []line {
	var out []line
	for _, name := range n.Added {
		out = append(out, line{"+", name})
	}
	for _, name := range n.Removed {
		out = append(out, line{"-", name})
	}
	return out
}

func (r *Report) settingLines() []line {
	var out []line
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		v := r.Settings[name]
		out = append(out, line{name, cmp.Or(v.From, "none") + " → " + cmp.Or(v.To, "none")})
	}
	return out
}

func (r *Report) packageLines(change string) []line {
	var out []line
	for _, p := range r.Packages {
		switch {
		case p.Change != change:
		case change == Added:
			out = append(out, line{p.Name, p.To})
		case change == Removed:
			out = append(out, line{p.Name, p.From})
		default:
			out = append(out, line{p.Name, p.From + " → " + p.To})
		}
	}
	return out
}

func (r *Report) sizeLines() []line {
	var out []line
	for _, s := range []struct{ key, title string }{{"image", "image file"}, {"used", "used on the root"}, {"virtual", "disk"}} {
		if g := r.Sizes[s.key]; g.From != g.To {
			out = append(out, line{s.title, bytesText(g.From) + " → " + bytesText(g.To), "(" + growth(g) + ")"})
		}
	}
	return out
}

func (r *Report) filesTitle() string {
	f := r.Files
	if f.Count() == 0 {
		return "Files"
	}
	return fmt.Sprintf("%s: %d added, %d removed, %d changed", plural(f.Count(), "file differs", "files differ"), f.Added, f.Removed, f.Changed)
}

// fileLines are the folders with their numbers, then the files of /etc one by one.
func (r *Report) fileLines() []line {
	var out []line
	if r.FilesNote != "" && r.Files.Count() == 0 {
		return []line{{r.FilesNote}}
	}
	folders := slices.SortedFunc(maps.Keys(r.Files.Folders), func(a, b string) int {
		return cmp.Or(r.Files.Folders[b]-r.Files.Folders[a], strings.Compare(a, b))
	})
	for _, name := range folders {
		out = append(out, line{strconv.Itoa(r.Files.Folders[name]), name})
	}
	shown := 0
	for _, f := range r.Files.List {
		if !strings.HasPrefix(f.Path, "/etc/") {
			continue
		}
		if shown++; shown > filesShown {
			break
		}
		out = append(out, line{map[string]string{Added: "+", Removed: "-", Changed: "~"}[f.Change], f.Path, strings.Join(f.What, ", ")})
	}
	return out
}

// Text is the report as a release note for a terminal.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s → %s\n%s\n", r.From.Label(), r.To.short(r.From), r.Summary)
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "\n%s\n", s.title)
		widths := columns(s.lines)
		for _, l := range s.lines {
			b.WriteString(" ")
			for i, word := range l {
				b.WriteString(" ")
				b.WriteString(tidy(word))
				if i < len(l)-1 {
					b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(word))+1))
				}
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// short leaves the family out where it is that of the other side.
func (s Side) short(other Side) string {
	if s.Family == other.Family && s.Family != "" {
		return s.Version
	}
	return s.Label()
}

// columns are the widths of a section's columns; a word that would push the rest off the screen does not count.
func columns(lines []line) []int {
	var widths []int
	for _, l := range lines {
		for i, word := range l {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(word)))
		}
	}
	return widths
}

// Markdown is the report for a page or a merge request.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s → %s\n\n%s.\n", escape(r.From.Label()), escape(r.To.short(r.From)), escape(r.Summary))
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "\n### %s\n\n", s.title)
		for _, l := range s.lines {
			b.WriteString("-")
			for i, word := range l {
				switch {
				case word == "":
				case i == s.code:
					b.WriteString(" `" + strings.ReplaceAll(tidy(word), "`", "'") + "`")
				default:
					b.WriteString(" " + escape(word))
				}
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// tidy drops what would move a terminal's cursor: names come from a disk that somebody else wrote.
func tidy(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, s)
}

// escape keeps an image's words from being markup.
func escape(s string) string {
	return strings.NewReplacer("\\", "\\\\", "<", "&lt;", "*", "\\*", "_", "\\_", "`", "\\`", "[", "\\[", "|", "\\|", "#", "\\#").Replace(tidy(s))
}
