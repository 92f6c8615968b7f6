package dib

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// ownElement is the element with the recipe's steps.
const ownElement = "kiln-recipe"

// fullKernel is what Debian's element debian-minimal installs whatever anybody says.
const fullKernel = "linux-image-amd64"

// maxElements bounds the repository's own elements, in bytes.
const maxElements = 256 << 20

// noStepsLine tells that a recipe without steps has come to where they would be.
func noStepsLine(token string) string { return token + " none" }

// layElements writes our own element and copies those of the repository.
func (m *making) layElements() error {
	own := m.at("elements/" + ownElement)
	var install strings.Builder
	install.WriteString("#!/bin/sh\n")
	for i := range m.recipe.Plan {
		fmt.Fprintf(&install, "sh /tmp/in_target.d/steps/%s %s || exit 1\n", steps.Runner, steps.Number(i))
	}
	if len(m.recipe.Plan) == 0 {
		fmt.Fprintf(&install, "echo %s\n", noStepsLine(m.token))
	}
	for name, text := range map[string]string{
		// After the packages of the other elements, before they are uninstalled again.
		"install.d/80-kiln-steps":  install.String(),
		"finalise.d/99-kiln-clean": m.clean(),
	} {
		at := filepath.Join(own, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The recipe's element cannot be made.")
		}
		if err := os.WriteFile(at, []byte(text), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeHost, "The recipe's element cannot be made.")
		}
	}
	if err := m.kernel(); err != nil {
		return errs.Wrap(err, errs.Internal, CodeElements, "Debian's element debian-minimal cannot be read.")
	}
	if err := copyElements(m.req.Files, m.at("repository")); err != nil {
		return errs.Wrap(err, errs.Invalid, CodeElements, "The repository's elements cannot be read.").At(errs.Where{File: "elements"})
	}
	return m.known()
}

// ownSystem is the copy of debian-minimal with another kernel. It needs a name of its own: of elements of one name
// diskimage-builder installs the packages of all.
const ownSystem = "kiln-debian-minimal"

// system is the element that the image begins with.
func (m *making) system() string {
	if m.recipe.Kernel.Package == fullKernel {
		return "debian-minimal"
	}
	return ownSystem
}

// kernel makes ownSystem.
func (m *making) kernel() error {
	if m.system() != ownSystem {
		return nil
	}
	home, err := elementsHome()
	if err != nil {
		return err
	}
	to := m.at("elements/" + ownSystem)
	if err := os.CopyFS(to, os.DirFS(filepath.Join(home, "debian-minimal"))); err != nil {
		return err
	}
	list := filepath.Join(to, "package-installs.yaml")
	raw, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	text := strings.Replace(string(raw), fullKernel+":", m.recipe.Kernel.Package+":", 1)
	if text == string(raw) {
		return errors.New("it does not name its kernel as it used to")
	}
	// So that an element which asks for debian-minimal does not bring it as well.
	provides := filepath.Join(to, "element-provides")
	raw, err = os.ReadFile(provides)
	if err == nil {
		err = os.WriteFile(provides, append(raw, "\ndebian-minimal\n"...), 0o644) //nolint:gosec // as below
	}
	if err != nil {
		return err
	}
	return os.WriteFile(list, []byte(text), 0o644) //nolint:gosec // below the build's own work folder
}

// elementsHome is where diskimage-builder keeps its own elements, by the place of its module.
func elementsHome() (string, error) {
	found, err := filepath.Glob("/usr/lib/python3*/dist-packages/diskimage_builder/elements")
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, exec.ErrNotFound)
	}
	return found[0], nil
}

// known refuses elements that are nowhere, before half an image is made.
func (m *making) known() error {
	home, err := elementsHome()
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeElements, "diskimage-builder's elements cannot be found.")
	}
	for i, name := range m.recipe.Builder.Elements {
		found := false
		for _, dir := range []string{m.at("repository"), home} {
			info, err := os.Stat(filepath.Join(dir, name))
			found = found || err == nil && info.IsDir()
		}
		if !found {
			return errs.New(errs.Invalid, CodeElements, "There is no element %q, neither in elements/ of the repository nor in diskimage-builder.", name).
				At(errs.Where{File: m.recipe.Path, Field: fmt.Sprintf("builder.elements[%d]", i)})
		}
	}
	return nil
}

// copyElements writes the repository's folder elements/, regular files only, with their right to be run.
func copyElements(files recipe.Files, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil || files == nil {
		return err
	}
	var total int64
	err := fs.WalkDir(files, "elements", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(name, "elements"))
		if d.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		if total += info.Size(); total > maxElements {
			return fmt.Errorf("there are more than %d bytes", maxElements)
		}
		return copyElement(files, name, at, info.Mode().Perm()&0o755|0o600)
	})
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := fs.Stat(files, "elements"); errors.Is(statErr, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

func copyElement(files recipe.Files, name, to string, mode fs.FileMode) error {
	from, err := files.Open(path.Clean(name))
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(from, maxElements))
	return errors.Join(err, out.Close())
}

// clean leaves in the image what a published one should have: Debian's own sources, no keys, ids and lists.
func (m *making) clean() string {
	mirrors := m.builder.cfg.Mirrors
	return `#!/bin/sh
set -e
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/default.list /etc/apt/sources.list.d/updates.list /etc/apt/sources.list.d/security.list
printf %s ` + steps.Quote(steps.DebSources(mirrors, m.recipe.From.Release)) + ` >/etc/apt/sources.list.d/debian.sources
` + steps.Clean + `
` + steps.Network + `
echo localhost >/etc/hostname
`
}

// fromCache and toCache keep the unpacked base of a release in the state that it was read in.

func (m *making) cached() string {
	if m.builder.cfg.CacheDir == "" || m.req.Fresh {
		return ""
	}
	return filepath.Join(m.builder.cfg.CacheDir, digest(m.state)+".tar.gz")
}

func (m *making) tarball() string {
	return m.at("cache/debootstrap-debian-" + m.recipe.From.Release + "-amd64.tar.gz")
}

func (m *making) fromCache() error {
	if err := os.MkdirAll(m.at("cache"), 0o755); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The build's cache cannot be made.")
	}
	kept := m.cached()
	if kept == "" {
		return nil
	}
	err := copyFile(kept, m.tarball())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.builder.cfg.Log.WithError(err).Warn("a kept base cannot be used")
	}
	return nil
}

// toCache is called when the recipe's first step begins: the base is whole then.
func (m *making) toCache() {
	kept := m.cached()
	if kept == "" {
		return
	}
	err := os.MkdirAll(m.builder.cfg.CacheDir, 0o700)
	if err == nil {
		if err = copyFile(m.tarball(), kept); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err == nil {
		err = prune(m.builder.cfg.CacheDir, keepBases)
	}
	if err != nil {
		m.builder.cfg.Log.WithError(err).Warn("the base cannot be kept for the next build")
	}
}
