// Package stable writes file systems whose bytes follow from their content alone: the same tree, UUID and epoch give
// the same bytes on any host at any time. The kernel's ext4 cannot do that (it allocates as its writers and flushers
// happen to meet, and gives inodes random generations), so e2fsprogs fills the file system, one file after the other
// in an order of our own.
package stable

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors of this package.
const (
	CodeWrite = "kiln.disk.write" // the file system cannot be made or filled
	CodeName  = "kiln.disk.name"  // a file's name or kind cannot be written
)

// Ext4 is a file system to make.
type Ext4 struct {
	Image          string // raw disk; exists and is at least Offset+Length long
	Offset, Length int64  // bytes; multiples of 4096
	UUID           string // of the file system; also the seed of its directory hashes
	Label          string
	Options        []string  // further arguments of mke2fs
	Epoch          time.Time // when the file system was made, and no file is younger; needed
	Log            io.Writer // what the tools say; nil: nowhere
}

// Write makes the file system and copies tree into it: owners, modes, times of files in whole seconds, links, devices and
// extended attributes. Sockets are left out: nobody listens to them. dir is a folder for what the tools are told.
// tree must not change meanwhile. errs.Invalid CodeName names a file that cannot be copied; errs.TooLarge
// disk.CodeFull says that the tree does not fit.
func (e Ext4) Write(ctx context.Context, tree, dir string) error {
	if e.Log == nil {
		e.Log = io.Discard
	}
	if e.Epoch.Unix() <= 0 {
		return errs.New(errs.Invalid, CodeWrite, "A file system whose bytes are to stay the same needs an epoch.")
	}
	args := append([]string{"-q", "-t", "ext4", "-F", "-U", e.UUID, "-L", e.Label,
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,lazy_itable_init=0,lazy_journal_init=1,nodiscard,root_owner=0:0", e.Offset, e.UUID)}, e.Options...)
	if err := e.tool(ctx, "mke2fs", append(args, e.Image, fmt.Sprintf("%dk", e.Length/1024))...); err != nil {
		return err
	}
	if tree == "" {
		return nil
	}
	script := filepath.Join(dir, "debugfs.commands")
	if err := e.script(tree, dir, script); err != nil {
		return err
	}
	return e.tool(ctx, "debugfs", "-w", "-f", script, fmt.Sprintf("%s?offset=%d", e.Image, e.Offset))
}

// tool runs one of e2fsprogs with its clock at the epoch. debugfs ends with 0 whatever happened, but is silent on
// its standard error then.
func (e Ext4) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC",
		"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(e.Epoch.Unix(), 10), "DEBUGFS_PAGER=cat"}
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = 5 * time.Second
	err := disk.StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	text := said.String()
	if banner := "debugfs "; strings.HasPrefix(text, banner) && text[len(banner)] >= '0' && text[len(banner)] <= '9' {
		_, text, _ = strings.Cut(text, "\n")
	}
	text = strings.TrimSpace(text)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(text, "No space left") || strings.Contains(text, "Could not allocate"):
		return errs.New(errs.TooLarge, disk.CodeFull, "The files do not fit on the file system of %d MiB. There is no space left.", e.Length>>20)
	case err != nil || text != "":
		first, _, _ := strings.Cut(text, "\n")
		return errs.Wrap(err, errs.Internal, CodeWrite, "%s cannot write the file system (install e2fsprogs): %s", name, first)
	}
	return nil
}

// script writes what debugfs has to do.
func (e Ext4) script(tree, dir, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeWrite, "The list of files cannot be written.")
	}
	w := &writer{Ext4: e, out: bufio.NewWriterSize(f, 1<<20), dir: dir, tree: tree, seen: map[uint64]*link{}}
	err = w.folder("")
	if err == nil {
		w.links()
	}
	if err = errors.Join(err, w.out.Flush(), f.Close()); err != nil && errs.CodeOf(err) != CodeName {
		return errs.Wrap(err, errs.Internal, CodeWrite, "The tree cannot be listed.")
	}
	return err
}

// writer lists a tree as commands of debugfs (debugfs(8)), folder by folder in the order of names.
type writer struct {
	Ext4
	out       *bufio.Writer
	dir, tree string
	seen      map[uint64]*link // files with several names, by inode
	order     []*link
	values    int
}

// link is a file with several names.
type link struct {
	first string
	names int
}

