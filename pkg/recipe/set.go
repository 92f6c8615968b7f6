package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
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

// MaxRecipes is how many recipes one repository may have.
const MaxRecipes = 1000

// Load reads every *.yaml and *.yml file below recipes/ (or of the root, where there is no such folder).
func Load(files Files) (*Set, error) {
	root := "recipes"
	if info, err := fs.Stat(files, root); err != nil || !info.IsDir() {
		root = "."
	}
	s := &Set{Recipes: map[string]*Recipe{}, Faults: map[string]ParseErrors{}, files: files}
	err := fs.WalkDir(files, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return errs.Wrap(err, errs.Invalid, "kiln.recipe.repository", "the folder cannot be read").At(errs.Where{File: name})
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
		return nil, err
	}
	s.checkFrom()
	s.checkResolved()
	return s, nil
}

func (s *Set) add(name string) error {
	if len(s.Recipes)+len(s.Faults) >= MaxRecipes {
		return errs.New(errs.Invalid, "kiln.recipe.too_many", "a repository has %d recipes at most", MaxRecipes).At(errs.Where{File: name, Line: 1})
	}
	data, err := readFile(s.files, name, MaxBytes+1)
	if err != nil {
		s.Faults[name] = ParseErrors{errs.New(errs.Invalid, "kiln.recipe.path", "the file cannot be read, or has more than %d bytes", MaxBytes).
			At(errs.Where{File: name, Line: 1})}
		return nil //nolint:nilerr // it is the fault of this file
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
	s.checkFiles(r)
	return nil
}

// checkFiles holds that every file which the recipe names is there, and that its templates can be filled in.
func (s *Set) checkFiles(r *Recipe) {
	s.checkSource(r, "builder.template", r.Builder.Template)
	for i, t := range r.Tests {
		s.checkSource(r, fmt.Sprintf("tests[%d].source", i), t.Source)
	}
	for _, step := range r.Plan {
		at := step.Where.Field
		s.checkSource(r, at+".source", step.Source)
		if step.Kind != StepFiles {
			continue
		}
		if strings.HasPrefix(at, "steps[") {
			at += ".files"
		}
		for i, f := range step.Files {
			field := fmt.Sprintf("%s[%d].source", at, i)
			if s.checkSource(r, field, f.Source) && f.Template && f.Source != "" {
				s.checkTemplate(r, field, f.Source)
			}
		}
	}
}

func (s *Set) checkTemplate(r *Recipe, field, source string) {
	text, err := readFile(s.files, source, maxTemplate)
	if err == nil {
		_, err = parseTemplate(source, string(text))
	}
	if err != nil {
		s.fault(r, field, "kiln.recipe.value", "%s", err)
	}
}

func (s *Set) checkSource(r *Recipe, field, source string) bool {
	if source == "" {
		return true
	}
	f, err := openFile(s.files, source, MaxSourceFile)
	if err != nil {
		s.fault(r, field, "kiln.recipe.path", "%q cannot be read from the repository: it is missing, no regular file, a link that leaves the repository, or larger than %d bytes", source, MaxSourceFile)
		return false
	}
	f.Close() //nolint:errcheck // only looked at
	return true
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

// checkResolved holds what can be told only of a recipe with all that it stands on. What stands on a faulty recipe is
// faulty too.
func (s *Set) checkResolved() {
	depth := func(name string) int {
		n := 0
		for r := s.Recipes[name]; r != nil && r.From.Recipe != ""; n++ {
			r = s.Recipes[r.From.Recipe]
		}
		return n
	}
	names := slices.Sorted(maps.Keys(s.Recipes))
	depths := make(map[string]int, len(names))
	for _, name := range names {
		depths[name] = depth(name)
	}
	slices.SortStableFunc(names, func(a, b string) int { return depths[a] - depths[b] })
	for _, name := range names {
		r := s.Recipes[name]
		if on := r.From.Recipe; on != "" && s.Recipes[on] == nil {
			s.fault(r, "from.recipe", "kiln.recipe.from_missing", "recipe %q has faults", on)
			continue
		}
		whole, err := s.Resolve(name)
		if err != nil { // the base is there, so this is not reached
			continue
		}
		for _, f := range whole.faults() {
			s.fault(r, f.field, "kiln.recipe.value", "%s", f.text)
		}
	}
}

// Digest is the sha256 of a resolved recipe and of every file of the repository that it names.
func (s *Set) Digest(r *Recipe) (string, error) {
	h := sha256.New()
	in := *r
	// When and where it is built, and what people read, does not change the image.
	in.Description, in.Triggers, in.Builder.Needs = "", Triggers{}, nil
	if err := json.NewEncoder(h).Encode(in); err != nil {
		return "", err
	}
	sources := []string{r.Builder.Template}
	for _, e := range r.Builder.Elements {
		files, err := s.elementFiles(e)
		if err != nil {
			return "", err
		}
		sources = append(sources, files...)
	}
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

// elementFiles are the files of an element of the repository; none for one that diskimage-builder brings.
func (s *Set) elementFiles(name string) ([]string, error) {
	root := path.Join("elements", name)
	if info, err := fs.Stat(s.files, root); err != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // it is not of the repository
	}
	var out []string
	err := fs.WalkDir(s.files, root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.recipe.path", "the element %q of the repository cannot be read", name)
	}
	return out, nil
}

func readFile(files Files, name string, limit int64) ([]byte, error) {
	f, err := openFile(files, name, limit)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// openFile opens a regular file of at most limit bytes.
func openFile(files Files, name string, limit int64) (fs.File, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > limit) {
		err = &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
