package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// sourceMost bounds a file of the repository that a recipe lays into the image.
const sourceMost = 1 << 30

// customise does what the recipe asks for beyond packages: users, files, scripts, services, in this order, so that
// files may belong to the users, and scripts and units find the files.
func (m *making) customise(ctx context.Context) error {
	for _, do := range []func(context.Context) error{m.users, m.files, m.scripts, m.services} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *making) at(list string, i int) errs.Where {
	return errs.Where{File: m.recipe.Path, Field: fmt.Sprintf("%s[%d]", list, i)}
}

func (m *making) users(ctx context.Context) error {
	for i, u := range m.recipe.Users {
		shell := u.Shell
		if shell == "" {
			shell = "/bin/bash"
		}
		var script strings.Builder
		fmt.Fprintf(&script, "id -u %[1]s >/dev/null 2>&1 || useradd --create-home --user-group --shell %[2]s %[1]s\n", quote(u.Name), quote(shell))
		for _, g := range u.Groups {
			fmt.Fprintf(&script, "getent group %[1]s >/dev/null || groupadd %[1]s\nusermod --append --groups %[1]s %[2]s\n", quote(g), quote(u.Name))
		}
		if len(u.SSHKeys) > 0 {
			fmt.Fprintf(&script, "home=$(getent passwd %[1]s | cut -d: -f6)\ninstall -d -m 0700 -o %[1]s -g $(id -g %[1]s) $home/.ssh\n"+
				"printf '%%s\\n' %[2]s >$home/.ssh/authorized_keys\nchown %[1]s: $home/.ssh/authorized_keys\nchmod 0600 $home/.ssh/authorized_keys\n",
				quote(u.Name), quote(strings.Join(u.SSHKeys, "\n")))
		}
		if err := m.offline(ctx, script.String()); err != nil {
			return errs.Wrap(err, errs.KindOf(err), CodeUser, "The user %q cannot be made.", u.Name).At(m.at("users", i))
		}
	}
	return nil
}

// files are written through an os.Root, so that a link in the image leads nowhere else, and given to their owners
// inside, where the names are known.
func (m *making) files(ctx context.Context) error {
	if len(m.recipe.Files) == 0 {
		return nil
	}
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	var owners strings.Builder
	for i, f := range m.recipe.Files {
		if err := m.lay(root, f); err != nil {
			return errors.Join(errs.Wrap(err, errs.Invalid, CodeFile, "The file %s cannot be laid into the image.", f.Path).At(m.at("files", i)), root.Close())
		}
		owner := f.Owner
		if owner != "" && owner != "root" {
			fmt.Fprintf(&owners, "chown -h %s %s\n", quote(owner), quote(f.Path))
		}
		fmt.Fprintf(&owners, "chmod %04o %s\n", f.FileMode(), quote(f.Path)) // after chown, which drops setuid
	}
	if err := root.Close(); err != nil {
		return errs.Wrap(err, errs.Internal, CodeFile, "The image's tree cannot be closed.")
	}
	if err := m.offline(ctx, owners.String()); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeFile, "A file's owner cannot be set.").At(errs.Where{File: m.recipe.Path, Field: "files"})
	}
	return nil
}

func (m *making) lay(root *os.Root, f recipe.File) error {
	rel := strings.TrimPrefix(f.Path, "/")
	if dir := filepath.Dir(rel); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var from io.Reader = strings.NewReader(f.Content)
	if f.Source != "" {
		src, err := m.source(f.Source)
		if err != nil {
			return err
		}
		defer src.Close() //nolint:errcheck // read only
		from = src
	}
	if err := root.Remove(rel); err != nil && !errors.Is(err, fs.ErrNotExist) { // never through a link
		return err
	}
	to, err := root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, io.LimitReader(from, sourceMost+1))
	if err == nil && n > sourceMost {
		err = fmt.Errorf("it has more than %d bytes", sourceMost)
	}
	return errors.Join(err, to.Close())
}

// source opens a regular file of the repository.
func (m *making) source(name string) (fs.File, error) {
	if m.req.Files == nil {
		return nil, fs.ErrNotExist
	}
	f, err := m.req.Files.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// scripts run one by one without network.
func (m *making) scripts(ctx context.Context) error {
	for i, s := range m.recipe.Scripts {
		text := s.Run
		if s.Source != "" {
			f, err := m.source(s.Source)
			if err != nil {
				return errs.Wrap(err, errs.Invalid, CodeScript, "The script %q cannot be read.", s.Name).At(m.at("scripts", i))
			}
			raw, err := io.ReadAll(io.LimitReader(f, 4<<20))
			if err = errors.Join(err, f.Close()); err != nil {
				return errs.Wrap(err, errs.Invalid, CodeScript, "The script %q cannot be read.", s.Name).At(m.at("scripts", i))
			}
			text = string(raw)
		}
		if err := m.offline(ctx, text); err != nil {
			return errs.Wrap(err, errs.KindOf(err), CodeScript, "The script %q failed.", s.Name).At(m.at("scripts", i))
		}
	}
	return nil
}

// services switches units by their links; no service manager runs in the image now.
func (m *making) services(ctx context.Context) error {
	for _, part := range []struct {
		verb  string
		units []string
	}{{"enable", m.recipe.Services.Enable}, {"disable", m.recipe.Services.Disable}} {
		for i, unit := range part.units {
			if err := m.offline(ctx, "systemctl "+part.verb+" -- "+quote(unit)); err != nil {
				return errs.Wrap(err, errs.KindOf(err), CodeService, "The unit %q cannot be switched (%s).", unit, part.verb).At(m.at("services."+part.verb, i))
			}
		}
	}
	return nil
}

// offline runs a shell script of any size in the image without network; it stops at the first failing line.
func (m *making) offline(ctx context.Context, script string) error {
	if strings.TrimSpace(script) == "" {
		return nil
	}
	path := filepath.Join(m.work, "script")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The script cannot be handed over.")
	}
	const inside = "/run/kiln-script"
	return m.sandbox(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-e", inside}, Binds: []sandbox.Bind{{Source: path, Target: inside, ReadOnly: true}}})
}

// quote makes one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
