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
	// The name of a channel, or of a version (catalog.NextVersionName).
	channelName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	versionName = regexp.MustCompile(`^[0-9]{8}\.[0-9]{1,6}$`)
	// Debian policy 5.6.1; an optional architecture or =version may follow.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	ownerName   = regexp.MustCompile(`^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+$`)
	octalMode   = regexp.MustCompile(`^[0-7]{3,4}$`)
	valueName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
)

// maxValues bounds what a template can go round.
const maxValues = 1000

// rules checks what the types cannot say.
func (p *parser) rules(r *Recipe) {
	if r.Name != "" && !recipeName.MatchString(r.Name) {
		p.value("name", "%q: use lower case letters, digits, dots and dashes", r.Name)
	}
	if r.Family != "" && r.Family.Check() != nil {
		p.value("family", "%q: use lower case letters, digits, dots and dashes", r.Family)
	}
	p.fromRules(r.From)
	p.builderRules(r)
	p.valueRules(r)
	p.packageNames("packages", r.Packages)
	p.files("files", r.Files)
	p.users("users", r.Users)
	for i, s := range r.Scripts {
		p.inRepository(fmt.Sprintf("scripts[%d].source", i), s.Source)
	}
	p.serviceRules("services", r.Services)
	for i, s := range r.Steps {
		at := fmt.Sprintf("steps[%d]", i)
		p.packageNames(at+".packages", s.Packages)
		p.files(at+".files", s.Files)
		p.users(at+".users", s.Users)
		p.serviceRules(at+".services", s.Services)
		p.inRepository(at+".source", s.Source)
	}
	p.diskRules(r)
	p.outputRules(r)
	p.testRules(r.Tests)
	p.triggerRules(r.Triggers)
	if r.From.Release != "" { // what stands on others is checked with them under it: Set.checkResolved
		for _, f := range r.faults() {
			p.value(f.field, "%s", f.text)
		}
	}
}

// value reports a wrong value, unless the field's type was wrong already.
func (p *parser) value(field, format string, args ...any) {
	if slices.ContainsFunc(p.problems, func(e *errs.Error) bool { return e.Where.Field == field }) {
		return
	}
	p.fault(p.line(field), field, "kiln.recipe.value", format, args...)
}

func (p *parser) fromRules(f From) {
	if f.Release != "" && !releaseName.MatchString(f.Release) {
		p.value("from.release", "%q is not a Debian release name such as bookworm", f.Release)
	}
	if f.Recipe != "" && !recipeName.MatchString(f.Recipe) {
		p.value("from.recipe", "%q is not the name of a recipe", f.Recipe)
	}
	if f.Family != "" && f.Family.Check() != nil {
		p.value("from.family", "%q: use lower case letters, digits, dots and dashes", f.Family)
	}
	switch {
	case f.Channel != "" && f.Family == "":
		p.value("from.channel", "a channel needs the family that it belongs to: give from.family")
	case f.Channel != "" && !channelName.MatchString(f.Channel) && !versionName.MatchString(f.Channel):
		p.value("from.channel", "%q is neither a channel such as stable nor a version such as 20260101.1", f.Channel)
	}
}

func (p *parser) valueRules(r *Recipe) {
	if len(r.Values) > maxValues {
		p.value("values", "at most %d values", maxValues)
	}
	for name := range r.Values {
		if !valueName.MatchString(name) {
			p.value("values."+name, "%q: a template cannot name it; use letters, digits and underscores", name)
		}
	}
}

func (p *parser) packageNames(at string, names []string) {
	for i, name := range names {
		if !packageName.MatchString(name) {
			p.value(fmt.Sprintf("%s[%d]", at, i), "%q is not a Debian package name", name)
		}
	}
}

func (p *parser) serviceRules(at string, s Services) {
	check := func(at string, units []string) {
		for i, name := range units {
			if !unitName.MatchString(name) || strings.HasPrefix(name, "-") {
				p.value(fmt.Sprintf("%s[%d]", at, i), "%q is not a systemd unit", name)
			}
		}
	}
	check(at+".enable", s.Enable)
	check(at+".disable", s.Disable)
	for i, name := range s.Disable {
		if slices.Contains(s.Enable, name) {
			p.value(fmt.Sprintf("%s.disable[%d]", at, i), "%q is enabled and disabled at once", name)
		}
	}
}

