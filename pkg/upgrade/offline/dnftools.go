package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// The tree in which the host's dnf works. The image lies in it, and scriptlets run in the image.
const (
	imageInside = "/image"
	confInside  = controlInside + "/dnf.conf"
)

// hostDNF is what a worker needs for rpm systems.
var hostDNF = []string{"/usr/bin/dnf", "/usr/bin/rpm", "/usr/bin/rpmkeys"}

// hostFolders are what those programs need of the host: packages, and not what is below /usr/local. A scriptlet that gets
// out of the image's root comes to where these can be read.
var hostFolders = []string{"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/share", "/etc/ssl/certs"}

// tools is a root of its own for the host's dnf: the host's programs to be read, and beside them nothing of the host. dnf and
// not the image's programs reads repositories and holds packages against signatures; what the image's programs do in
// scriptlets they do in the sandbox of this tree, without a network.
func (d *dnf) tools() string { return filepath.Join(d.work.Path, "tools") }

// layTools makes that tree.
func (d *dnf) layTools() error {
	for _, program := range hostDNF {
		if _, err := os.Stat(program); err != nil {
			return errs.Wrap(err, errs.Unavailable, CodePackages, "this worker cannot upgrade rpm systems: install the packages dnf and rpm")
		}
	}
	var err error
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "image", "etc/rpm", "etc/ssl/certs", "proc", "dev", "run", "tmp", "root", "var/lib"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(d.tools(), dir), 0o755))
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		err = errors.Join(err, os.Symlink("usr/"+dir, filepath.Join(d.tools(), dir)))
	}
	for _, dir := range []string{"log", "cache", "keys"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(d.control(), dir), 0o755))
	}
	// Plugins of the host's rpm talk to the host's services.
	macros := "%_dbpath /" + d.database + "\n%_db_backend sqlite\n%__transaction_systemd_inhibit %{nil}\n%__transaction_dbus_announce %{nil}\n" +
		"%__transaction_selinux %{nil}\n%__transaction_audit %{nil}\n%__transaction_syslog %{nil}\n%__transaction_ima %{nil}\n%__transaction_fsverity %{nil}\n"
	err = errors.Join(err,
		os.WriteFile(filepath.Join(d.tools(), "etc/rpm/macros"), []byte(macros), 0o644),
		os.WriteFile(filepath.Join(d.tools(), "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(d.tools(), "etc/group"), []byte("root:x:0:\n"), 0o644))
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	return nil
}

// inTools runs a program of the host beside the image.
func (d *dnf) inTools(ctx context.Context, out io.Writer, spec sandbox.Spec) error {
	spec.Session, spec.Rootfs, spec.Stdout = d.session, d.tools(), out
	spec.NoSync = true
	spec.Limits.Time = d.cfg.Timeout
	spec.Inner = imageInside
	spec.Binds = []sandbox.Bind{
		{Source: d.mount.Path(), Target: imageInside},
		{Source: d.control(), Target: controlInside},
		{Source: d.control(), Target: imageInside + controlInside}, // where dnf finds it for an image
	}
	for _, dir := range hostFolders {
		if _, err := os.Stat(dir); err != nil {
			continue // not on every architecture
		}
		spec.Binds = append(spec.Binds, sandbox.Bind{Source: dir, Target: dir, ReadOnly: true})
	}
	spec.Env = append(spec.Env, "SYSTEMD_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	return sandbox.Run(ctx, spec)
}

// dnf runs it with the configuration of this upgrade. Only where mirror is true, it reaches the repositories.
func (d *dnf) dnf(ctx context.Context, mirror bool, args ...string) (string, error) {
	cmd := []string{"/usr/bin/dnf", "-c", confInside, "--installroot=" + imageInside, "--releasever=" + d.facts.OS.VersionID}
	var output tailBuffer
	spec := sandbox.Spec{Args: append(cmd, args...)}
	if mirror {
		spec.Proxy = d.proxy
	} else {
		spec.Args = append(spec.Args, "--cacheonly")
	}
	err := d.inTools(ctx, io.MultiWriter(d.log, &output), spec)
	return output.String(), dnfError(err, output.String())
}

// query runs rpm and gives what it says.
func (d *dnf) query(ctx context.Context, args ...string) (string, error) {
	out := &boundedBuffer{left: maxStatus}
	err := d.inTools(ctx, out, sandbox.Spec{Args: append([]string{"/usr/bin/rpm"}, args...), Stderr: d.log})
	if err == nil && out.left < 0 {
		return "", errs.New(errs.Invalid, CodePackages, "the image's rpm database lists more than %d bytes", maxStatus)
	}
	return out.String(), err
}

// boundedBuffer keeps no more than it may.
type boundedBuffer struct {
	bytes.Buffer
	left int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left >= 0 {
		return b.Buffer.Write(p)
	}
	return len(p), nil
}

// dnfError tells whose fault it is that dnf failed.
func dnfError(err error, output string) error {
	failed := errs.CodeOf(err) == sandbox.CodeExit
	said := func(texts ...string) bool {
		for _, t := range texts {
			if strings.Contains(output, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err != nil && !failed:
		return err
	case said("scriptlet failed", "in POSTIN scriptlet", "in PREIN scriptlet", "in POSTTRANS scriptlet", "in PREUN scriptlet", "in POSTUN scriptlet", "in TRIGGER"):
		return errs.New(errs.Invalid, CodePackages, "a scriptlet of a package failed: %s", scriptletLine(output))
	case err == nil:
		return nil
	case said("needed on the / filesystem", "No space left on device"):
		return errs.Wrap(err, errs.TooLarge, CodeDiskFull, "the image's file system is full")
	case said("repomd.xml GPG signature verification error", "Bad GPG signature", "Signing key not found", "GPG signature verification"):
		return errs.Wrap(err, errs.Unavailable, CodeSignature, "a repository is not signed by a key of its keyring")
	case said("Downloading successful, but checksum doesn't match", "checksum doesn't match"):
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "the mirror gave other bytes than the index names")
	case said("Failed to download metadata", "Cannot download", "Failed to synchronize cache", "Error downloading packages", "Status code:"):
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "packages or lists could not be fetched from the repositories")
	case said("Depsolve Error", "nothing provides", "conflicting requests"):
		return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image do not fit together")
	}
	return errs.Wrap(err, errs.Invalid, CodePackages, "the packages of the image could not be upgraded")
}

func scriptletLine(output string) string {
	for line := range strings.Lines(output) {
		if strings.Contains(line, "scriptlet failed") || strings.Contains(line, " scriptlet in rpm package ") {
			return strings.TrimSpace(line[:min(len(line), 300)])
		}
	}
	return ""
}

// writeConf writes dnf's configuration: repositories of the operator and nothing of the image but what its owner excludes.
func (d *dnf) writeConf(root *os.Root) error {
	var text strings.Builder
	text.WriteString("[main]\nreposdir=/nonexistent\nvarsdir=/nonexistent\nplugins=0\nkeepcache=1\nassumeyes=1\nbest=0\nobsoletes=1\ninstall_weak_deps=0\n" +
		"clean_requirements_on_remove=0\ninstallonly_limit=0\nretries=3\ntimeout=60\nmetadata_expire=3600\n" +
		"cachedir=" + controlInside + "/cache\nlogdir=" + controlInside + "/log\nproxy=http://" + sandbox.ProxyAddress + "\n")
	own, err := ownerConf(root)
	if err != nil {
		return err
	}
	for name, value := range own {
		fmt.Fprintf(&text, "%s=%s\n", name, value)
	}
	for i, r := range d.req.Repositories {
		keys, err := os.ReadFile(r.Keys)
		if err != nil {
			return errs.Wrap(err, errs.Invalid, CodeRequest, "cannot read the keys of the repository %s", r.ID)
		}
		name := fmt.Sprintf("keys/%d.asc", i)
		if err := os.WriteFile(filepath.Join(d.control(), name), keys, 0o644); err != nil { //nolint:gosec // a name of our own
			return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
		}
		signed := 1
		if r.Unsigned {
			signed = 0
		}
		// gpgcheck would put the keys into the image: packages are held against them before anything is changed.
		fmt.Fprintf(&text, "[%s]\nname=%[1]s\nbaseurl=%s\ngpgcheck=0\nrepo_gpgcheck=%d\ngpgkey=file://%s/%s\n", r.ID, r.BaseURL, signed, controlInside, name)
	}
	if err := os.WriteFile(filepath.Join(d.control(), "dnf.conf"), []byte(text.String()), 0o644); err != nil {
		return errs.Wrap(err, errs.Internal, CodeRequest, "the work folder cannot be filled")
	}
	return nil
}

// ownerConf reads what the image's owner says of packages that stay, and whether documentation is left out.
func ownerConf(root *os.Root) (map[string]string, error) {
	for _, name := range []string{"etc/dnf/dnf.conf", "etc/yum.conf"} {
		text, err := readFile(root, name, 1<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, cannotRead(err, name)
		}
		own := mainOptions(string(text))
		kept := map[string]string{}
		if excluded := strings.TrimSpace(own["exclude"] + " " + own["excludepkgs"]); excluded != "" {
			if strings.Trim(excluded, ownerWord) != "" {
				return nil, errs.New(errs.Invalid, CodePackages, "/%s of the image excludes %.200q, which are no names of packages", name, excluded)
			}
			kept["excludepkgs"] = excluded
		}
		if strings.Contains(own["tsflags"], "nodocs") {
			kept["tsflags"] = "nodocs"
		}
		return kept, nil
	}
	return nil, nil
}

// mainOptions reads the section [main]; lines that begin with a space go on with the value before.
func mainOptions(text string) map[string]string {
	own, section, last := map[string]string{}, "", ""
	for line := range strings.Lines(text) {
		words := strings.TrimSpace(line)
		key, value, ok := strings.Cut(words, "=")
		switch {
		case words == "" || words[0] == '#' || words[0] == ';':
		case words[0] == '[':
			section, last = words, ""
		case section != "[main]":
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				own[last] += " " + words
			}
		case ok:
			last = strings.TrimSpace(key)
			own[last] = strings.TrimSpace(value)
		}
	}
	return own
}

// ownerWord are the letters of names of packages with wildcards.
const ownerWord = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+._*?[]!:, "
