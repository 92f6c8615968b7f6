package record

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// maxHashed bounds the files whose content before is kept in mind, in bytes: no script reads or changes larger ones.
const maxHashed = 256 << 20

// Recorder watches while the changes of a share are made to one image.
type Recorder struct {
	tree   *Tree
	share  []upgrade.PackageRef
	start  time.Time
	before *snapshot
	sums   map[string]string // sha256 before, by name, of the files whose content counts
	taken  map[string]bool   // names, as processes named them, that were looked up for sums
	db     *database
	texts  map[string][]byte // merged databases and logs before
	// names that packages of the share own, as dpkg lists them
	owned map[string]bool
	confs map[string]string // md5 of configuration files before, by name
	// names that a diversion is from or to, which are not the package manager's to replace
	diverted []string
	words    map[string]bool

	mu      sync.Mutex
	looks   map[look]bool
	queried map[string]bool // names of packages
	opened  map[string]bool // explicit triggers that dpkg looked for, and those of dpkg-trigger, which may be names of files too
	refused refusal
	reader  func(process int) reader
}

// look is one way in which a process looked at a name.
type look struct {
	name     string
	noFollow bool
	want     string
	only     string // Input.Only
}

// Begin takes down how the image is. Nothing may run in it yet.
func Begin(ctx context.Context, t *Tree, share []upgrade.PackageRef) (*Recorder, error) {
	r := &Recorder{tree: t, share: share, start: time.Now(), texts: map[string][]byte{}, owned: map[string]bool{}, confs: map[string]string{},
		sums: map[string]string{}, taken: map[string]bool{}, words: map[string]bool{}, looks: map[look]bool{}, queried: map[string]bool{}, opened: map[string]bool{}, reader: readerOf}
	var err error
	if r.before, err = takeSnapshot(ctx, t); err != nil {
		return nil, err
	}
	if r.db, err = readDatabase(t, share); err != nil {
		return nil, err
	}
	for _, list := range [][]string{merged, logs, users, {diversionsFile, overridesFile}} {
		for _, name := range list {
			if r.texts[name], err = t.Read(name); err != nil {
				return nil, err
			}
		}
	}
	r.diverted = diverted(string(r.texts[diversionsFile]))
	return r, errors.Join(r.readShare(r.db), r.takeOwn(ctx))
}

