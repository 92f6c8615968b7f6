package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Fits proves that the share's changes would do to this image what they did to the recorded one, or says in words what
// is different. It changes nothing.
func (rec *Record) Fits(ctx context.Context, t *Tree) (why string, err error) {
	db, err := readDatabase(t, rec.Share)
	if err != nil {
		return "", err
	}
	c := &checker{rec: rec, tree: t, db: db, known: map[string]State{}}
	for _, step := range []func(context.Context) error{c.status, c.users, c.databases, c.owners, c.entries, c.inputs} {
		if err := step(ctx); err != nil {
			if no, ok := errors.AsType[refusalError](err); ok {
				return string(no.why), nil
			}
			return "", err
		}
	}
	return "", nil
}

// checker compares one image with a record.
type checker struct {
	rec  *Record
	tree *Tree
	db   *database

	mu    sync.Mutex
	known map[string]State // of folders and links that names lead through
}

// status: the share's packages are the same, no other package minds, and what scripts asked about is the same.
func (c *checker) status(context.Context) error {
	after := map[string]string{}
	for _, s := range c.rec.Status {
		if c.db.status.text[s.Key] != s.Before {
			return no("dpkg has another %s", s.Key)
		}
		after[s.Key] = s.After
	}
	for name, text := range c.rec.Queried {
		if c.db.outsider(name) != text {
			return no("a script asked dpkg about %s, which is another one here", name)
		}
	}
	if who := c.db.loose(after); who != "" {
		return no("the shared changes are not closed here: %s goes with them", who)
	}
	return nil
}

// users: names that scripts could look for mean the same, in the order in which they are looked for.
func (c *checker) users(context.Context) error {
	passwd, err := c.tree.Read("etc/passwd")
	if err != nil {
		return err
	}
	group, err := c.tree.Read("etc/group")
	if err != nil {
		return err
	}
	here := ownerNames(string(passwd), string(group))
	for id, name := range c.rec.Owners {
		if here[id] != name {
			return no("%s is %q here, not %q", id, here[id], name)
		}
	}
	words := toSet(c.rec.Words)
	for file, there := range c.rec.Users {
		here, err := c.tree.Read(file)
		if err != nil {
			return err
		}
		if who := differentUser(there, userLines(string(here)), words); who != "" {
			return no("/%s differs in %s", file, who)
		}
	}
	return nil
}

// differentUser gives a name of passwd(5) or group(5) for which two files answer differently and that counts: one that
// both have, or a word of the scripts. Numbers of users that only one of the images has can appear nowhere else: each
// file that the record brings has an owner that both images know.
func differentUser(first, second map[string]string, words map[string]bool) string {
	for _, pair := range [][2]map[string]string{{first, second}, {second, first}} {
		for name, line := range pair[0] {
			other, both := pair[1][name]
			if line != other && (both || words[name] || name == "") {
				return fmt.Sprintf("%q", name)
			}
		}
	}
	return ""
}

// userLines gives the sum of the first line of each name: shadow(5) has what must not lie around.
func userLines(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		name, _, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-") {
			name = "" // NIS: answers for every name
		}
		if _, twice := out[name]; !twice {
			sum := sha256.Sum256([]byte(line))
			out[name] = hex.EncodeToString(sum[:8])
		}
	}
	return out
}

// databases: apt's marks and debconf's questions of the share's packages are the same.
func (c *checker) databases(context.Context) error {
	for _, d := range []struct {
		file    string
		key     func(string) string
		changes []StanzaChange
		whole   bool // a question of a package that the first image did not have counts too
	}{
		{extendedFile, packageKey, c.rec.Extended, false}, {configFile, debconfKey, c.rec.Config, true}, {templatesFile, debconfKey, c.rec.Template, true},
	} {
		text, err := c.tree.Read(d.file)
		if err != nil {
			return err
		}
		here := parseStanzas(text, d.key)
		wanted := map[string]bool{}
		for _, s := range d.changes {
			wanted[s.Key] = true
			if here.text[s.Key] != s.Before {
				return no("/%s has another %s", d.file, s.Key)
			}
		}
		for _, k := range here.keys {
			if d.whole && !wanted[k] && ownsQuestion(here.text[k], c.db.share) {
				return no("/%s has %s, which the recorded image had not", d.file, k)
			}
		}
	}
	return c.diversions()
}

// diversions: those that only one of the images has are of no file of the share.
func (c *checker) diversions() error {
	text, err := c.tree.Read(diversionsFile)
	if err != nil {
		return err
	}
	here, there := diversionsOf(string(text)), diversionsOf(c.rec.Diversions)
	paths := toSet(c.rec.Paths)
	for _, pair := range [][2]map[[3]string]bool{{here, there}, {there, here}} {
		for d := range pair[0] {
			if !pair[1][d] && (paths[d[0]] || paths[d[1]]) {
				return no("/%s is diverted", d[0])
			}
		}
	}
	return c.overrides()
}

// overrides: those of owners and modes that only one of the images has are of no file of the share.
func (c *checker) overrides() error {
	text, err := c.tree.Read(overridesFile)
	if err != nil {
		return err
	}
	here, there := toSet(strings.Split(string(text), "\n")), toSet(strings.Split(c.rec.Overrides, "\n"))
	paths := toSet(c.rec.Paths)
	for _, pair := range [][2]map[string]bool{{here, there}, {there, here}} {
		for line := range pair[0] {
			words := strings.SplitN(line, " ", 4) // owner, group, mode, name
			if !pair[1][line] && len(words) == 4 && paths[strings.TrimPrefix(words[3], "/")] {
				return no("dpkg has another owner or mode for %s", words[3])
			}
		}
	}
	return nil
}