func (p *parser) files(at string, files []File) {
	seen := map[string]bool{}
	for i, f := range files {
		at := fmt.Sprintf("%s[%d]", at, i)
		p.fileRules(at, f)
		if f.Path != "" && seen[f.Path] {
			p.value(at+".path", "%q is given twice", f.Path)
		}
		seen[f.Path] = true
	}
}

func (p *parser) fileRules(at string, f File) {
	switch {
	case f.Path == "":
	case !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/":
		p.value(at+".path", "%q: give an absolute path without . and ..", f.Path)
	case strings.ContainsAny(f.Path, "\n\r"):
		p.value(at+".path", "%q: a path is one line", f.Path)
	case below(f.Path, "/proc", "/sys", "/dev", "/run"):
		p.value(at+".path", "%q: what is there comes from the running kernel, and no image holds it", f.Path)
	}
	if f.Mode != "" && !octalMode.MatchString(f.Mode) {
		p.value(at+".mode", "%q: give octal permissions such as 0644", f.Mode)
	}
	if f.Owner != "" && !ownerName.MatchString(f.Owner) {
		p.value(at+".owner", "%q: give user or user:group", f.Owner)
	}
	p.inRepository(at+".source", f.Source)
	if f.Template && f.Source == "" {
		if _, err := parseTemplate(at, f.Content); err != nil {
			p.value(at+".content", "%s", err)
		}
	}
}

func (p *parser) users(at string, users []User) {
	seen := map[string]bool{}
	for i, u := range users {
		at := fmt.Sprintf("%s[%d]", at, i)
		p.userRules(at, u)
		if u.Name != "" && seen[u.Name] {
			p.value(at+".name", "%q is given twice", u.Name)
		}
		seen[u.Name] = true
	}
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
	if u.Shell != "" && (!path.IsAbs(u.Shell) || path.Clean(u.Shell) != u.Shell || strings.ContainsAny(u.Shell, ": \n\r\t")) {
		p.value(at+".shell", "%q: give an absolute path", u.Shell)
	}
	for i, key := range u.SSHKeys {
		if strings.TrimSpace(key) == "" || strings.ContainsAny(key, "\n\r") {
			p.value(fmt.Sprintf("%s.ssh_keys[%d]", at, i), "a key is one line of authorized_keys")
		}
	}
}

// inRepository refuses a path that leaves the repository. Symbolic links are refused later, when the file is
// opened through Files.
func (p *parser) inRepository(field, name string) {
	if name != "" && (!fs.ValidPath(name) || name == ".") {
		p.fault(p.line(field), field, "kiln.recipe.path", "%q leaves the repository or is not a plain path below its root", name)
	}
}

func (r *Recipe) defaults() {
	if r.Family == "" {
		r.Family = catalog.FamilyName(r.Name)
	}
	defaultFiles(r.Files)
	for _, s := range r.Steps {
		defaultFiles(s.Files)
	}
	for i := range r.Disk.Partitions {
		r.Disk.Partitions[i].Filesystem = first(r.Disk.Partitions[i].Filesystem, "ext4")
	}
	for i := range r.Tests {
		r.Tests[i].Timeout = first(r.Tests[i].Timeout, DefaultTestTimeout.String())
	}
}

func defaultFiles(files []File) {
	for i := range files {
		files[i].Mode = first(files[i].Mode, "0644")
		files[i].Owner = first(files[i].Owner, "root")
	}
}

// FileMode is the permissions of a file as a number.
func (f File) FileMode() fs.FileMode {
	n, err := strconv.ParseUint(f.Mode, 8, 16)
	if err != nil { // Parse let octal digits only through; an unparsed File gets the default
		return 0o644
	}
	return fs.FileMode(n)
}

// below tells whether the path is one of the folders or in one.
func below(name string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return name == f || strings.HasPrefix(name, f+"/") })
}
