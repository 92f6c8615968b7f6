package offline

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// host are the worker's dnf and rpm, with the mounted copy beside them.
func (d *dnf) host() hostdnf.Tree {
	return hostdnf.Tree{
		Session: d.session, Dir: filepath.Join(d.work.Path, "tools"), Control: d.control(), Image: d.mount.Path(), Release: d.facts.OS.VersionID,
		Proxy: d.proxy, Time: d.cfg.Timeout, Log: d.log,
	}
}

// layTools makes the tree in which they work.
func (d *dnf) layTools() error {
	if err := hostdnf.Missing(); err != nil {
		return errs.Wrap(err, errs.Unavailable, CodePackages, "this worker cannot upgrade rpm systems: install the packages dnf and rpm")
	}
	return d.host().Lay(d.database)
}

// inTools runs a program of the host beside the image.
func (d *dnf) inTools(ctx context.Context, out io.Writer, spec sandbox.Spec) error {
	return d.host().Run(ctx, out, spec)
}

// dnf runs it with the configuration of this upgrade. Only where mirror is true, it reaches the repositories.
func (d *dnf) dnf(ctx context.Context, mirror bool, args ...string) (string, error) {
	output, err := d.host().DNF(ctx, mirror, args...)
	return output, dnfError(err, output)
}

// query runs rpm and gives what it says.
func (d *dnf) query(ctx context.Context, args ...string) (string, error) {
	out := &hostdnf.Buffer{Left: maxStatus}
	err := d.inTools(ctx, out, sandbox.Spec{Args: append([]string{"/usr/bin/rpm"}, args...), Stderr: d.log})
	if err == nil && out.Left < 0 {
		return "", errs.New(errs.Invalid, CodePackages, "the image's rpm database lists more than %d bytes", maxStatus)
	}
	return out.String(), err
}

// dnfError tells whose fault it is that dnf failed.
func dnfError(err error, output string) error {
	cause := hostdnf.CauseOf(output)
	switch {
	case err != nil && errs.CodeOf(err) != sandbox.CodeExit:
		return err
	case cause == hostdnf.Scriptlet:
		return errs.New(errs.Invalid, CodePackages, "a scriptlet of a package failed: %s", scriptletLine(output))
	case err == nil:
		return nil
	}
	switch cause {
	case hostdnf.Full:
		return errs.Wrap(err, errs.TooLarge, CodeDiskFull, "the image's file system is full")
	case hostdnf.Signature:
		return errs.Wrap(err, errs.Unavailable, CodeSignature, "a repository is not signed by a key of its keyring")
	case hostdnf.Checksum:
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "the mirror gave other bytes than the index names")
	case hostdnf.Mirror:
		return errs.Wrap(err, errs.Unavailable, CodeMirror, "packages or lists could not be fetched from the repositories")
	case hostdnf.Unmet:
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
	own, err := ownerConf(root)
	if err != nil {
		return err
	}
	return d.host().Configure(d.req.Repositories, own)
}

// ownerConf reads what the image's owner says of packages that stay, and whether documentation is left out.
func ownerConf(root *os.Root) (map[string]string, error) {
	for _, name := range hostdnf.OwnerFiles {
		text, err := readFile(root, name, 1<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, cannotRead(err, name)
		}
		own, err := hostdnf.OwnerOptions(string(text))
		if err != nil {
			return nil, errs.New(errs.Invalid, CodePackages, "/%s of the image: %v", name, err)
		}
		return own, nil
	}
	return nil, nil
}
