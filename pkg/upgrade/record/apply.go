package record

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CodeDamaged is the code of a record whose content is not what was recorded. The image that it was being applied to
// must be thrown away, and so must the record.
const CodeDamaged = "kiln.upgrade.record_damaged"

// Apply makes the recorded changes to an image that Fits. dpkg must be run afterwards: triggers are pending. After an
// error the image is in between and must be thrown away. It gives the number of files that came from the record.
func (rec *Record) Apply(ctx context.Context, t *Tree, pack io.ReaderAt) (files int, err error) {
	return (&applier{rec: rec, tree: t, pack: pack}).apply(ctx)
}

func (a *applier) apply(ctx context.Context) (files int, err error) {
	for _, step := range []func(context.Context) error{a.remove, a.folders, a.write, a.link, a.removeFolders, a.merge, a.interests, a.activate, a.log} {
		if err := step(ctx); err != nil {
			return 0, err
		}
	}
	for _, e := range a.rec.Entries {
		if e.After.Type != TypeDir {
			files++
		}
	}
	return files, nil
}

type applier struct {
	rec  *Record
	tree *Tree
	pack io.ReaderAt

	checked int // descriptor of a pack that is known to be as recorded; 0 where it is not
}

// in calls f with the folder of each run of entries that are in one folder.
func (a *applier) in(ctx context.Context, wanted func(Entry) bool, f func(dir int, base string, e Entry) error) error {
	var dir *os.File
	at := ""
	defer func() {
		if dir != nil {
			dir.Close() //nolint:errcheck // a folder
		}
	}()
	for _, e := range a.rec.Entries {
		if !wanted(e) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if parent := path.Dir(e.Name); dir == nil || parent != at {
			if dir != nil {
				dir.Close() //nolint:errcheck // a folder
			}
			var err error
			if dir, err = a.tree.folder(e.Name); err != nil {
				return err
			}
			at = parent
		}
		if err := f(int(dir.Fd()), path.Base(e.Name), e); err != nil {
			return &os.PathError{Op: "replay", Path: e.Name, Err: err}
		}
	}
	return nil
}

// remove takes away every name that goes or is no file of its own then.
func (a *applier) remove(ctx context.Context) error {
	return a.in(ctx, func(e Entry) bool { return e.Before.Type != TypeNone && e.Before.Type != TypeDir && !e.written() },
		func(dir int, base string, _ Entry) error { return unlinked(dir, base) })
}

// written reports whether the entry's content comes from the pack.
func (e Entry) written() bool { return e.After.Type == TypeFile && e.Link == "" }

