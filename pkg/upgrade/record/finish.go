package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// finisher compares the image with how it was.
type finisher struct {
	*Recorder
	after    *snapshot
	db2      *database
	pack     io.Writer
	end      int64             // of the pack
	newConfs map[string]string // md5 of the new versions' configuration files
	rec      *Record
	made     map[string]bool // folders
	replaced map[string]bool // files of the share's packages, by their real names
}

// Finish compares the image with how it was, and writes the contents of new files to pack. why says in words that there
// is no record to be had: then the image is as the package manager left it, and nothing is lost.
func (r *Recorder) Finish(ctx context.Context, pack io.Writer) (rec *Record, why string, err error) {
	if r.refused != "" {
		return nil, string(r.refused), nil
	}
	f := &finisher{Recorder: r, pack: pack, rec: &Record{Share: r.share, Logs: map[string]string{}, Users: map[string]map[string]string{}, Queried: map[string]string{}, Shared: map[string]bool{}, Interests: map[string][]string{}}}
	for _, step := range []func(context.Context) error{f.readAfter, f.findStatus, f.findOwned, f.findTriggers, f.findEntries, f.findDatabases, f.findInputs, f.findLogs} {
		if err := step(ctx); err != nil {
			if no, ok := errors.AsType[refusalError](err); ok {
				return nil, string(no.why), nil
			}
			return nil, "", err
		}
	}
	return f.rec, "", nil
}

type refusalError struct{ why refusal }

func (e refusalError) Error() string { return string(e.why) }

func no(format string, args ...any) error { return refusalError{refusal(fmt.Sprintf(format, args...))} }

func (f *finisher) readAfter(ctx context.Context) (err error) {
	if f.after, err = takeSnapshot(ctx, f.tree); err != nil {
		return err
	}
	f.db2, err = readDatabase(f.tree, f.share)
	return err
}

// findStatus: the share was made, all of it and nothing else.
func (f *finisher) findStatus(context.Context) error {
	for key, ref := range f.db.share {
		if got := version(f.db2.status.text[key]); got != ref.To {
			return no("%s is %q after the shared changes, not %s", ref.Name, got, ref.To)
		}
	}
	for _, c := range diffStanzas(f.db.status, f.db2.status) {
		if _, ours := f.db.share[c.Key]; !ours {
			if c.After == "" || settled(c.Before) != settled(c.After) {
				return no("the shared changes changed %s too", c.Key)
			}
			continue
		}
		if words := strings.Fields(fieldOf(c.After, "Status")); words[1] != "ok" {
			return no("%s is %s", c.Key, strings.Join(words, " "))
		}
		c.Before, c.After = settled(c.Before), settled(c.After) // a record that was applied leaves no trigger pending in the status
		f.rec.Status = append(f.rec.Status, c)
	}
	for name := range f.queried {
		name, _, _ = strings.Cut(name, ":")
		f.rec.Queried[name] = f.db.outsider(name)
	}
	after := map[string]string{}
	for _, c := range f.rec.Status {
		after[c.Key] = c.After
	}
	if who := f.db.loose(after); who != "" {
		return no("the shared changes are not closed: %s goes with them", who)
	}
	f.newConfs = map[string]string{}
	for _, c := range f.rec.Status {
		maps.Copy(f.newConfs, conffiles(c.After))
	}
	return f.readShare(f.db2) // what the new versions have
}

// outsider is the stanza of a package that is not of the share, as far as a script can ask about it.
func (d *database) outsider(name string) string {
	var out []string
	for _, key := range d.status.keys {
		if _, ours := d.share[key]; !ours && strings.HasPrefix(key, name+":") {
			out = append(out, settled(d.status.text[key]))
		}
	}
	return strings.Join(out, "\n\n")
}