// diversionsOf reads dpkg's three lines a diversion: from, to, by whom.
func diversionsOf(text string) map[[3]string]bool {
	out := map[[3]string]bool{}
	lines := strings.Split(text, "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		out[[3]string{strings.TrimPrefix(lines[i], "/"), strings.TrimPrefix(lines[i+1], "/"), lines[i+2]}] = true
	}
	return out
}

// owners: no other package has a file of the share, unless it had on the recorded image.
func (c *checker) owners(ctx context.Context) error {
	paths := toSet(c.rec.Paths)
	for _, key := range c.db.status.keys {
		if _, ours := c.db.share[key]; ours {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		files, err := filesOf(c.tree, c.db.status.text[key])
		if err != nil {
			return err
		}
		for _, name := range files {
			if paths[name] && !c.rec.Shared[name] {
				return no("/%s is of %s too", name, key)
			}
		}
	}
	return nil
}

// entries: what the record changes is as it was there. Of a package's own files only the type counts, because dpkg
// replaces them without a look; a file that the owner of the image removed comes back with dpkg too.
func (c *checker) entries(ctx context.Context) error {
	made := map[string]bool{} // folders that the record makes
	for _, e := range c.rec.Entries {
		if e.Before.Type == TypeNone && e.After.Type == TypeDir {
			made[e.Name] = true
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers())
	for start := 0; start < len(c.rec.Entries); {
		end, dir := start+1, path.Dir(c.rec.Entries[start].Name)
		for end < len(c.rec.Entries) && path.Dir(c.rec.Entries[end].Name) == dir {
			end++
		}
		part := c.rec.Entries[start:end]
		start = end
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return c.folder(dir, part, made[dir])
		})
	}
	return group.Wait()
}

// folder checks the entries of one folder.
func (c *checker) folder(name string, part []Entry, made bool) error {
	dir, err := c.tree.open(strings.TrimPrefix(name, "."), unix.O_RDONLY|unix.O_DIRECTORY)
	if missing(err) && (made || !slices.ContainsFunc(part, func(e Entry) bool { return e.Before.Type != TypeNone || e.After.Type != TypeNone })) {
		return nil
	}
	if missing(err) {
		return no("/%s is no folder", name)
	}
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a folder
	for _, e := range part {
		s, err := statAt(int(dir.Fd()), path.Base(e.Name))
		if err != nil {
			return err
		}
		if e.Owned {
			if s.Type == TypeDir || s.Type == TypeSpecial {
				return no("/%s is no file", e.Name)
			}
			continue
		}
		if !s.alike(e.Before) {
			return no("/%s was another one before", e.Name)
		}
		if s.Type == TypeFile {
			if sum, err := c.tree.hash(e.Name); err != nil || sum != e.Before.Hash {
				return errors.Join(err, no("/%s had another content before", e.Name))
			}
		}
	}
	return nil
}

// inputs: every look gives what it gave.
func (c *checker) inputs(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers())
	const batch = 128
	for at := 0; at < len(c.rec.Inputs); at += batch {
		part := c.rec.Inputs[at:min(at+batch, len(c.rec.Inputs))]
		group.Go(func() error {
			for _, in := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := c.input(in); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// lstat remembers what names lead through.
func (c *checker) lstat(name string) (State, error) {
	c.mu.Lock()
	s, ok := c.known[name]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	s, err := c.tree.Lstat(name)
	if err == nil && s.Type != TypeFile {
		c.mu.Lock()
		c.known[name] = s
		c.mu.Unlock()
	}
	return s, err
}

func (c *checker) input(in Input) error {
	real, ok, err := resolve(c.lstat, in.Name, !in.NoFollow)
	if err != nil {
		return err
	}
	if !ok {
		return no("/%s leads nowhere", in.Name)
	}
	if in.Want == WantConf {
		got, err := confCase(c.tree, real, in.Old, in.New)
		if err == nil && got != in.Case {
			err = no("/%s is %s, not %s", real, got, in.Case)
		}
		return err
	}
	s, err := c.lstat(real)
	if err != nil {
		return err
	}
	same := false
	switch in.Want {
	case WantType:
		same = s.Type == in.State.Type || s.Type != TypeDir && in.State.Type != TypeDir && s.Type != TypeSpecial && in.State.Type != TypeSpecial
	case WantState:
		same = s.alike(in.State)
	case WantThere:
		same = present(s).alike(present(in.State))
	case WantFile:
		if same = s.alike(in.State); same {
			s.Hash, err = c.tree.hash(real)
			same = s.Same(in.State)
		}
	case WantNames:
		if same = s.alike(in.State); same {
			var names []string
			if names, err = c.tree.List(real); err == nil {
				names, err = counted(c.lstat, real, names, in.Only)
			}
			same = namesSum(names) == in.Names
		}
	}
	if err == nil && !same {
		err = no("/%s was another one when it was looked at (%s)", in.Name, in.Want)
	}
	return err
}
