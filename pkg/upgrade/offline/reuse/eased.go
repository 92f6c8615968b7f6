package reuse

import (
	"bytes"
	"debug/elf"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// A whole folder or database is too much where the reader is known to use only a part of it: each image has other names in
// /etc and /lib, and other libraries in the loader's cache. What is left out here is proven not to count.

// loaderCache is the list of shared libraries that ld.so(8) looks names up in.
const loaderCache = "/etc/ld.so.cache"

// expansion is a line of a script by which a shell lists a folder to find the names that fit a pattern, and nothing else. It
// stands outside of functions and conditions, so a run that gets to its result lists the folder once by it: as many
// listings as there are such lines come from these lines, and one more makes the whole folder count.
type expansion struct{ folder, script, line, pattern string }

// expansions of initramfs-tools, the same in all releases since 0.140.
var expansions = []expansion{
	{"/", "/usr/sbin/mkinitramfs", "for d in /bin /lib* /sbin; do", "lib*"},
	{"/etc", "/usr/sbin/mkinitramfs", `cp -pPr /etc/ld.so.conf* "$DESTDIR"/etc/`, "ld.so.conf*"},
	{"/lib", "/usr/share/initramfs-tools/hooks/klibc-utils", `cp -pL /lib/klibc-*.so "${DESTDIR}/lib"`, "klibc-*.so"},
}

// listing is a process of a shell that runs a script.
type listing struct {
	script  string
	process int
}

// eased takes an access of which only a part may count, and reports whether it did.
func (l *Looks) eased(at look, a sandbox.Access) bool {
	switch {
	case at.Path == loaderCache && a.Kind == sandbox.Read:
		// The loader opens it in every program. Those that read it by themselves have its name from their command line or from
		// a text (states looks for that), or they are ldconfig.
		program, args := l.reader(a.Process)
		if program == "" || strings.HasPrefix(path.Base(program), "ldconfig") ||
			slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, path.Base(loaderCache)) }) {
			return false
		}
		l.loader[at] = true
		return true
	case a.Kind == sandbox.List && slices.ContainsFunc(expansions, func(e expansion) bool { return e.folder == at.Path }):
		script := scriptOf(l.reader(a.Process))
		if !slices.ContainsFunc(expansions, func(e expansion) bool { return e.folder == at.Path && e.script == script }) {
			return false
		}
		if l.listed[at] == nil {
			l.listed[at] = map[listing]int{}
		}
		l.listed[at][listing{script, a.Process}]++
		return true
	}
	return false
}

func (l *Looks) reader(process int) (program string, args []string) {
	if l.Reader != nil {
		return l.Reader(process)
	}
	at := "/proc/" + strconv.Itoa(process)
	program, err := os.Readlink(at + "/exe") // the process waits for us: it is still there
	if err != nil {
		return "", nil
	}
	text, err := os.ReadFile(at + "/cmdline")
	if err != nil {
		return "", nil
	}
	return program, strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// scriptOf is the script that a shell was started with, or "".
func scriptOf(program string, args []string) string {
	if program != "/usr/bin/dash" && program != "/bin/dash" || len(args) < 2 {
		return ""
	}
	if slices.Contains([]string{"-e", "-u", "-eu", "-ue"}, args[1]) {
		args = args[1:]
	}
	if len(args) < 2 || !strings.HasPrefix(args[1], "/") {
		return ""
	}
	return args[1]
}

// patterns are what counts of a folder that was listed by scripts; nil where all of it does. text reads a script.
func patterns(folder string, by map[listing]int, text func(name string) string) []string {
	var out []string
	for who, times := range by {
		lines := 0
		for line := range strings.Lines(text(who.script)) {
			for _, e := range expansions {
				if e.folder == folder && e.script == who.script && strings.TrimSuffix(line, "\n") == e.line {
					lines++
					out = append(out, e.pattern)
				}
			}
		}
		if times != lines {
			return nil
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func fits(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// ease says of which inputs only a part counts. They are sorted.
func (l *Looks) ease(root int, inputs []input) {
	for i := range inputs {
		in := &inputs[i]
		if by := l.listed[in.look]; by != nil && !in.Content {
			in.Only = patterns(in.Path, by, func(name string) string { return string(small(root, name)) })
			in.Content = true
		}
		if l.loader[in.look] && !in.Content {
			in.Only, in.Content = l.lookedUp(root, inputs), true
		}
	}
}

// lookedUp are all names under which something was opened: the loader looked up no other ones. nil where something else
// than the loader may have read its cache: a program that listed /etc, or one that has its name from a text.
func (l *Looks) lookedUp(root int, inputs []input) []string {
	names := map[string]bool{}
	for _, in := range inputs {
		if in.Path == path.Dir(loaderCache) && in.Content && in.Only == nil {
			return nil
		}
		if !in.Content {
			continue
		}
		if text := small(root, in.Path); !bytes.HasPrefix(text, []byte(elf.ELFMAG)) && bytes.Contains(text, []byte(path.Base(loaderCache))) {
			return nil
		}
		if name, ok := plainLibrary(path.Base(in.Path)); ok { // a cache with another one counts as a whole
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// maxText bounds a script, in bytes.
const maxText = 1 << 20

// small is the content of a file that may be a script; nil where it is none.
func small(root int, name string) []byte {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: inImage}
	fd, err := open(root, name, how)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // read only
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxText {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return nil
	}
	return text
}

// cached is what the loader's cache says of the names of an input; ok is false where all of it counts.
func cached(root int, in input) (sum string, ok bool, err error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: inImage}
	fd, err := open(root, in.Path, how)
	if err != nil {
		return "", false, unreadable(err, in.Path)
	}
	f := os.NewFile(uintptr(fd), in.Path)
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, maxCache))
	if err != nil || len(text) == maxCache {
		return "", false, unreadable(err, in.Path)
	}
	names := map[string]bool{}
	for _, n := range in.Only {
		names[n] = true
	}
	sum, ok = libraries(text, names)
	return sum, ok, nil
}

// maxCache bounds the loader's cache, in bytes: usual ones are 100 KiB.
const maxCache = 64 << 20
