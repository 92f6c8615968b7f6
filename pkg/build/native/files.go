package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// sourceMost bounds a file of the repository that a recipe lays into the image, in bytes; templateMost one that is a
// template.
const (
	sourceMost   = 1 << 30
	templateMost = 1 << 20
)

// input reads what the recipe takes from its repository.
type input struct {
	files  recipe.Files
	recipe *recipe.Recipe
}

func inputOf(req build.Request) input { return input{files: req.Files, recipe: req.Recipe} }

// source opens a regular file of the repository.
func (in input) source(name string) (fs.File, error) {
	if in.files == nil {
		return nil, fs.ErrNotExist
	}
	f, err := in.files.Open(name)
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

// open gives the bytes that a file of the recipe will have, with its template filled in.
func (in input) open(s recipe.Step, f recipe.File) (io.ReadCloser, error) {
	from := io.NopCloser(strings.NewReader(f.Content))
	if f.Source != "" {
		src, err := in.source(f.Source)
		if err != nil {
			return nil, err
		}
		from = src
	}
	if !f.Template {
		return from, nil
	}
	raw, err := io.ReadAll(io.LimitReader(from, templateMost+1))
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, err
	}
	text, err := recipe.Render(f.Path, string(raw), recipe.TemplateData{Values: s.Values, Recipe: s.Recipe, Family: in.recipe.Family})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// digest is that of the bytes of a file.
func (in input) digest(s recipe.Step, f recipe.File) (string, error) {
	from, err := in.open(s, f)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = copyMost(sum, from)
	if err = errors.Join(err, from.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func copyMost(to io.Writer, from io.Reader) error {
	n, err := io.Copy(to, io.LimitReader(from, sourceMost+1))
	if err == nil && n > sourceMost {
		err = fmt.Errorf("it has more than %d bytes", sourceMost)
	}
	return err
}

// bootInputs are where files lie that the initramfs or the boot menu is made of.
var bootInputs = map[string]asked{
	"/etc/initramfs-tools/": {initramfs: true}, "/usr/share/initramfs-tools/": {initramfs: true}, "/etc/modprobe.d/": {initramfs: true},
	"/etc/crypttab": {initramfs: true}, "/etc/default/grub": {grub: true}, "/etc/grub.d/": {grub: true},
}

// files are written through an os.Root, so that a link in the image leads nowhere else, and given to their owners
// inside, where the names are known.
func (m *making) files(ctx context.Context, s recipe.Step) error {
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	var owners strings.Builder
	var todo asked
	for i, f := range s.Files {
		if err := m.lay(root, s, f); err != nil {
			root.Close() //nolint:errcheck // the write failed already
			return m.stepError(errs.Wrap(err, errs.Invalid, CodeFile, "%s", f.Path), s, item(s, "files", i))
		}
		owner := f.Owner
		if owner != "" && owner != "root" {
			fmt.Fprintf(&owners, "chown -h %s %s\n", quote(owner), quote(f.Path))
		}
		fmt.Fprintf(&owners, "chmod %04o %s\n", f.FileMode(), quote(f.Path)) // after chown, which drops setuid
		for prefix, a := range bootInputs {
			if strings.HasPrefix(f.Path, prefix) {
				todo.initramfs, todo.grub = todo.initramfs || a.initramfs, todo.grub || a.grub
			}
		}
	}
	if err := root.Close(); err != nil {
		return errs.Wrap(err, errs.Internal, CodeFile, "The image's tree cannot be closed.")
	}
	if err := m.offline(ctx, owners.String()); err != nil {
		return m.stepError(fmt.Errorf("a file's owner or mode cannot be set: %w", err), s, s.Where)
	}
	return m.bootFiles(ctx, todo)
}

func (m *making) lay(root *os.Root, s recipe.Step, f recipe.File) error {
	rel := strings.TrimPrefix(f.Path, "/")
	if dir := filepath.Dir(rel); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	from, err := m.in.open(s, f)
	if err != nil {
		return err
	}
	defer from.Close()                                                          //nolint:errcheck // read only
	if err := root.Remove(rel); err != nil && !errors.Is(err, fs.ErrNotExist) { // never through a link
		return err
	}
	to, err := root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = copyMost(to, from)
	return errors.Join(err, to.Close())
}
