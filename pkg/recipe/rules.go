package recipe

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

var (
	recipeName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	releaseName = regexp.MustCompile(`^[a-z]+$`)
	// Debian policy 5.6.1; an optional architecture or =version may follow.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	ownerName   = regexp.MustCompile(`^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+$`)
	octalMode   = regexp.MustCompile(`^[0-7]{3,4}$`)
	kernelArgs  = regexp.MustCompile(`^[A-Za-z0-9 =,._:/@+-]*$`)
)

// rules checks what the types cannot say.
func (p *parser) rules(r *Recipe) {
	if r.Name != "" && !recipeName.MatchString(r.Name) {
		p.value("name", "%q: use lower case letters, digits, dots and dashes", r.Name)
	}
	if r.Family != "" {
		if err := r.Family.Check(); err != nil {
			p.value("family", "%q: use lower case letters, digits, dots and dashes", r.Family)
		}
	}
	p.fromRules(r.From)
	for i, name := range r.Packages {
		if !packageName.MatchString(name) {
			p.value(fmt.Sprintf("packages[%d]", i), "%q is not a Debian package name", name)
		}
	}
	for i, f := range r.Files {
		p.fileRules(fmt.Sprintf("files[%d]", i), f)
	}
	for i, u := range r.Users {
		p.userRules(fmt.Sprintf("users[%d]", i), u)
	}
	for i, s := range r.Scripts {
		at := fmt.Sprintf("scripts[%d]", i)
		if (s.Run == "") == (s.Source == "") {
			p.value(at, "give exactly one of run and source")
		}
		p.inRepository(at+".source", s.Source)
	}
	for i, name := range slices.Concat(r.Services.Enable, r.Services.Disable) {
		if !unitName.MatchString(name) || strings.HasPrefix(name, "-") {
			p.value(fmt.Sprintf("services[%d]", i), "%q is not a systemd unit", name)
		}
	}
	p.outputRules(r)
}

// value reports a wrong value, unless the field's type was wrong already.
func (p *parser) value(field, format string, args ...any) {
	if slices.ContainsFunc(p.problems, func(e *errs.Error) bool { return e.Where.Field == field }) {
		return
	}
	line := p.lines[field]
	for at := field; line == 0 && at != ""; line = p.lines[at] {
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
	}
	p.fault(max(line, 1), field, "kiln.recipe.value", format, args...)
}

func (p *parser) fromRules(f From) {
	if _, given := p.lines["from"]; !given {
		return // missing_field was said already
	}
	switch {
	case (f.Release == "") == (f.Recipe == ""):
		p.value("from", "give exactly one of release and recipe")
	case f.Release != "" && !releaseName.MatchString(f.Release):
		p.value("from.release", "%q is not a Debian release name such as bookworm", f.Release)
	}
}

func (p *parser) fileRules(at string, f File) {
	if f.Path != "" && (!path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/") {
		p.value(at+".path", "%q: give an absolute path without . and ..", f.Path)
	}
	if _, content := p.lines[at+".content"]; content == (f.Source != "") {
		p.value(at, "give exactly one of content and source")
	}
	if f.Mode != "" && !octalMode.MatchString(f.Mode) {
		p.value(at+".mode", "%q: give octal permissions such as 0644", f.Mode)
	}
	if f.Owner != "" && !ownerName.MatchString(f.Owner) {
		p.value(at+".owner", "%q: give user or user:group", f.Owner)
	}
	p.inRepository(at+".source", f.Source)
}

func (p *parser) userRules(at string, u User) {
	if u.Name != "" && !userName.MatchString(u.Name) {
		p.value(at+".name", "%q is not a login name", u.Name)
	}
	for i, g := range u.Groups {
		if !userName.MatchString(g) {
			p.value(fmt.Sprintf("%s.groups[%d]", at, i), "%q is not a group name", g)
		}
	}
	if u.Shell != "" && (!path.IsAbs(u.Shell) || path.Clean(u.Shell) != u.Shell) {
		p.value(at+".shell", "%q: give an absolute path", u.Shell)
	}
}

func (p *parser) outputRules(r *Recipe) {
	if f := r.Output.Format; f != "" && f != "qcow2" && f != "raw" {
		p.value("output.format", "%q: give qcow2 or raw", f)
	}
	if v := r.Publish.Visibility; v != "" && !slices.Contains([]string{"private", "shared", "community", "public"}, v) {
		p.value("publish.visibility", "%q: give private, shared, community or public", v)
	}
	if s := r.Disk.Size; s != 0 && (s < 512<<20 || s > 64<<40) {
		p.value("disk.size", "%s: a disk has 512MiB at least and 64TiB at most", s)
	}
	if k := r.Kernel.Package; k != "" && !packageName.MatchString(k) {
		p.value("kernel.package", "%q is not a Debian package name", k)
	}
	if !kernelArgs.MatchString(r.Kernel.Arguments) {
		p.value("kernel.arguments", "only letters, digits, spaces and = , . _ : / @ + - are allowed")
	}
	for name, value := range r.Properties {
		if strings.HasPrefix(name, "kiln_") {
			p.value("properties."+name, "properties that begin with kiln_ are Kiln's own")
		}
		if len(name) > 255 || len(value) > 255 {
			p.value("properties."+name, "Glance keeps at most 255 characters of a name and of a value")
		}
	}
}

// inRepository refuses a path that leaves the repository. Symbolic links are refused later, when the file is
// opened through Files.
func (p *parser) inRepository(field, name string) {
	if name != "" && !fs.ValidPath(name) {
		p.fault(max(p.lines[field], 1), field, "kiln.recipe.path", "%q leaves the repository or is not a plain path below its root", name)
	}
}

func (r *Recipe) defaults() {
	if r.Family == "" {
		r.Family = catalog.FamilyName(r.Name)
	}
	for i := range r.Files {
		if r.Files[i].Mode == "" {
			r.Files[i].Mode = "0644"
		}
		if r.Files[i].Owner == "" {
			r.Files[i].Owner = "root"
		}
	}
	r.Plan = r.own()
}

// FileMode is the permissions of a file as a number.
func (f File) FileMode() fs.FileMode {
	n, err := strconv.ParseUint(f.Mode, 8, 16)
	if err != nil { // Parse let octal digits only through; an unparsed File gets the default
		return 0o644
	}
	return fs.FileMode(n)
}
