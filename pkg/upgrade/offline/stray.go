package offline

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// known are files that maintainer scripts, triggers and the package manager make: they are in no package's list and are
// right where they are. Without the first slash.
var known = regexp.MustCompile(`^(var/(log|cache|backups)/|var/lib/(dpkg|apt|aptitude|ucf|systemd|initramfs-tools|grub|misc|python|dkms|man-db|dbus|polkit-1|sgml-base|xml-core|ieee-data|dhcp|update-notifier|ubuntu-advantage|command-not-found)/` +
	`|boot/(initrd\.img-|grub/)|(vmlinuz|initrd\.img)(\.old)?$` +
	`|etc/(alternatives|ssl/certs|ca-certificates|rc[0-9S]\.d|insserv|default|modprobe\.d|apparmor\.d/(local|cache|disable)|(systemd|xdg/systemd)/(system|user)/[^/]+\.(wants|requires))/` +
	`|etc/systemd/(system|user)/[^/]+\.service$|etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|etc/(ld\.so\.cache|\.pwd\.lock|ca-certificates\.conf(\.dpkg-old)?|shells|papersize|mtab|environment|localtime|timezone)$` +
	`|(usr/)?lib/modules/[^/]+/(modules\.|updates/)|usr/(share|lib/[^/]+)/(mime|icons|applications|glib-2\.0|info|gdk-pixbuf[^/]*|gtk-[^/]*|gio|gconv|sgml|xml|locale)/|usr/lib/(locale|gconv|[^/]+/gconv)/)` +
	`|(/__pycache__/|\.py[co]$)`)

// private are folders of users, and those that are empty at every boot: no package has anything to leave there.
var private = []string{"root", "home", "tmp", "run", "var/tmp", "srv", "mnt", "media"}

func isPrivate(name string) bool {
	return slices.ContainsFunc(private, func(dir string) bool { return strings.HasPrefix(name, dir+"/") })
}

// slack is how far a file's time may lie in the future: clocks differ.
const slack = 24 * time.Hour

// checkFiles compares the files with those before: no program got more rights but by its package, no device came, no
// user's file was changed, no file is from the future. What scripts left in users' folders is removed, and what belongs
// to nobody is listed.
func (r *run) checkFiles(ctx context.Context, root *os.Root, old, now tree) error {
	owned, err := fileLists(root)
	if err != nil {
		return err
	}
	ships := func(name string, is node) error { return r.checkPrivilege(ctx, name, is, owned) }
	return r.compareFiles(root, old, now, owned, ships)
}

// compareFiles is checkFiles with what the package manager knows: who owns files, and an error for a program that got
// rights which no package gives it.
func (r *run) compareFiles(root *os.Root, old, now tree, owned fileOwners, ships func(string, node) error) error {
	var bad []string
	end := time.Now().Add(slack).Unix()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		is := now[name]
		was, had := old[name]
		if had && is == was {
			continue
		}
		if !is.folder() {
			r.report.Changed++
		}
		switch {
		case is.device():
			bad = append(bad, "/"+name+" is a new device")
		case is.regular() && is.modified > end && (!had || is.modified != was.modified):
			bad = append(bad, "/"+name+" is dated "+time.Unix(is.modified, 0).UTC().Format(time.DateOnly)+", in the future")
		case had && is.regular() && isPrivate(name) && !owned.has(name):
			bad = append(bad, "/"+name+" belongs to a user and was changed")
		}
		if is.privileged() && !was.covers(is) {
			if err := ships(name, is); err != nil {
				return err
			}
		}
	}
	if len(bad) > 0 {
		return failed("%s", shown(bad))
	}
	return r.sweepStrays(root, old, now, owned)
}

// covers reports whether a program had the rights already. One that was setuid may have capabilities instead: that is less.
func (n node) covers(is node) bool {
	bits := is.mode & 0o6000
	return n.privileged() && n.uid == is.uid && n.gid == is.gid && n.mode&bits == bits && (is.powers == n.powers || bits == 0 && n.mode&0o4000 != 0)
}