// findOwned takes up the names of the share's files, and those that others list too.
func (f *finisher) findOwned(context.Context) error {
	for name := range f.owned {
		if f.stateOf(f.after, name).Type != TypeDir || f.stateOf(f.before, name).Type != TypeDir {
			f.rec.Paths = append(f.rec.Paths, name)
		}
	}
	slices.Sort(f.rec.Paths)
	ours := toSet(f.rec.Paths)
	for key, text := range f.db2.status.text {
		if _, mine := f.db2.share[key]; mine {
			continue
		}
		files, err := filesOf(f.tree, text)
		if err != nil {
			return err
		}
		for _, name := range files {
			if ours[name] {
				f.rec.Shared[name] = true
			}
		}
	}
	f.rec.Words = slices.Sorted(maps.Keys(f.words))
	return nil
}

func (f *finisher) stateOf(s *snapshot, name string) State {
	real, ok, _ := resolve(s.lstat, name, false)
	if !ok {
		return State{}
	}
	return s.names[real].State
}

func toSet(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

// findTriggers: those by file must be the ones that this package would find too or that a script named, or it does not know
// how dpkg does it.
func (f *finisher) findTriggers(context.Context) error {
	pending, before := f.db2.pendingTriggers(), f.db.pendingTriggers()
	for line := range strings.Lines(string(f.texts[pendingFile])) { // a record that was applied leaves its triggers so
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		before[name] = true
	}
	all, err := interests(f.tree)
	if err != nil {
		return err
	}
	for _, at := range hit(all, toSet(f.rec.Paths)) {
		delete(pending, "/"+at)
	}
	explicit := map[string]bool{}
	for name := range pending {
		if strings.HasPrefix(name, "/") && !f.opened[name] && !before[name] {
			return no("dpkg's trigger %s was not expected", name)
		}
		explicit[name] = true
	}
	for key := range f.db2.share {
		names, err := activations(f.tree, f.db2.status.text[key])
		if err != nil {
			return err
		}
		for _, name := range names {
			explicit[name] = true
		}
	}
	for name := range f.opened {
		if strings.HasPrefix(name, "/") {
			explicit[name] = true
		} else if f.before.names[triggersFolder+"/"+name].Type == TypeNone && f.after.names[triggersFolder+"/"+name].Type == TypeNone {
			explicit[name] = true // nobody has an interest here, but somebody may on another image
		}
	}
	for _, known := range []string{"File", "Unincorp", "Lock", "triggers"} {
		delete(explicit, known)
	}
	maps.DeleteFunc(explicit, func(name string, _ bool) bool { return strings.HasSuffix(name, "-new") }) // dpkg's own new copies
	f.rec.Triggers = slices.Sorted(maps.Keys(explicit))
	return nil
}

// findEntries goes through what changed and what the share's packages own.
func (f *finisher) findEntries(ctx context.Context) error {
	owned := map[string]bool{}
	for _, name := range f.rec.Paths {
		if real, ok, _ := resolve(f.after.lstat, name, false); ok {
			owned[real] = true
		}
	}
	// A configuration file is dpkg's with care, and a diverted one is somebody else's.
	for _, name := range slices.Concat(slices.Collect(maps.Keys(f.confs)), f.diverted) {
		if real, ok, _ := resolve(f.after.lstat, name, false); ok {
			delete(owned, real)
		}
	}
	names := map[string]bool{}
	for name := range owned {
		names[name] = true // dpkg would remove what is there and should not be
	}
	for name, was := range f.before.names {
		is, still := f.after.names[name]
		if !still || is.inode != was.inode || is.changed != was.changed {
			names[name] = true
		}
	}
	for name := range f.after.names {
		if _, was := f.before.names[name]; !was {
			names[name] = true
		}
	}
	if names["etc/ld.so.cache"] && !slices.Contains(f.rec.Triggers, "ldconfig") {
		f.rec.Triggers = append(f.rec.Triggers, "ldconfig") // a script ran it by itself
	}
	links := map[uint64]string{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if skipped(name) {
			continue
		}
		if err := f.addEntry(name, owned[name], links); err != nil {
			return err
		}
	}
	return f.findOwners()
}

// findOwners takes up the names of the users and groups that the entries belong to: their numbers are another image's own.
func (f *finisher) findOwners() error {
	f.rec.Owners = map[string]string{}
	names := ownerNames(string(f.texts["etc/passwd"]), string(f.texts["etc/group"]))
	for _, e := range f.rec.Entries {
		for _, id := range ownersOf(e.After) {
			if f.rec.Owners[id] = names[id]; names[id] == "" {
				return no("/%s belongs to a number without a name", e.Name)
			}
		}
	}
	return nil
}

// ownersOf are the keys of an entry's user and group in a record's owners. root's are the same everywhere.
func ownersOf(s State) []string {
	var out []string
	if s.UID != 0 {
		out = append(out, fmt.Sprintf("u%d", s.UID))
	}
	if s.GID != 0 {
		out = append(out, fmt.Sprintf("g%d", s.GID))
	}
	return out
}

// ownerNames gives the names of numbers, with the same keys.
func ownerNames(passwd, group string) map[string]string {
	out := map[string]string{}
	for kind, text := range map[string]string{"u": passwd, "g": group} {
		for line := range strings.SplitSeq(text, "\n") {
			words := strings.Split(line, ":")
			if len(words) < 3 {
				continue
			}
			if key := kind + words[2]; out[key] == "" {
				out[key] = words[0]
			}
		}
	}
	return out
}

// diverted are the names that a diversion is from or to.
func diverted(text string) []string {
	var out []string
	for d := range diversionsOf(text) {
		out = append(out, d[0], d[1])
	}
	return out
}

// skipped reports whether a name that changed is no entry.
func skipped(name string) bool {
	_, made := derived[name]
	return name == "" || made || isOwn(name) || slices.Contains(merged, name) || below(name, passing) || below(name, logs) ||
		strings.HasPrefix(name, "var/log/apt/") || below(name, outside)
}

func (f *finisher) addEntry(name string, owned bool, links map[uint64]string) error {
	is := f.after.names[name]
	was := f.before.names[name].State
	was.Hash = f.sums[name]
	e := Entry{Name: name, Before: was, After: is.State, Owned: owned && is.Type != TypeDir && was.Type != TypeDir}
	if is.Type == TypeDir && was.Type == TypeDir && is.alike(was) {
		return nil
	}
	if is.Type == TypeNone && was.Type == TypeNone {
		f.rec.Entries = append(f.rec.Entries, Entry{Name: name})
		return nil
	}
	if is.Type == TypeFile && !e.Owned {
		var err error
		if e.After.Hash, err = f.tree.hash(name); err != nil {
			return err
		}
	}
	if !e.Owned && e.Before.Same(e.After) {
		return nil // renamed to and fro
	}
	if path.Dir(name) == triggersFolder {
		return f.addInterests(name)
	}
	switch {
	case isSecret(name):
		return no("the shared changes touch /%s", name)
	case e.After.Type == TypeSpecial || e.Before.Type == TypeSpecial:
		return no("the shared changes touch the device or pipe /%s", name)
	case was.Type == TypeFile && was.Hash == "" && !e.Owned:
		return no("/%s changed unseen, or is too large", name)
	case path.Dir(name) == infoFolder && !f.oursInInfo(path.Base(name)):
		return no("the shared changes touch /%s", name)
	}
	if modified := unix.TimespecToNsec(is.modified); is.Type != TypeDir && is.Type != TypeNone && modified < f.start.UnixNano() {
		e.Modified = modified // links too: the index of manuals has their times
	}
	if is.Type == TypeFile {
		if err := f.keep(&e, is, links); err != nil {
			return err
		}
	}
	f.rec.Entries = append(f.rec.Entries, e)
	return nil
}

// keep takes up a file's content, or which other name has them.
func (f *finisher) keep(e *Entry, is seen, links map[uint64]string) error {
	if first, linked := links[is.inode]; linked {
		e.Link = first
		return nil
	}
	if is.links > 1 {
		links[is.inode] = e.Name
	}
	return f.store(e)
}

// store appends a file to the pack and notes its hash.
func (f *finisher) store(e *Entry) error {
	in, err := f.tree.open(e.Name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	h := sha256.New()
	n, err := copied(io.MultiWriter(h, f.pack), in)
	if err != nil {
		return err
	}
	e.After.Hash, e.After.Size, e.Offset = hex.EncodeToString(h.Sum(nil)), n, f.end
	f.end += n
	return nil
}
