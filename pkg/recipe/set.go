package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Set is all recipes of one repository at one commit. A recipe that is not valid is in Faults only.
type Set struct {
	Recipes map[string]*Recipe // by name
	Faults  map[string]ParseErrors
	files   Files
}

// MaxSourceFile is the largest file that a recipe may lay into an image from its repository.
const MaxSourceFile = 64 << 20

// Load reads every *.yaml and *.yml file below recipes/ (or of the root, where there is no such folder).
func Load(files Files) (*Set, error) {
	root := "recipes"
	if info, err := fs.Stat(files, root); err != nil || !info.IsDir() {
		root = "."
	}
	s := &Set{Recipes: map[string]*Recipe{}, Faults: map[string]ParseErrors{}, files: files}
	err := fs.WalkDir(files, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || root == "." && name != ".") {
			return fs.SkipDir
		}
		if ext := path.Ext(name); d.Type().IsRegular() && (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(d.Name(), ".") {
			return s.add(name)
		}
		return nil
	})
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.recipe.repository", "the repository cannot be read")
	}
	s.checkFrom()
	return s, nil
}

func (s *Set) add(name string) error {
	data, err := readFile(s.files, name, MaxBytes)
	if err != nil {
		return err
	}
	r, err := Parse(name, data)
	var faults ParseErrors
	switch {
	case errors.As(err, &faults):
		s.Faults[name] = faults
		return nil
	case err != nil:
		return err
	}
	if other, taken := s.Recipes[r.Name]; taken {
		s.fault(r, "name", "kiln.recipe.duplicate_name", "the name %q is also that of %s", r.Name, other.Path)
		return nil
	}
	s.Recipes[r.Name] = r
	for i, f := range r.Files {
		s.checkSource(r, "files", i, f.Source)
	}
	for i, c := range r.Scripts {
		s.checkSource(r, "scripts", i, c.Source)
	}
	return nil
}

func (s *Set) checkSource(r *Recipe, list string, i int, source string) {
	if source == "" {
		return
	}
	if _, err := readFile(s.files, source, MaxSourceFile); err != nil {
		field := list + "[" + strconv.Itoa(i) + "].source"
		s.fault(r, field, "kiln.recipe.path", "%q cannot be read from the repository: it is missing, no regular file, a link that leaves the repository, or larger than %d bytes", source, MaxSourceFile)
	}
}

// fault moves a recipe from the valid ones to the faulty ones.
func (s *Set) fault(r *Recipe, field, code, format string, args ...any) {
	data, err := readFile(s.files, r.Path, MaxBytes)
	line := 1
	if err == nil {
		line = lineOf(r.Path, data, field)
	}
	e := errs.New(errs.Invalid, code, format, args...).At(errs.Where{File: r.Path, Line: line, Field: field})
	s.Faults[r.Path] = append(s.Faults[r.Path], e)
	if s.Recipes[r.Name] == r {
		delete(s.Recipes, r.Name)
	}
}

// checkFrom refuses recipes that stand on nothing, on a faulty recipe, or on themselves.
func (s *Set) checkFrom() {
	names := make([]string, 0, len(s.Recipes))
	for name := range s.Recipes {
		names = append(names, name)
	}
	slices.Sort(names)
	all := make(map[string]*Recipe, len(names))
	for _, name := range names {
		all[name] = s.Recipes[name]
	}
	for _, name := range names {
		s.checkChain(all, all[name])
	}
}

func (s *Set) checkChain(all map[string]*Recipe, first *Recipe) {
	chain := []string{first.Name}
	for r := first; r.From.Recipe != ""; {
		next, ok := all[r.From.Recipe]
		if !ok {
			s.fault(first, "from.recipe", "kiln.recipe.from_missing", "there is no valid recipe %q in the repository", r.From.Recipe)
			return
		}
		chain = append(chain, next.Name)
		if slices.Contains(chain[:len(chain)-1], next.Name) {
			s.fault(first, "from.recipe", "kiln.recipe.cycle", "the recipe stands on itself: %s", strings.Join(chain, " → "))
			return
		}
		r = next
	}
}

// Resolve lays a recipe over all that it stands on: lists are joined (base first), texts of the upper one win.
func (s *Set) Resolve(name string) (*Recipe, error) {
	r, ok := s.Recipes[name]
	if !ok {
		return nil, errs.New(errs.NotFound, "kiln.recipe.not_found", "there is no valid recipe %q", name)
	}
	chain := []*Recipe{r}
	for r.From.Recipe != "" { // checkFrom made sure that this ends
		r = s.Recipes[r.From.Recipe]
		chain = append(chain, r)
	}
	out := *chain[len(chain)-1]
	for i := len(chain) - 2; i >= 0; i-- {
		out = over(out, *chain[i])
	}
	if out.Disk.Size == 0 {
		out.Disk.Size = DefaultSize
	}
	out.Kernel.Package = first(out.Kernel.Package, DefaultKernel)
	out.Output.Format = first(out.Output.Format, DefaultFormat)
	out.Publish.Visibility = first(out.Publish.Visibility, "private")
	out.Builder.Name = first(out.Builder.Name, DefaultBuilder)
	return &out, nil
}

func over(base, top Recipe) Recipe {
	out := top
	out.From = base.From
	out.Packages = unique(slices.Concat(base.Packages, top.Packages))
	out.Files = slices.Concat(base.Files, top.Files)
	out.Users = slices.Concat(base.Users, top.Users)
	out.Scripts = slices.Concat(base.Scripts, top.Scripts)
	out.Services.Enable = unique(slices.Concat(base.Services.Enable, top.Services.Enable))
	out.Services.Disable = unique(slices.Concat(base.Services.Disable, top.Services.Disable))
	out.Disk.Size = max(base.Disk.Size, top.Disk.Size)
	out.Kernel.Package = first(top.Kernel.Package, base.Kernel.Package)
	out.Kernel.Arguments = strings.TrimSpace(base.Kernel.Arguments + " " + top.Kernel.Arguments)
	out.Output.Format = first(top.Output.Format, base.Output.Format)
	out.Publish.Visibility = first(top.Publish.Visibility, base.Publish.Visibility)
	out.Plan = slices.Concat(base.Plan, top.Plan)
	out.Properties = map[string]string{}
	for _, m := range []map[string]string{base.Properties, top.Properties} {
		maps.Copy(out.Properties, m)
	}
	return out
}

// Digest is the sha256 of a resolved recipe and of every file of the repository that it names.
func (s *Set) Digest(r *Recipe) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(r); err != nil {
		return "", err
	}
	var sources []string
	for _, step := range r.Plan {
		sources = append(sources, step.Source)
		for _, f := range step.Files {
			sources = append(sources, f.Source)
		}
	}
	for _, t := range r.Tests {
		sources = append(sources, t.Source)
	}
	for _, name := range sources {
		if name == "" {
			continue
		}
		data, err := readFile(s.files, name, MaxSourceFile)
		if err != nil {
			return "", errs.Wrap(err, errs.Invalid, "kiln.recipe.path", "file %q of the repository cannot be read", name)
		}
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func readFile(files Files, name string, limit int64) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
