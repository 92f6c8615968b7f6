package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// traces are files of a machine that runs, whoever writes them and when: they are put back as they were before the boot.
// What systemd keeps for packages is not among them.
var traces = regexp.MustCompile(`^(var/lib/(cloud|dhcp|dhcpcd|NetworkManager|chrony|logrotate|sudo|AccountsService|rfkill|systemd/(timers|timesync|coredump|pstore|backlight|rfkill|linger|catalog|random-seed|credential\.secret))` +
	`|tmp|run|var/(tmp|run|spool/cron/atjobs)|etc/(adjtime|\.updated|fstab|growroot-[a-z]+|cloud/cloud-init\.disabled)|var/\.updated)(/|$)`)

// logs are those of the machine; the package manager's own are told of in every upgrade.
var (
	logs        = regexp.MustCompile(`^var/log/`)
	packageLogs = regexp.MustCompile(`^var/log/(apt/.*|dpkg\.log|alternatives\.log)$`)
)

// Bounds of what is put back, in bytes: more is no trace of a boot.
const (
	maxTrace  = 64 << 20
	maxTraces = 256 << 20
)

// maxChanged bounds the names in a report.
const maxChanged = 1000

// repair is what is to be done so that nothing of the boot stays.
type repair struct {
	remove  []string // new files, folders after what is in them
	restore []string // files that are to be as they were
	empty   []string // new logs that keep their place and rights
	changed []string // by the packages' scripts or the servers that they need, and of no package
}

// findTraces compares the tree after the boot with that before. A file that changed between from and to was changed by the
// packages' scripts or for them, and stays, unless it is a trace by its name; every other one goes or comes back.
func (q *quarantine) findTraces(now tree, owned fileOwners) (fix repair) {
	inside := func(name string) bool {
		at := now[name].changed
		return at >= q.from && at <= q.to
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		is := now[name]
		was, had := q.tree[name]
		if had && (is == was || is.folder() && was.folder() && is.mode == was.mode && is.uid == was.uid && is.gid == was.gid) {
			continue
		}
		isTrace := traces.MatchString(name) || strings.Contains(name, q.machine)
		switch isLog := logs.MatchString(name) && !packageLogs.MatchString(name); {
		case had && (isTrace || isLog || !inside(name)):
			fix.restore = append(fix.restore, name)
		case had && !owned.has(name) && !known.MatchString(name):
			fix.changed = append(fix.changed, "/"+name)
		case had:
		case (isTrace && !owned.has(name)) || !inside(name):
			fix.remove = append(fix.remove, name)
		case isLog && is.regular():
			fix.empty = append(fix.empty, name)
		case !is.folder() && !owned.has(name) && !known.MatchString(name) && !isPrivate(name): // in users' folders nothing stays
			fix.changed = append(fix.changed, "/"+name)
		}
	}
	for name := range q.tree {
		if _, still := now[name]; still {
			continue
		}
		dir := path.Dir(name)
		for _, there := now[dir]; !there && dir != "."; _, there = now[dir] {
			dir = path.Dir(dir)
		}
		if traces.MatchString(name) || logs.MatchString(name) || dir != "." && !inside(dir) {
			fix.restore = append(fix.restore, name)
		}
	}
	slices.Sort(fix.restore)
	slices.Reverse(fix.remove)
	return fix
}

// putBackTraces makes the copy as if it had not been booted, but for what the packages' scripts did. copied is the disk
// before the boot. Both are never mounted at once: they have the same identifiers.
func (r *run) putBackTraces(ctx context.Context, copied string) error {
	if err := r.mountRoot(ctx); err != nil {
		return err
	}
	var fix repair
	err := r.inRoot(func(root *os.Root) error {
		now, err := lookAt(ctx, root)
		if err != nil {
			return err
		}
		owned, err := fileLists(root)
		fix = r.boot.findTraces(now, owned)
		return err
	})
	if err != nil {
		return err
	}
	was := map[string]keptFile{}
	if len(fix.restore) > 0 {
		if was, err = r.keptBefore(ctx, copied, fix.restore); err != nil {
			return err
		}
	}
	r.report.Quarantine.PutBack = len(fix.restore) + len(fix.remove) + len(fix.empty)
	r.report.Quarantine.Changed = append(r.report.Quarantine.Changed, fix.changed[:min(len(fix.changed), maxChanged)]...)
	if more := len(fix.changed) - maxChanged; more > 0 {
		r.report.Quarantine.Changed = append(r.report.Quarantine.Changed, fmt.Sprintf("and %d more", more))
	}
	return r.inRoot(func(root *os.Root) error { return fix.apply(root, was) })
}

// keptBefore reads files of the disk as it was before the boot.
func (r *run) keptBefore(ctx context.Context, copied string, names []string) (was map[string]keptFile, err error) {
	if err := r.mount.Unmount(ctx); err != nil {
		return nil, err
	}
	now := r.raw
	r.raw = copied
	err = r.mountRoot(ctx)
	r.raw = now
	if err != nil {
		return nil, err
	}
	was = map[string]keptFile{}
	err = r.inRoot(func(root *os.Root) error {
		left := int64(maxTraces)
		for _, name := range names {
			f, err := keepAny(root, name, min(left, maxTrace))
			if err != nil {
				return failed("/%s was changed by the quarantine boot and cannot be put back: %v", name, err)
			}
			if r.boot.tree[name].powers != "" {
				return failed("/%s was changed by the quarantine boot and had capabilities", name)
			}
			left -= int64(len(f.data))
			was[name] = f
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := r.mount.Unmount(ctx); err != nil {
		return nil, err
	}
	return was, r.mountRoot(ctx)
}

// keepAny is keep for folders too.
func keepAny(root *os.Root, name string, limit int64) (keptFile, error) {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return keep(root, name, limit)
	}
	f := keptFile{mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(st.Uid), int(st.Gid)
	}
	return f, nil
}

// apply changes the mounted copy.
func (fix repair) apply(root *os.Root, was map[string]keptFile) error {
	for _, name := range fix.remove {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return cannotPutBack(err, name)
		}
	}
	for _, name := range fix.restore { // a folder before what is in it
		if err := was[name].putBack(root, name); err != nil {
			return cannotPutBack(err, name)
		}
	}
	for _, name := range fix.empty {
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return cannotPutBack(err, name)
		}
	}
	return nil
}

// putBack replaces what is there now.
func (f keptFile) putBack(root *os.Root, name string) error {
	if f.mode.IsDir() {
		if err := root.Mkdir(name, f.mode.Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return errors.Join(root.Lchown(name, f.uid, f.gid), root.Chmod(name, f.mode.Perm()|f.mode&(fs.ModeSticky|fs.ModeSetgid)))
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	return f.write(root, name)
}

func cannotPutBack(err error, name string) error {
	return errs.Wrap(err, errs.Invalid, CodeGate, "the upgraded image was thrown away: /%s, which the quarantine boot changed, cannot be put back", name)
}
