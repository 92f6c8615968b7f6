package recipe

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// MaxLockBytes is the largest lock that is read: some 40,000 packages.
const MaxLockBytes = 16 << 20

// LockPath is where the lock of a recipe is, beside its file: recipes/web.yaml has recipes/web.lock.
func LockPath(recipePath string) string {
	return strings.TrimSuffix(recipePath, path.Ext(recipePath)) + ".lock"
}

// Lock reads the lock that is beside a recipe's file; nil where there is none. The error is ParseErrors: every
// fault with its file, line and field.
func (s *Set) Lock(name string) (*deb.Lock, error) {
	r, ok := s.Recipes[name]
	if !ok {
		return nil, errs.New(errs.NotFound, "kiln.recipe.not_found", "there is no valid recipe %q", name)
	}
	file := LockPath(r.Path)
	data, err := readFile(s.files, file, MaxLockBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, errs.Wrap(err, errs.Invalid, "kiln.recipe.lock", "the lock cannot be read: it is no regular file, leaves the repository, or has more than %d bytes", MaxLockBytes).
			At(errs.Where{File: file})
	}
	return ParseLock(file, data)
}

// ParseLock reads a lock as strictly as a recipe is read.
func ParseLock(file string, data []byte) (*deb.Lock, error) {
	p := &parser{file: file}
	if len(data) > MaxLockBytes {
		p.fault(1, "", "kiln.recipe.too_large", "a lock may have %d bytes at most, this has %d", MaxLockBytes, len(data))
		return nil, p.problems
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		p.syntax(err)
		return nil, p.problems
	}
	if len(doc.Content) == 0 {
		p.fault(1, "", "kiln.recipe.empty", "the lock is empty: make it with kiln recipe lock")
		return nil, p.problems
	}
	lock := &deb.Lock{}
	p.decode(doc.Content[0], reflect.ValueOf(lock).Elem(), "")
	if len(p.problems) == 0 {
		p.lockRules(lock)
	}
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	lock.Time = lock.Time.UTC()
	return lock, nil
}

// whole reads a number of a lock.
func (p *parser) whole(n *yaml.Node, v reflect.Value, field string) {
	number, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
		p.wrongType(n, field, "a whole number")
		return
	}
	v.SetInt(number)
}

func (p *parser) lockRules(l *deb.Lock) {
	if !releaseName.MatchString(l.Release) {
		p.value("release", "%q is not a Debian release name such as bookworm", l.Release)
	}
	if !userName.MatchString(l.Architecture) {
		p.value("architecture", "%q is not a Debian architecture such as amd64", l.Architecture)
	}
	if l.Time.IsZero() {
		p.value("time", "when the newest index was written is missing")
	}
	if len(l.Suites) == 0 || len(l.Packages) == 0 {
		p.value("packages", "a lock names at least one suite and one package")
	}
	for i, s := range l.Suites {
		at := fmt.Sprintf("suites[%d]", i)
		if s.Suite == "" || !fs.ValidPath(s.Suite) {
			p.value(at+".suite", "%q is not a suite such as bookworm-security", s.Suite)
		}
		p.hash(at+".sha256", s.SHA256)
	}
	seen := map[string]int{}
	for i, k := range l.Packages {
		p.packageRules(fmt.Sprintf("packages[%d]", i), k)
		if first, twice := seen[k.Name]; twice {
			p.value(fmt.Sprintf("packages[%d].name", i), "%q is locked twice: also as packages[%d]", k.Name, first)
		}
		seen[k.Name] = i
	}
}

func (p *parser) packageRules(at string, k deb.LockedPackage) {
	if !packageName.MatchString(k.Name) || strings.ContainsAny(k.Name, ":=") {
		p.value(at+".name", "%q is not a Debian package name", k.Name)
	}
	if !packageName.MatchString("ab=" + k.Version) {
		p.value(at+".version", "%q is not a Debian version", k.Version)
	}
	if !userName.MatchString(k.Architecture) {
		p.value(at+".architecture", "%q is not a Debian architecture such as amd64 or all", k.Architecture)
	}
	if !fs.ValidPath(k.Filename) || path.Ext(k.Filename) != ".deb" {
		p.value(at+".filename", "%q is not the path of a .deb below a mirror", k.Filename)
	}
	if k.Size <= 0 {
		p.value(at+".size", "%d: give the bytes of the .deb", k.Size)
	}
	p.hash(at+".sha256", k.SHA256)
}

func (p *parser) hash(field, text string) {
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != 32 || text != strings.ToLower(text) {
		p.value(field, "%q is not a SHA-256 in 64 small hexadecimal digits", text)
	}
}