func unlinked(dir int, base string) error {
	if err := unix.Unlinkat(dir, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// folders makes new ones and gives all of them their owners and modes. The entries are sorted: parents come first.
func (a *applier) folders(ctx context.Context) error {
	for _, e := range a.rec.Entries {
		if e.After.Type != TypeDir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		dir, err := a.tree.folder(e.Name)
		if err != nil {
			return err
		}
		base := path.Base(e.Name)
		if e.Before.Type == TypeNone {
			err = unix.Mkdirat(int(dir.Fd()), base, 0o700)
		}
		if err == nil {
			err = dress(int(dir.Fd()), base, e.After)
		}
		dir.Close() //nolint:errcheck // a folder
		if err != nil {
			return &os.PathError{Op: "replay", Path: e.Name, Err: err}
		}
	}
	return nil
}

// dress sets owner, mode and attributes of a name that is no link.
func dress(dir int, base string, s State) error {
	if err := unix.Fchownat(dir, base, int(s.UID), int(s.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if s.Type == TypeLink {
		return nil
	}
	if err := unix.Fchmodat(dir, base, s.Mode, 0); err != nil {
		return err
	}
	for name, value := range s.Xattrs {
		if err := unix.Lsetxattr(procPath(dir, base), name, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// link makes symbolic links, and further names of files.
func (a *applier) link(ctx context.Context) error {
	return a.in(ctx, func(e Entry) bool { return e.After.Type == TypeLink || e.Link != "" }, func(dir int, base string, e Entry) error {
		if e.Before.Type == TypeNone && e.Owned {
			if err := unlinked(dir, base); err != nil {
				return err
			}
		}
		if e.Link == "" {
			if err := unix.Symlinkat(e.After.Target, dir, base); err != nil {
				return err
			}
			if err := dress(dir, base, e.After); err != nil {
				return err
			}
			return timed(dir, base, e)
		}
		from, err := a.tree.folder(e.Link)
		if err != nil {
			return err
		}
		defer from.Close() //nolint:errcheck // a folder
		return unix.Linkat(int(from.Fd()), path.Base(e.Link), dir, base, 0)
	})
}

// removeFolders takes away folders that went, from the inside out. One that still has something in it, or that another
// package has too, stays: so dpkg does it.
func (a *applier) removeFolders(ctx context.Context) error {
	var gone []string
	for _, e := range a.rec.Entries {
		if e.Before.Type == TypeDir && e.After.Type == TypeNone {
			gone = append(gone, e.Name)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	kept, err := a.others(ctx)
	if err != nil {
		return err
	}
	slices.Reverse(gone)
	for _, name := range gone {
		dir, err := a.tree.folder(name)
		if err != nil {
			return err
		}
		if !kept[name] {
			err = unix.Unlinkat(int(dir.Fd()), path.Base(name), unix.AT_REMOVEDIR)
		}
		dir.Close() //nolint:errcheck // a folder
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "replay", Path: name, Err: err}
		}
	}
	return nil
}

// others are the names that packages outside of the share list.
func (a *applier) others(ctx context.Context) (map[string]bool, error) {
	db, err := readDatabase(a.tree, a.rec.Share)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for key, text := range db.status.text {
		if _, ours := db.share[key]; ours {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		files, err := filesOf(a.tree, text)
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			if real, ok, err := resolve(a.tree.Lstat, name, false); err == nil && ok {
				out[real] = true
			}
		}
	}
	return out, nil
}

// merge puts the share's stanzas into the databases.
func (a *applier) merge(context.Context) error {
	for _, d := range []struct {
		file    string
		key     func(string) string
		changes []StanzaChange
		compare func(a, b string) int
	}{
		{statusFile, packageKey, a.rec.Status, strings.Compare}, {extendedFile, packageKey, a.rec.Extended, nil},
		{configFile, debconfKey, a.rec.Config, strings.Compare}, {templatesFile, debconfKey, a.rec.Template, strings.Compare},
	} {
		if !slices.ContainsFunc(d.changes, func(c StanzaChange) bool { return c.Before != c.After }) {
			continue
		}
		text, err := a.tree.Read(d.file)
		if err != nil {
			return err
		}
		all := parseStanzas(text, d.key)
		for _, c := range d.changes {
			all.set(c.Key, c.After, d.compare)
		}
		if err := a.replace(d.file, all.bytes()); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a file anew, or makes it, with the owner and mode that it has.
func (a *applier) replace(name string, data []byte) error {
	dir, err := a.tree.folder(name)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a folder
	fd, err := unix.Openat(int(dir.Fd()), path.Base(name), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "replay", Path: name, Err: err}
	}
	out := os.NewFile(uintptr(fd), name)
	_, err = out.Write(data)
	return errors.Join(err, out.Close())
}

// interests orders dpkg's lists of who has an interest in a trigger as unpacking the share does.
func (a *applier) interests(context.Context) error {
	for name, lines := range a.rec.Interests {
		text, err := a.tree.Read(name)
		if err != nil {
			return err
		}
		if err := a.replace(name, []byte(behind(string(text), lines))); err != nil {
			return err
		}
	}
	return nil
}

// activate tells dpkg which triggers the share's packages activate: by name as on the recorded image, by file as this
// image's packages have an interest.
func (a *applier) activate(context.Context) error {
	all, err := interests(a.tree)
	if err != nil {
		return err
	}
	old, err := a.tree.Read(pendingFile)
	if err != nil {
		return err
	}
	text := bytes.NewBuffer(old)
	for _, at := range hit(all, toSet(a.rec.Paths)) {
		text.WriteString("/" + at + " -\n")
	}
	for _, name := range a.rec.Triggers {
		if at, file := strings.CutPrefix(name, "/"); file { // only who asked for that very name, not for a folder above it
			if slices.Contains(all, at) {
				text.WriteString(name + " -\n")
			}
			continue
		}
		s, err := a.tree.Lstat(triggersFolder + "/" + name)
		if err != nil {
			return err
		}
		if s.Type == TypeFile {
			text.WriteString(name + " -\n")
		}
	}
	return a.replace(pendingFile, text.Bytes())
}

// log adds to the logs that are there what was added to the recorded ones.
func (a *applier) log(context.Context) error {
	for name, added := range a.rec.Logs {
		old, err := a.tree.Read(name)
		if err != nil {
			return err
		}
		if old == nil {
			continue
		}
		if err := a.replace(name, append(old, added...)); err != nil {
			return err
		}
	}
	return nil
}
