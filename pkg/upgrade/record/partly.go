package record

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// A folder counts only in part where it is known what its reader looks for: every image has other services in /etc/rc2.d and
// other programs in /usr/bin.

const rcProgram = "/usr/sbin/update-rc.d"

var (
	runLevel = regexp.MustCompile(`^etc/rc[0-9S]\.d$`)
	service  = regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`)
)

// importable are the names that a program in Python looks for in the folder of its script: its finder takes modules by
// their suffixes, and folders (importlib.machinery.FileFinder). A file without one of them is no module.
const importable = "python"

var moduleSuffixes = []string{".py", ".pyc", ".so"}

// mountScript tells update-rc.d whether the system is one of System V's.
const mountScript = "S??mountkernfs.sh"

// part tells which names of a folder count for a reader that lists it: patterns or importable; "" for all.
func (r *Recorder) part(name string, who reader) string {
	script, rest := who.script()
	switch {
	case who.program == "perl" && script == rcProgram && (name == "etc" || runLevel.MatchString(name)):
		what := slices.DeleteFunc(rest, func(a string) bool { return strings.HasPrefix(a, "-") })
		if len(what) == 0 || !service.MatchString(what[0]) || !r.listsLinksOnly() {
			return ""
		}
		if name == "etc" {
			return "rc?.d"
		}
		return "[SK][0-9][0-9]" + what[0] + " " + mountScript
	case who.program == "update-alternatives" && name == alternatives:
		return strings.Join(who.askedAlternatives(), " ")
	case strings.HasPrefix(who.program, "python3") && name == "usr/bin" && path.Dir(script) == "/usr/bin" && strings.HasPrefix(path.Base(script), "py3"):
		return importable // py3compile and py3clean, which list nothing by themselves but folders of modules
	}
	return ""
}

// listsLinksOnly reports whether the image's update-rc.d lists folders only to find the links of the service that it was
// asked about, and mountScript, as it does in all releases.
func (r *Recorder) listsLinksOnly() bool {
	text, err := r.tree.Read(strings.TrimPrefix(rcProgram, "/"))
	if err != nil || len(text) == 0 {
		return false
	}
	for line := range strings.Lines(string(text)) {
		holds := func(one string) bool { return strings.Contains(line, one) }
		if slices.ContainsFunc([]string{"glob", `<"`, "readdir", "opendir"}, holds) &&
			!slices.ContainsFunc([]string{`.d/[SK][0-9][0-9]$`, `.d/S[0-9][0-9]$`, `.d/K[0-9][0-9]$`, `.d/` + mountScript}, holds) {
			return false
		}
	}
	return true
}

// alternatives is the folder of update-alternatives(1). To install one it reads all the others, only to refuse a link that another
// one has already: in a system in which all are installed none has.
const alternatives = "var/lib/dpkg/alternatives"

// askedAlternatives are the words of a command line that can be names of alternatives.
func (r reader) askedAlternatives() []string {
	return slices.DeleteFunc(slices.Clone(r.args[min(1, len(r.args)):]), func(a string) bool {
		return a == "" || strings.HasPrefix(a, "-") || strings.ContainsAny(a, `/[]*?\ `)
	})
}

// isAsked reports whether a command line is about an alternative, or about all of them.
func (r reader) isAsked(name string) bool {
	names := r.askedAlternatives()
	return len(names) == 0 || slices.Contains(names, strings.TrimSuffix(name, ".dpkg-tmp"))
}

// awk is mawk or gawk, as the image's owner likes.
const awk = "usr/bin/awk"

// pythonAwk are the programs in awk that the prerm scripts of python's packages have. They are POSIX: any awk does the same.
var pythonAwk = regexp.MustCompile(`^\s*(max=\$\(LANG=C LC_ALL=C xargs --show-limits < /dev/null 2>&1 )?\| awk ` +
	`('/Maximum length/ \{print int\(\$NF / 4\)\}'\)|-F/ 'BEGIN \{OFS="/"\} /\\\.py\$/ \{\$NF=sprintf\("__pycache__/%s\.\*\.py\[co\]", substr\(\$NF,1,length\(\$NF\)-3\)\); print\}' \\)\s*$`)

// anyAwk reports whether it does not count which awk a script finds.
func (r *Recorder) anyAwk(who reader) bool {
	script, _ := who.script()
	name := strings.TrimPrefix(script, "/")
	if who.program != "dash" || path.Dir(name) != infoFolder || path.Ext(name) != ".prerm" {
		return false
	}
	text, err := r.tree.Read(name)
	if err != nil || len(text) == 0 {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "awk") && !pythonAwk.MatchString(strings.TrimSuffix(line, "\n")) {
			return false
		}
	}
	return true
}

// script is what an interpreter runs, and its arguments.
func (r reader) script() (name string, args []string) {
	for i, a := range r.args {
		if i > 0 && !strings.HasPrefix(a, "-") {
			return a, slices.Clone(r.args[i+1:])
		}
	}
	return "", nil
}

// onlyThere reports whether it counts of a file that it is there, whose it is and whether it is empty: of an initial RAM
// disk, whose length is another one each time it is made, and which is made anew in the end. A shell can ask no more of a
// file that it does not open, and linux-update-symlinks asks for less.
func onlyThere(name string, kind sandbox.AccessKind, who reader) bool {
	script, _ := who.script()
	return kind == sandbox.Stat && strings.HasPrefix(name, ramDisks) &&
		(who.program == "dash" || who.program == "bash" || who.program == "perl" && script == "/usr/bin/linux-update-symlinks")
}

const ramDisks = "boot/initrd.img-"

// present is what onlyThere leaves of a state.
func present(s State) State {
	s.Size = min(s.Size, 1)
	return s
}

// counted gives those names of a folder that count.
func counted(at lstat, folder string, names []string, only string) ([]string, error) {
	if only == "" {
		return names, nil
	}
	var out []string
	for _, n := range names {
		var err error
		fits := slices.ContainsFunc(strings.Fields(only), func(pattern string) bool {
			ok, err := path.Match(pattern, n)
			return ok && err == nil
		})
		if only == importable {
			if fits, err = isModule(at, folder, n); err != nil {
				return nil, err
			}
		}
		if fits {
			out = append(out, n)
		}
	}
	return out, nil
}

func isModule(at lstat, folder, name string) (bool, error) {
	if slices.Contains(moduleSuffixes, path.Ext(name)) {
		return true, nil
	}
	real, ok, err := resolve(at, folder+"/"+name, true)
	if err != nil || !ok {
		return false, err
	}
	s, err := at(real)
	return s.Type == TypeDir, err
}