// checkPrivilege: a program may have new rights only if a package that the upgrade changed ships it with them.
func (r *run) checkPrivilege(ctx context.Context, name string, is node, owned fileOwners) error {
	for _, p := range r.plan.packages {
		if !slices.Contains(owned.of(name), p.Name) || is.powers != "" {
			continue
		}
		ships := false
		err := r.inPackage(ctx, p, func(t *tar.Reader) error {
			for {
				h, err := t.Next()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if merged(strings.TrimPrefix(h.Name, "./")) == merged(name) && uint32(h.Mode)&0o6000 == is.mode&0o6000 {
					ships = true
					return nil
				}
			}
		})
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, CodeMirror, "the package %s cannot be looked into", p.Name)
		}
		if ships {
			r.report.Setuid = append(r.report.Setuid, "/"+name+" ("+p.Name+")")
			return nil
		}
	}
	what := "made setuid or setgid"
	if is.powers != "" {
		what = "given capabilities"
	}
	return failed("/%s was %s by a script: no package ships it so", name, what)
}

// sweepStrays removes what scripts left in folders of users, and lists the rest that belongs to nobody.
func (r *run) sweepStrays(root *os.Root, old, now tree, owned fileOwners) error {
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(now))) { // what is in a folder before the folder
		if _, had := old[name]; had || owned.has(name) || known.MatchString(name) || r.isLeftover(name) {
			continue
		}
		if isPrivate(name) {
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return failed("/%s was left by a script and cannot be removed: %v", name, err)
			}
		} else if now[name].folder() || !exists(root, name) && now[name].regular() {
			continue // identity files are gone again
		}
		r.report.Strays = append(r.report.Strays, upgrade.Stray{Path: "/" + name, Removed: isPrivate(name)})
	}
	slices.Reverse(r.report.Strays)
	return nil
}

// isLeftover reports whether a file is told as the other text of a configuration file.
func (r *run) isLeftover(name string) bool {
	return slices.ContainsFunc(r.report.Conffiles, func(c upgrade.Conffile) bool { return c.Left == "/"+name })
}

// fileOwners are the packages that list a file, by its merged name.
type fileOwners map[string][]string

func (o fileOwners) of(name string) []string { return o[merged(name)] }

func (o fileOwners) has(name string) bool { return len(o.of(name)) > 0 }

// fileLists reads dpkg's lists, and where diversions put files.
func fileLists(root *os.Root) (fileOwners, error) {
	names, err := fs.Glob(root.FS(), "var/lib/dpkg/info/*.list")
	if err != nil {
		return nil, cannotRead(err, "var/lib/dpkg/info")
	}
	owned := fileOwners{}
	for _, name := range names {
		text, err := readFile(root, name, maxStatus)
		if err != nil {
			return nil, cannotRead(err, name)
		}
		pkg, _, _ := strings.Cut(strings.TrimSuffix(name[strings.LastIndexByte(name, '/')+1:], ".list"), ":")
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			file := merged(strings.TrimPrefix(s.Text(), "/"))
			owned[file] = append(owned[file], pkg)
		}
	}
	text, err := readFile(root, "var/lib/dpkg/diversions", maxStatus)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, cannotRead(err, "var/lib/dpkg/diversions")
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i+2 < len(lines); i += 3 { // from, to, by whom
		to := merged(strings.TrimPrefix(lines[i+1], "/"))
		owned[to] = append(owned[to], owned[merged(strings.TrimPrefix(lines[i], "/"))]...)
	}
	return owned, nil
}

// merged names a file as it lies in a system whose /bin, /lib and /sbin are links into /usr: packages may list the old names.
func merged(name string) string {
	for _, dir := range []string{"bin/", "sbin/", "lib/", "lib32/", "lib64/", "libx32/"} {
		if strings.HasPrefix(name, dir) {
			return "usr/" + name
		}
	}
	return name
}
