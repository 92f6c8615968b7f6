package record

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // what dpkg keeps of configuration files
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// findDatabases takes up the stanzas of apt and debconf that belong to the share.
func (f *finisher) findDatabases(context.Context) error {
	diff := func(name string, key func(string) string) ([]StanzaChange, stanzas, error) {
		text, err := f.tree.Read(name)
		if err != nil {
			return nil, stanzas{}, err
		}
		before := parseStanzas(f.texts[name], key)
		return diffStanzas(before, parseStanzas(text, key)), before, nil
	}
	var err error
	if f.rec.Extended, _, err = diff(extendedFile, packageKey); err != nil {
		return err
	}
	for _, c := range f.rec.Extended {
		if _, ours := f.db.share[c.Key]; !ours {
			return no("apt changed its mark of %s", c.Key)
		}
	}
	for file, into := range map[string]*[]StanzaChange{configFile: &f.rec.Config, templatesFile: &f.rec.Template} {
		changes, before, err := diff(file, debconfKey)
		if err != nil {
			return err
		}
		// Unchanged ones that the packages own are inputs: they are kept as a change from and to the same.
		for _, k := range before.keys {
			if text := before.text[k]; f.ownsQuestion(text) && !slices.ContainsFunc(changes, func(c StanzaChange) bool { return c.Key == k }) {
				changes = append(changes, StanzaChange{Key: k, Before: text, After: text})
			}
		}
		for _, c := range changes {
			if strings.Contains(strings.ToLower(c.Before+c.After), "password") && c.Before != c.After {
				return no("the shared changes touch debconf's %s", c.Key)
			}
		}
		*into = changes
	}
	return nil
}

func (f *finisher) ownsQuestion(stanza string) bool { return ownsQuestion(stanza, f.db.share) }

// ownsQuestion reports whether a package of the share owns a question of debconf.
func ownsQuestion[T any](stanza string, share map[string]T) bool {
	owners := strings.FieldsFunc(fieldOf(stanza, "Owners"), func(c rune) bool { return c == ',' || c == ' ' })
	for key := range share {
		name, _, _ := strings.Cut(key, ":")
		for _, o := range owners {
			if o == name || strings.HasPrefix(o, name+"/") {
				return true
			}
		}
	}
	return false
}

// findInputs turns what was looked at into how it was before.
func (f *finisher) findInputs(ctx context.Context) error {
	if f.refused != "" {
		return no("%s", f.refused)
	}
	f.made, f.replaced = map[string]bool{}, map[string]bool{}
	for _, e := range f.rec.Entries {
		f.made[e.Name] = e.Before.Type == TypeNone && e.After.Type == TypeDir
		f.replaced[e.Name] = e.Owned
	}
	for _, l := range slices.SortedFunc(maps.Keys(f.looks), func(a, b look) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.want, b.want), strings.Compare(a.only, b.only))
	}) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.addInput(l); err != nil {
			return err
		}
	}
	f.rec.Diversions, f.rec.Overrides = string(f.texts[diversionsFile]), string(f.texts[overridesFile])
	return nil
}

func (f *finisher) addInput(l look) error {
	real, ok, err := resolve(f.before.lstat, l.name, !l.noFollow)
	if err != nil {
		return err
	}
	if !ok || below(real, outside) || isOwn(real) && f.before.names[real].Type == TypeNone {
		return nil
	}
	if slices.Contains(users, real) {
		f.rec.Users[real] = userLines(string(f.texts[real]))
		return nil
	}
	was := f.before.names[real]
	if f.covered(real, l.want, was.State) {
		return nil
	}
	in := Input{Name: l.name, NoFollow: l.noFollow, Want: l.want, Real: real, State: was.State}
	switch {
	case l.want == WantConf:
		err = f.confInput(&in, real)
	case was.Type == TypeDir && (l.want == WantNames || l.want == WantFile):
		var names []string
		names, err = counted(f.before.lstat, real, f.before.children[real], l.only)
		in.Want, in.Only, in.Names = WantNames, l.only, namesSum(names)
	case l.want == WantNames:
		in.Want = WantState
	case l.want == WantFile && was.Type == TypeFile:
		if in.State.Hash = f.sums[real]; in.State.Hash == "" {
			if f.replaced[real] {
				return nil // it was read when the package's own file was there already
			}
			return no("/%s was changed before it was read, or is too large", real)
		}
	case l.want == WantFile:
		in.Want = WantState
	}
	f.rec.Inputs = append(f.rec.Inputs, in)
	return err
}

// covered reports whether the check of the entries proves the input already: dpkg's look at a file that it replaces, or
// that there is nothing in a folder that the record makes.
func (f *finisher) covered(real, want string, was State) bool {
	if want == WantType && f.replaced[real] {
		return true
	}
	if was.Type != TypeNone {
		return false
	}
	for at := path.Dir(real); at != "."; at = path.Dir(at) {
		if f.made[at] {
			return true
		}
	}
	return false
}

func namesSum(names []string) string {
	names = slices.Sorted(slices.Values(names))
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	return hex.EncodeToString(sum[:])
}

// confCase is dpkg's case for a configuration file that it left alone. One that it replaced must have the same content.
func (f *finisher) confInput(in *Input, real string) (err error) {
	was := f.before.names[real]
	if is := f.after.names[real]; was.Type != TypeFile || is.inode != was.inode || is.changed != was.changed {
		in.Want, in.State = WantFile, was.State
		in.State.Hash = f.sums[real]
		return nil
	}
	in.State, in.Old, in.New = State{}, f.confs[in.Name], f.newConfs[in.Name]
	in.Case, err = confCase(f.tree, real, in.Old, in.New)
	return err
}

// confCase tells which of the cases a file is that deb-conffiles(5) and dpkg(1), --force-confold, treat alike: only the
// sums of what the packages ship count, not how the owner changed it.
func confCase(t *Tree, name, old, now string) (string, error) {
	s, err := t.Lstat(name)
	if err != nil || s.Type != TypeFile {
		return "no file " + s.Type, err
	}
	if old == now {
		return "kept", nil
	}
	got, err := t.md5(name)
	switch got {
	case old:
		return "as packaged", err
	case now:
		return "as the new one", err
	}
	return "changed", err
}

func (t *Tree) md5(name string) (string, error) {
	in, err := t.open(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer in.Close() //nolint:errcheck // read only
	h := md5.New()   //nolint:gosec // what dpkg keeps
	_, err = copied(h, in)
	return hex.EncodeToString(h.Sum(nil)), err
}

// findLogs takes up what was added.
func (f *finisher) findLogs(context.Context) error {
	for _, name := range logs {
		text, err := f.tree.Read(name)
		if err != nil {
			return err
		}
		if added, ok := strings.CutPrefix(string(text), string(f.texts[name])); ok && added != "" {
			f.rec.Logs[name] = added
		}
	}
	return nil
}