// takeOwn keeps what dpkg changes of its own: nobody watches dpkg there.
func (r *Recorder) takeOwn(ctx context.Context) error {
	names := []string{diversionsFile, overridesFile}
	for _, folder := range []string{infoFolder, triggersFolder} {
		for _, base := range r.before.children[folder] {
			if folder == triggersFolder || r.oursInInfo(base) {
				names = append(names, folder+"/"+base)
			}
		}
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.before.names[name].Type != TypeFile {
			continue
		}
		var err error
		if r.sums[name], err = r.tree.hash(name); err != nil {
			return err
		}
		if path.Dir(name) == triggersFolder {
			if r.texts[name], err = r.tree.Read(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// oursInInfo reports whether a file of dpkg's info folder is of a package of the share.
func (r *Recorder) oursInInfo(base string) bool {
	name, _, _ := strings.Cut(strings.TrimSuffix(base, path.Ext(base)), ":")
	return slices.ContainsFunc(r.share, func(ref upgrade.PackageRef) bool { return ref.Name == name })
}

// readShare takes up what belongs to the packages of the share, as it is now.
func (r *Recorder) readShare(db *database) error {
	for key := range db.share {
		text := db.status.text[key]
		if text == "" {
			continue
		}
		files, err := filesOf(r.tree, text)
		if err != nil {
			return err
		}
		for _, name := range files {
			r.owned[name] = true
		}
		for name, sum := range conffiles(text) {
			if _, known := r.confs[name]; !known {
				r.confs[name] = sum
			}
		}
		for _, suffix := range []string{"preinst", "postinst", "prerm", "postrm", "config"} {
			script, err := r.tree.Read(infoName(text, suffix))
			if err != nil {
				return err
			}
			addWords(r.words, string(script))
		}
	}
	return nil
}

// conffiles gives the configuration files of a stanza with their md5.
func conffiles(stanza string) map[string]string {
	out := map[string]string{}
	for _, line := range fieldLines(stanza, "Conffiles") {
		if words := strings.Fields(line); len(words) >= 2 {
			out[strings.TrimPrefix(words[0], "/")] = words[1]
		}
	}
	return out
}

// addWords takes up what could be the name of a user or group. What follows a slash is a part of a path.
func addWords(words map[string]bool, text string) {
	for _, w := range strings.FieldsFunc(text, func(c rune) bool {
		return c != '/' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) {
		if w, _, _ = strings.Cut(w, "/"); w != "" {
			words[w] = true
		}
	}
}

// See is told of every access, just before it happens (sandbox.Spec.Trace).
func (r *Recorder) See(a sandbox.Access) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Kind == sandbox.Unknown {
		r.refuse("a process could not be traced")
		return
	}
	name := strings.TrimPrefix(a.Path, "/")
	if a.Asked != a.Path && strings.Contains(a.Asked, "..") {
		name = strings.TrimPrefix(a.Asked, "/")
	} else if below(name, outside) {
		return
	}
	l := look{name: name, noFollow: a.NoFollow, want: WantState}
	switch a.Kind {
	case sandbox.Read, sandbox.Exec:
		l.want = WantFile
	case sandbox.List:
		l.want = WantNames
	case sandbox.Readlink:
		l.noFollow = true
	}
	changes := a.Kind == sandbox.Write || a.Kind == sandbox.Change
	if r.looks[l] && (!changes || r.taken[name]) {
		return
	}
	if r.telling(name, a.Kind) {
		who := r.reader(a.Process)
		r.note(name, who)
		if eased, ok := r.ease(l, a.Kind, who); ok {
			l = eased
		}
	}
	if l.want != "" {
		r.looks[l] = true
		r.take(l, changes)
	}
}

// take keeps the content of a file that is read, or that is about to change and is not the package manager's to replace: later
// it is another one. What changed before it was read is none of the image's content.
func (r *Recorder) take(l look, changes bool) {
	plain := plainName(l.name)
	_, conf := r.confs[plain]
	if l.want != WantFile && l.want != WantConf && (!changes || r.owned[plain] && !conf && !slices.Contains(r.diverted, plain)) || r.taken[l.name] {
		return
	}
	r.taken[l.name] = true
	for _, follow := range []bool{true, false} { // a program may mean the link and another one what is behind it
		real, ok, err := resolve(r.before.lstat, l.name, follow)
		was := r.before.names[real]
		if !ok || err != nil || was.Type != TypeFile || was.Size > maxHashed || r.sums[real] != "" || !r.unchanged(real, was) {
			continue
		}
		if sum, err := r.tree.hash(real); err == nil {
			r.sums[real] = sum
		}
	}
}

// unchanged reports whether a file still has the content that it had. Its attributes and links may be others.
func (r *Recorder) unchanged(name string, was seen) bool {
	dir, err := r.tree.folder(name)
	if err != nil {
		return false
	}
	defer dir.Close() //nolint:errcheck // a folder
	_, st, err := statFull(int(dir.Fd()), path.Base(name))
	return err == nil && st.Ino == was.inode && st.Mtim == was.modified && st.Size == was.Size
}

func (r *Recorder) refuse(why refusal) {
	if r.refused == "" {
		r.refused = why
	}
}

// telling reports whether it counts who looks.
func (r *Recorder) telling(name string, kind sandbox.AccessKind) bool {
	if kind == sandbox.List || strings.HasPrefix(name, "var/") || strings.HasPrefix(name, ramDisks) || name == "etc/ld.so.cache" || name == awk {
		return true
	}
	if kind == sandbox.Exec {
		return false
	}
	_, conf := r.confs[plainName(name)]
	return conf || r.owned[plainName(name)]
}

// plainName takes away what dpkg adds to the names of files that it is about to put in place.
func plainName(name string) string {
	for _, suffix := range []string{".dpkg-new", ".dpkg-tmp"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// systemFolders are where the programs of rules.go are, as a process in the sandbox has them.
var systemFolders = []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"}

// tellingPrograms are those whose command line counts.
var tellingPrograms = []string{"dpkg-query", "dpkg-trigger", "update-alternatives", "dash", "perl"}

// readerOf reads who a process is. It waits for us, so it is still there.
func readerOf(process int) reader {
	at := "/proc/" + strconv.Itoa(process)
	exe, err := os.Readlink(at + "/exe")
	if err != nil {
		return reader{}
	}
	who := reader{program: path.Base(strings.TrimSuffix(exe, " (deleted)"))}
	if !slices.Contains(systemFolders, path.Dir(exe)) {
		return reader{} // a program of that name that is somewhere else
	}
	if slices.Contains(tellingPrograms, who.program) || strings.HasPrefix(who.program, "python3") {
		if text, err := os.ReadFile(at + "/cmdline"); err == nil {
			who.args = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		}
	}
	return who
}

// note takes down what scripts asked dpkg about, and the triggers that were activated.
func (r *Recorder) note(name string, who reader) {
	if who.program == "dpkg-query" && name == statusFile {
		names, ok := asked(who.args)
		if !ok {
			r.refuse("a script asks dpkg about all packages")
		}
		for _, n := range names {
			r.queried[n] = true
		}
	}
	if who.program == "dpkg" && path.Dir(name) == triggersFolder && path.Ext(name) != ".new" {
		r.opened[path.Base(name)] = true
	}
	if who.program == "dpkg-trigger" && name == pendingFile {
		if trigger := triggerOf(who.args); trigger != "" {
			r.opened[trigger] = true
		}
	}
}

// ease gives the weaker input that an access is, where a rule says so; want is "" where it is none at all.
func (r *Recorder) ease(l look, kind sandbox.AccessKind, who reader) (look, bool) {
	if waived(l.name, who) || l.name == awk && r.anyAwk(who) || path.Dir(l.name) == alternatives && who.program == "update-alternatives" && !who.isAsked(path.Base(l.name)) {
		return look{}, true
	}
	if onlyThere(l.name, kind, who) {
		l.want = WantThere
		return l, true
	}
	if kind == sandbox.List {
		if l.only = r.part(l.name, who); l.only != "" {
			return l, true
		}
	}
	if who.program != "dpkg" || kind == sandbox.Exec {
		return l, false
	}
	plain := plainName(l.name)
	_, conf := r.confs[plain]
	switch {
	case kind == sandbox.List && !strings.HasPrefix(l.name, "etc/"):
		l.want = WantType // opened to be synced
	case conf && plain == l.name:
		l.want = WantConf
	case r.owned[plain]:
		l.want = WantType // replaced, whatever is in it
	default:
		return l, false
	}
	return l, true
}
