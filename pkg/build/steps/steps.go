// Package steps turns a recipe's plan into shell scripts for a tool that runs them as root inside an image: in a
// chroot (disk-image-create) or in a running machine (packer). What a step does is the same in both.
package steps

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors of steps; the native builder's steps fail with the same ones.
const (
	CodePackages  = "kiln.build.packages"
	CodeUser      = "kiln.build.user"
	CodeFile      = "kiln.build.file"
	CodeScript    = "kiln.build.script"
	CodeService   = "kiln.build.service"
	CodeCloudInit = "kiln.build.cloud_init"
)

// Runner is the program in the folder of the steps: `sh do 03` does the third one.
const Runner = "do"

// Bounds of what a step reads from the repository, in bytes.
const (
	maxScript = 4 << 20
	maxFile   = 1 << 30
)

// Set is a plan as a folder of scripts.
type Set struct {
	Steps []recipe.Step
	token string // begins the lines that tell of steps; nothing in the image can guess it
}

// Lay writes the plan's steps into dir, which it makes. token must be a word that nobody can guess. The error names
// the step that cannot be laid.
func Lay(dir, token string, r *recipe.Recipe, files recipe.Files) (*Set, error) {
	s := &Set{Steps: r.Plan, token: token}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeFile, "The folder of the steps cannot be made.")
	}
	for i, step := range r.Plan {
		l := layer{dir: filepath.Join(dir, Number(i)), recipe: r, step: step, files: files}
		if err := l.lay(); err != nil {
			return nil, errs.Wrap(err, errs.Invalid, Code(step.Kind), "The step %q cannot be read.", step.Name).At(step.Where)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, Runner), []byte(s.runner()), 0o755); err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeFile, "The steps cannot be written.")
	}
	return s, nil
}

// Number is the name of the i-th step's folder, counted from 0.
func Number(i int) string { return fmt.Sprintf("%03d", i+1) }

// Code is the code of a step's failure.
func Code(k recipe.StepKind) string {
	switch k {
	case recipe.StepPackages:
		return CodePackages
	case recipe.StepUsers:
		return CodeUser
	case recipe.StepFiles:
		return CodeFile
	case recipe.StepServices:
		return CodeService
	case recipe.StepCloudInit:
		return CodeCloudInit
	}
	return CodeScript
}

// runner does one step with a clean environment and tells when it begins, ends and fails.
func (s *Set) runner() string {
	return `#!/bin/sh
cd "$(dirname "$0")/$1" || exit 1
echo "` + s.token + ` begin $1"
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
	/bin/sh -e ./run </dev/null
status=$?
if [ $status -ne 0 ]; then
	echo "` + s.token + ` failed $1 $status"
	exit 1
fi
echo "` + s.token + ` end $1"
`
}

// Plan lists the steps for build.Builder.Plan, between those of the builder itself.
func Plan(r *recipe.Recipe, before, after []string) []build.PlannedStep {
	var out []build.PlannedStep
	for _, name := range before {
		out = append(out, build.PlannedStep{Name: name})
	}
	for _, s := range r.Plan {
		out = append(out, build.PlannedStep{Name: s.Name, Recipe: s.Recipe})
	}
	for _, name := range after {
		out = append(out, build.PlannedStep{Name: name})
	}
	return out
}

// Sources is apt's list of where the packages of a release come from.
func Sources(m deb.Mirrors, release string) string {
	security := m.Security
	if security == "" {
		security = m.Main
	}
	const key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
	return fmt.Sprintf("deb %[1]s %[2]s %[4]s main\ndeb %[1]s %[2]s %[4]s-updates main\ndeb %[1]s %[3]s %[4]s-security main\n", key, m.Main, security, release)
}

// layer writes one step.
type layer struct {
	dir    string
	recipe *recipe.Recipe
	step   recipe.Step
	files  recipe.Files
}

func (l *layer) lay() error {
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return err
	}
	script, err := l.script()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.dir, "run"), []byte(script), 0o600)
}

func (l *layer) script() (string, error) {
	switch l.step.Kind {
	case recipe.StepPackages:
		return AptInstall + Words(l.step.Packages) + "\n", nil
	case recipe.StepUsers:
		return users(l.step.Users), nil
	case recipe.StepFiles:
		return l.layFiles()
	case recipe.StepServices:
		return services(l.step.Services), nil
	case recipe.StepCloudInit:
		return cloudInit(l.step.Datasources), nil
	}
	return l.layScript()
}

// layScript keeps the recipe's own commands in a file, and runs them without any network.
func (l *layer) layScript() (string, error) {
	text := l.step.Run
	if l.step.Source != "" {
		raw, err := l.read(l.step.Source, maxScript)
		if err != nil {
			return "", err
		}
		text = string(raw)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "script"), []byte(text), 0o600); err != nil {
		return "", err
	}
	return "here=$PWD\ncd /\nexec unshare --net -- /bin/sh -e \"$here/script\"\n", nil
}

func (l *layer) layFiles() (string, error) {
	var out strings.Builder
	for i, f := range l.step.Files {
		name := fmt.Sprintf("file%d", i)
		if err := l.layFile(name, f); err != nil {
			return "", fmt.Errorf("%s: %w", f.Path, err)
		}
		owner := f.Owner
		if owner == "" {
			owner = "root"
		}
		// A link in the place of the file is replaced, never followed. Permissions after the owner: chown drops setuid.
		fmt.Fprintf(&out, "mkdir -p %s\nrm -f %s\ncp %s %s\nchown %s %s\nchmod %04o %s\n", Quote(filepath.Dir(f.Path)), Quote(f.Path),
			name, Quote(f.Path), Quote(owner), Quote(f.Path), f.FileMode(), Quote(f.Path))
	}
	return out.String(), nil
}

func (l *layer) layFile(name string, f recipe.File) error {
	at := filepath.Join(l.dir, name)
	if f.Source == "" && !f.Template {
		return os.WriteFile(at, []byte(f.Content), 0o600)
	}
	if f.Template {
		text := f.Content
		if f.Source != "" {
			raw, err := l.read(f.Source, maxScript)
			if err != nil {
				return err
			}
			text = string(raw)
		}
		text, err := recipe.Render(f.Path, text, recipe.TemplateData{Values: l.step.Values, Recipe: l.step.Recipe, Family: l.recipe.Family})
		if err != nil {
			return err
		}
		return os.WriteFile(at, []byte(text), 0o600)
	}
	from, err := Open(l.files, f.Source)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, io.LimitReader(from, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return errors.Join(err, to.Close())
}

func (l *layer) read(name string, most int64) ([]byte, error) { return Read(l.files, name, most) }

// Read reads a regular file of the repository of at most so many bytes.
func Read(files recipe.Files, name string, most int64) ([]byte, error) {
	f, err := Open(files, name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return raw, err
}

// Open opens a regular file of the repository.
func Open(files recipe.Files, name string) (fs.File, error) {
	if files == nil {
		return nil, fs.ErrNotExist
	}
	f, err := files.Open(name)
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
