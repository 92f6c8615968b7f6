package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// sourceMost bounds a script of the repository, in bytes.
const scriptMost = 4 << 20

// stepCodes are the codes of failing steps.
var stepCodes = map[recipe.StepKind]string{
	recipe.StepPackages: CodePackages, recipe.StepUsers: CodeUser, recipe.StepFiles: CodeFile,
	recipe.StepScript: CodeScript, recipe.StepServices: CodeService, recipe.StepCloudInit: CodeCloudInit,
}

// do runs one step of the plan.
func (m *making) do(ctx context.Context, s recipe.Step) error {
	var err error
	switch s.Kind {
	case recipe.StepPackages:
		err = m.packages(ctx, s.Packages)
	case recipe.StepUsers:
		return m.users(ctx, s)
	case recipe.StepFiles:
		return m.files(ctx, s)
	case recipe.StepScript:
		err = m.script(ctx, s)
	case recipe.StepServices:
		return m.services(ctx, s)
	case recipe.StepCloudInit:
		err = m.cloudInit(ctx, s.Datasources)
	default:
		err = errs.New(errs.Invalid, CodeScript, "Kiln does not know steps of the kind %q.", s.Kind)
	}
	return m.stepError(err, s, s.Where)
}

// stepError says in words which step failed and where it is written.
func (m *making) stepError(err error, s recipe.Step, at errs.Where) error {
	if err == nil {
		return nil
	}
	what := map[recipe.StepKind]string{
		recipe.StepPackages: "The packages of the step %q cannot be installed.", recipe.StepUsers: "A user of the step %q cannot be made.",
		recipe.StepFiles: "A file of the step %q cannot be laid into the image.", recipe.StepScript: "The script %q failed.",
		recipe.StepServices: "A unit of the step %q cannot be switched.", recipe.StepCloudInit: "The step %q cannot tell cloud-init where to ask.",
	}[s.Kind]
	return errs.Wrap(err, errs.KindOf(err), codeOr(err, stepCodes[s.Kind]), what, s.Name).At(at)
}

// item is the place of the i-th entry of a list of a step: the list itself stands at the recipe's top, or in steps[n].
func item(s recipe.Step, list string, i int) errs.Where {
	at := s.Where
	if strings.HasPrefix(at.Field, "steps[") {
		at.Field += "." + list
	} else {
		at.Field = list
	}
	at.Field += fmt.Sprintf("[%d]", i)
	return at
}

func (m *making) packages(ctx context.Context, names []string) error {
	a, err := m.install(ctx, "", names)
	if err != nil {
		return err
	}
	return m.bootFiles(ctx, a)
}

func (m *making) users(ctx context.Context, s recipe.Step) error {
	for i, u := range s.Users {
		if err := m.offline(ctx, userScript(u)); err != nil {
			return m.stepError(fmt.Errorf("user %q: %w", u.Name, err), s, item(s, "users", i))
		}
	}
	return nil
}

func userScript(u recipe.User) string {
	shell := u.Shell
	if shell == "" {
		shell = "/bin/bash"
	}
	var script strings.Builder
	fmt.Fprintf(&script, "id -u %[1]s >/dev/null 2>&1 || useradd --create-home --user-group --shell %[2]s %[1]s\n", quote(u.Name), quote(shell))
	for _, g := range u.Groups {
		fmt.Fprintf(&script, "getent group %[1]s >/dev/null || groupadd %[1]s\nusermod --append --groups %[1]s %[2]s\n", quote(g), quote(u.Name))
	}
	if u.Sudo {
		// Names with a dot would be ignored as files of sudoers.d.
		file := "/etc/sudoers.d/90-kiln-" + strings.ReplaceAll(u.Name, ".", "_")
		fmt.Fprintf(&script, "command -v sudo >/dev/null || { echo 'sudo: true needs the package sudo'; exit 1; }\n"+
			"install -d -m 0750 /etc/sudoers.d\nprintf '%%s ALL=(ALL) NOPASSWD:ALL\\n' %[1]s >%[2]s\nchmod 0440 %[2]s\n", quote(u.Name), quote(file))
	}
	if len(u.SSHKeys) > 0 {
		fmt.Fprintf(&script, "home=$(getent passwd %[1]s | cut -d: -f6)\ninstall -d -m 0700 -o %[1]s -g $(id -g %[1]s) $home/.ssh\n"+
			"printf '%%s\\n' %[2]s >$home/.ssh/authorized_keys\nchown %[1]s: $home/.ssh/authorized_keys\nchmod 0600 $home/.ssh/authorized_keys\n",
			quote(u.Name), quote(strings.Join(u.SSHKeys, "\n")))
	}
	return script.String()
}

// script runs the recipe's own commands, without network.
func (m *making) script(ctx context.Context, s recipe.Step) error {
	text, err := m.in.script(s)
	if err != nil {
		return err
	}
	return m.offline(ctx, text)
}

// script is a step's commands, of the recipe or of the repository.
func (in input) script(s recipe.Step) (string, error) {
	if s.Source == "" {
		return s.Run, nil
	}
	f, err := in.source(s.Source)
	if err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeScript, "The file %s of the repository cannot be read.", s.Source)
	}
	raw, err := io.ReadAll(io.LimitReader(f, scriptMost+1))
	if err == nil && len(raw) > scriptMost {
		err = fmt.Errorf("it has more than %d bytes", scriptMost)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeScript, "The file %s of the repository cannot be read.", s.Source)
	}
	return string(raw), nil
}

// services switches units by their links; no service manager runs in the image now.
func (m *making) services(ctx context.Context, s recipe.Step) error {
	for _, part := range []struct {
		verb  string
		units []string
	}{{"enable", s.Services.Enable}, {"disable", s.Services.Disable}} {
		for i, unit := range part.units {
			if err := m.offline(ctx, "systemctl "+part.verb+" -- "+quote(unit)); err != nil {
				at := item(s, part.verb, i)
				if !strings.HasPrefix(s.Where.Field, "steps[") {
					at.Field = "services." + at.Field
				} else {
					at.Field = strings.Replace(at.Field, "."+part.verb, ".services."+part.verb, 1)
				}
				return m.stepError(fmt.Errorf("%s %q: %w", part.verb, unit, err), s, at)
			}
		}
	}
	return nil
}

// cloudInit writes where cloud-init asks for its data, over what Debian's package asks debconf, and brings
// cloud-init where it is missing.
func (m *making) cloudInit(ctx context.Context, sources []string) error {
	const config = "/etc/cloud/cloud.cfg.d/95_kiln.cfg"
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	_, err = root.Lstat("usr/bin/cloud-init")
	root.Close() //nolint:errcheck // read only
	if err != nil {
		if err := m.packages(ctx, []string{"cloud-init"}); err != nil {
			return err
		}
	}
	return m.offline(ctx, "mkdir -p /etc/cloud/cloud.cfg.d\nprintf '%s\\n' "+quote("datasource_list: ["+strings.Join(sources, ", ")+"]")+" >"+config+"\nchmod 0644 "+config+"\n")
}