// folder lists one folder, rel is its path below the tree without a slash in front.
func (w *writer) folder(rel string) error {
	entries, err := os.ReadDir(filepath.Join(w.tree, rel)) // sorted by name
	if err != nil {
		return err
	}
	if rel == "" {
		info, err := os.Stat(w.tree) // it may be named by a descriptor, which is a link
		if err != nil {
			return err
		}
		w.say("cd /")
		w.attributes("/", info, info.Sys().(*syscall.Stat_t), 0) //nolint:forcetypeassert // of a file on Linux
		entries = slices.DeleteFunc(entries, func(d fs.DirEntry) bool { return d.Name() == "lost+found" })
	} else {
		w.say("cd " + quote("/"+rel))
	}
	var folders []string
	for _, d := range entries {
		path := filepath.Join(rel, d.Name())
		if strings.ContainsFunc(d.Name(), func(r rune) bool { return r < ' ' || r == 0x7f }) || strings.HasPrefix(d.Name(), "<") {
			return errs.New(errs.Invalid, CodeName, "The file %q cannot be in an image whose bytes are to stay the same: its name has control characters or begins with <.", "/"+path)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := w.entry(path, info); err != nil {
			return err
		}
		if d.IsDir() {
			folders = append(folders, path)
		}
	}
	for _, path := range folders {
		if err := w.folder(path); err != nil {
			return err
		}
	}
	return nil
}

// entry lists one file of the folder that debugfs is in.
func (w *writer) entry(path string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // of a file on Linux
	name := quote(info.Name())
	if st.Nlink > 1 && !info.IsDir() {
		if l := w.seen[st.Ino]; l != nil {
			l.names++
			// ln alone does not enlarge a full folder, mknod does: what it puts there leaves the room.
			w.say("mknod " + name + " p\nrm " + name + "\nln " + quote("/"+l.first) + " " + name)
			return nil
		}
		l := &link{first: path, names: 1}
		w.seen[st.Ino] = l
		w.order = append(w.order, l)
	}
	var made uint32 // the mode that debugfs gives
	switch info.Mode().Type() {
	case fs.ModeDir:
		w.say("mkdir " + name)
		made = unix.S_IFDIR | 0o755
	case 0:
		w.say("write " + quote(filepath.Join(w.tree, path)) + " " + name)
		made = st.Mode
	case fs.ModeSymlink:
		target, err := os.Readlink(filepath.Join(w.tree, path))
		if err != nil {
			return err
		}
		if strings.ContainsRune(target, '\n') {
			return errs.New(errs.Invalid, CodeName, "The symbolic link %q cannot be in an image whose bytes are to stay the same: its target has a line break.", "/"+path)
		}
		w.say("symlink " + name + " " + quote(target))
		made = unix.S_IFLNK | 0o777
	case fs.ModeDevice | fs.ModeCharDevice, fs.ModeDevice:
		kind := "b"
		if info.Mode()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		w.say(fmt.Sprintf("mknod %s %s %d %d", name, kind, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	case fs.ModeNamedPipe:
		w.say("mknod " + name + " p")
	default:
		delete(w.seen, st.Ino)
		return nil
	}
	w.attributes(name, info, st, made)
	return w.extended(name, path)
}

func (w *writer) attributes(name string, info fs.FileInfo, st *syscall.Stat_t, made uint32) {
	set := func(field, value string) { w.say("sif " + name + " " + field + " " + value) }
	if st.Mode != made {
		set("mode", fmt.Sprintf("0%o", st.Mode))
	}
	if st.Uid != 0 {
		set("uid", strconv.FormatUint(uint64(st.Uid), 10))
	}
	if st.Gid != 0 {
		set("gid", strconv.FormatUint(uint64(st.Gid), 10))
	}
	// A folder's time says when something was last put into it: with packages unpacked side by side, chance.
	if t := max(info.ModTime().Unix(), 0); t < w.Epoch.Unix() && !info.IsDir() {
		set("mtime", "@"+strconv.FormatInt(t, 10))
	}
}

// extended lists the extended attributes: capabilities and access lists.
func (w *writer) extended(name, path string) error {
	full := filepath.Join(w.tree, path)
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(full, list)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return &fs.PathError{Op: "listxattr", Path: full, Err: err}
	}
	keys := strings.Split(strings.TrimRight(string(list[:max(n, 0)]), "\x00"), "\x00")
	slices.Sort(keys)
	for _, key := range keys {
		if key == "" || strings.ContainsAny(key, "\n\"") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(full, key, value)
		if err != nil {
			return &fs.PathError{Op: "getxattr", Path: full, Err: err}
		}
		file := filepath.Join(w.dir, "xattr"+strconv.Itoa(w.values))
		w.values++
		if err := os.WriteFile(file, value[:n], 0o600); err != nil {
			return err
		}
		w.say("ea_set -f " + quote(file) + " " + name + " " + quote(key))
	}
	return nil
}

// links sets how many names the files with several have: ln only adds a name.
func (w *writer) links() {
	w.say("cd /")
	for _, l := range w.order {
		if l.names > 1 {
			w.say("sif " + quote("/"+l.first) + " links_count " + strconv.Itoa(l.names))
		}
	}
}

func (w *writer) say(line string) {
	w.out.WriteString(line + "\n") //nolint:errcheck // Flush tells
}

// quote makes one word of libss.
func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
