package stable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/disk/stable"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
)

var epoch = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

const (
	offset = 1 << 20
	length = 48 << 20
	id     = "11111111-2222-3333-4444-555555555555"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("makes device nodes and mounts; not in -short")
	}
}

// tree makes a tree with everything that an image may hold. Files come in the order or against it, and at another time.
func tree(t *testing.T, backwards bool) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"a b", "many", "deep/er"} {
		must(os.MkdirAll(at(d), 0o755))
	}
	var steps []func() error
	for i := range 400 {
		steps = append(steps, func() error {
			return os.WriteFile(at(fmt.Sprintf("many/file %03d \"x\"", i)), bytes.Repeat([]byte{byte(i)}, i*37), 0o600)
		})
	}
	steps = append(steps,
		func() error { return os.WriteFile(at("a b/setuid"), []byte("x"), 0o600) },
		func() error { return os.Symlink("/x \"y\" z", at("link")) },
		func() error { return os.Symlink(strings.Repeat("long/", 40), at("deep/er/long")) },
		func() error { return unix.Mknod(at("deep/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return unix.Mkfifo(at("deep/pipe"), 0o640) },
		func() error { return os.WriteFile(at("sparse"), nil, 0o600) },
	)
	if backwards {
		slices.Reverse(steps)
		time.Sleep(1100 * time.Millisecond) // another ctime
	}
	for _, s := range steps {
		must(s())
	}
	must(os.Truncate(at("sparse"), 20<<20))
	must(os.Link(at("many/file 399 \"x\""), at("a b/hard")))
	must(os.Link(at("many/file 399 \"x\""), at("zz hard")))
	must(unix.Setxattr(at("a b/setuid"), "user.note", []byte{0, 1, '\n', '"'}, 0))
	must(os.Lchown(at("a b/setuid"), 12, 70000))
	must(os.Chmod(at("a b/setuid"), 0o4751|os.ModeSetuid))
	must(os.Chmod(at("deep"), 0o1777|os.ModeSticky))
	must(os.Lchown(at("link"), 5, 6))
	must(filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		old := []unix.Timespec{{Sec: 1000000000}, {Sec: 1000000000}}
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, old, unix.AT_SYMLINK_NOFOLLOW))
	}))
	if backwards {
		must(os.Chtimes(at("many"), epoch.Add(-time.Hour), epoch.Add(-time.Hour)))
	}
	must(os.Chtimes(at("zz hard"), epoch.Add(time.Hour), epoch.Add(time.Hour))) // younger than the epoch
	return dir
}

func write(t *testing.T, tree, image string) error {
	t.Helper()
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(offset+length+offset), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return stable.Ext4{Image: image, Offset: offset, Length: length, UUID: id, Label: "root", Epoch: epoch, Log: t.Output()}.Write(t.Context(), tree, t.TempDir())
}

// listing tells all that matters of a tree, a line a file.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "lost+found" {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %v %d:%d dev %d links %d mtime %d", rel, info.Mode(), st.Uid, st.Gid, st.Rdev, st.Nlink, min(st.Mtim.Sec, epoch.Unix()))
		if info.IsDir() {
			line = fmt.Sprintf("%s %v %d:%d", rel, info.Mode(), st.Uid, st.Gid)
		} else if first, twice := inodes[st.Ino]; twice {
			line += " is " + first
		} else {
			inodes[st.Ino] = rel
		}
		switch {
		case info.Mode().IsRegular():
			line += " " + digest.File(t, p)
		case info.Mode()&os.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			line += " -> " + to
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(p, "user.note", value); err == nil {
			line += fmt.Sprintf(" note %q", value[:n])
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

func TestTheSameTreeGivesTheSameBytes(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	one, two, from := filepath.Join(dir, "one"), filepath.Join(dir, "two"), tree(t, false)
	if err := write(t, from, one); err != nil {
		t.Fatal(err)
	}
	if err := write(t, tree(t, true), two); err != nil {
		t.Fatal(err)
	}
	if a, b := digest.File(t, one), digest.File(t, two); a != b {
		t.Errorf("two writes of one tree: %s and %s", a, b)
	}
	if said, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", one, offset)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, said)
	}
	s, err := disk.OpenSession(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountRaw(t.Context(), one, offset, length, "ext4", "ro")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, m.HostPath()), listing(t, from); got != want {
		gots, wants := strings.Split(got, "\n"), strings.Split(want, "\n")
		for i := range min(len(gots), len(wants)) {
			if gots[i] != wants[i] {
				t.Errorf("got  %s\nwant %s", gots[i], wants[i])
			}
		}
		t.Errorf("%d files became %d", len(wants), len(gots))
	}
	if info, err := os.Stat(one); err != nil || info.Sys().(*syscall.Stat_t).Blocks > 24<<11 {
		t.Errorf("the hole of a file is stored: %v blocks", info.Sys().(*syscall.Stat_t).Blocks)
	}
}

func TestWhatCannotBeWrittenIsNamed(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		file string
		size int64
		code string
		kind errs.Kind
	}{
		"line break": {"a\nb", 1, stable.CodeName, errs.Invalid},
		"an inode":   {"<7>", 1, stable.CodeName, errs.Invalid},
		"too large":  {"big", 60 << 20, disk.CodeFull, errs.TooLarge},
	} {
		from := t.TempDir()
		if err := os.WriteFile(filepath.Join(from, c.file), bytes.Repeat([]byte("x"), int(c.size)), 0o600); err != nil {
			t.Fatal(err)
		}
		err := write(t, from, filepath.Join(dir, "out"))
		if errs.CodeOf(err) != c.code || errs.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}
