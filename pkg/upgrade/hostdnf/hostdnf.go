// Package hostdnf runs the worker's own dnf and rpm over the tree of an rpm system. Both who plans an upgrade and who makes
// it use it, so that the same options lead to the same answer.
package hostdnf

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// Where the programs find the image's tree, and the control folder: configuration, keys, cache and log.
const (
	ImageInside   = "/image"
	ControlInside = "/run/kiln"
	confInside    = ControlInside + "/dnf.conf"
)

// CodeTools says that a folder of the work disk could not be laid. It never changes.
const CodeTools = "kiln.upgrade.request"

// programs are what a worker needs for rpm systems.
var programs = []string{"/usr/bin/dnf", "/usr/bin/rpm", "/usr/bin/rpmkeys"}

// hostFolders are what those programs need of the host: packages, and not what is below /usr/local. A scriptlet that gets
// out of the image's root comes to where these can be read.
var hostFolders = []string{"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/share", "/etc/ssl/certs"}

// Missing is the error of a worker that lacks a program; nil where all are there.
func Missing() error {
	for _, program := range programs {
		if _, err := os.Stat(program); err != nil {
			return err
		}
	}
	return nil
}

// Tree is a root of its own for the host's programs: they are there to be read, and beside them nothing of the host. dnf and
// not the image's programs reads repositories and holds packages against signatures; what the image's programs do in
// scriptlets they do in the sandbox of this tree, without a network.
type Tree struct {
	Session *disk.Session // where Image is mounted; nil: it is a folder of the host
	Dir     string        // of the tree; made by Lay
	Control string        // the control folder; made by Lay
	Image   string        // the image's tree
	Release string        // $releasever
	Binds   []sandbox.Bind
	Proxy   mirror.Handler // to the repositories
	Time    time.Duration  // of one run; default that of the sandbox
	Log     io.Writer
}

// Foreign reports whether this machine's dnf would take the packages of an architecture (by Debian's name; "" is not known)
// for those of another machine, and find nothing to upgrade.
func Foreign(arch string) bool {
	return arch != "" && arch != runtime.GOARCH && (arch != "i386" || runtime.GOARCH != "amd64")
}

var releaseRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// IsRelease reports whether a text may be Tree.Release.
func IsRelease(text string) bool { return releaseRule.MatchString(text) }

// Lay makes the tree and the control folder. database is the folder of rpm's database in the image, without the first
// slash.
func (t Tree) Lay(database string) error {
	var err error
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "image", "etc/rpm", "etc/ssl/certs", "proc", "dev", "run", "tmp", "root", "var/lib"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(t.Dir, dir), 0o755))
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		err = errors.Join(err, os.Symlink("usr/"+dir, filepath.Join(t.Dir, dir)))
	}
	for _, dir := range []string{"log", "cache", "keys"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(t.Control, dir), 0o755))
	}
	// Plugins of the host's rpm talk to the host's services.
	macros := "%_dbpath /" + database + "\n%_db_backend sqlite\n%__transaction_systemd_inhibit %{nil}\n%__transaction_dbus_announce %{nil}\n" +
		"%__transaction_selinux %{nil}\n%__transaction_audit %{nil}\n%__transaction_syslog %{nil}\n%__transaction_ima %{nil}\n%__transaction_fsverity %{nil}\n"
	err = errors.Join(err,
		os.WriteFile(filepath.Join(t.Dir, "etc/rpm/macros"), []byte(macros), 0o644),
		os.WriteFile(filepath.Join(t.Dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(t.Dir, "etc/group"), []byte("root:x:0:\n"), 0o644))
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeTools, "the work folder cannot be filled")
	}
	return nil
}

// Run runs a program of the host beside the image. Errors are those of sandbox.Run.
func (t Tree) Run(ctx context.Context, out io.Writer, spec sandbox.Spec) error {
	spec.Session, spec.Rootfs, spec.Stdout = t.Session, t.Dir, out
	spec.NoSync = true
	spec.Limits.Time = t.Time
	spec.Inner = ImageInside
	spec.Binds = []sandbox.Bind{
		{Source: t.Image, Target: ImageInside},
		{Source: t.Control, Target: ControlInside},
		{Source: t.Control, Target: ImageInside + ControlInside}, // where dnf finds it for an image
	}
	spec.Binds = append(spec.Binds, t.Binds...)
	for _, dir := range hostFolders {
		if _, err := os.Stat(dir); err != nil {
			continue // not on every architecture
		}
		spec.Binds = append(spec.Binds, sandbox.Bind{Source: dir, Target: dir, ReadOnly: true})
	}
	spec.Env = append(spec.Env, "SYSTEMD_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	return sandbox.Run(ctx, spec)
}

// DNF runs dnf with the configuration that Configure wrote, and gives the last that it said. Only where online is true, it
// reaches the repositories. Errors are those of sandbox.Run; CauseOf tells more about one with sandbox.CodeExit.
func (t Tree) DNF(ctx context.Context, online bool, args ...string) (string, error) {
	cmd := []string{"/usr/bin/dnf", "-c", confInside, "--installroot=" + ImageInside, "--releasever=" + t.Release}
	var output sandbox.Tail
	spec := sandbox.Spec{Args: append(cmd, args...)}
	if online {
		spec.Proxy = t.Proxy
	} else {
		spec.Args = append(spec.Args, "--cacheonly")
	}
	err := t.Run(ctx, io.MultiWriter(t.Log, &output), spec)
	return output.String(), err
}

// Exclude are arguments with which dnf leaves packages alone, and out: "name.architecture".
func Exclude(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = "--exclude=" + id
	}
	return out
}

// Buffer keeps what a program says, and no more than Left bytes of it. Left is below 0 where there was more.
type Buffer struct {
	bytes.Buffer
	Left int
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	if b.Left -= len(p); b.Left >= 0 {
		return b.Buffer.Write(p)
	}
	return len(p), nil
}
