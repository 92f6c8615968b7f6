package solve

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// installed is one package of the image, with what the solver and the dependencies need of it.
type installed struct {
	deb.Package
	fields map[string]string // relations, by field name in lower case
}

// state is the package state of an image, read strictly. What apt gets is written anew from it, so that apt, which runs
// on this host, never parses what the image's owner wrote.
type state struct {
	native   string
	foreign  []string
	packages []installed
	byID     map[string]int // "name:architecture", with the native one for "all"
	extended []byte
	prefs    map[string][]byte
}

// relations are the fields that name other packages.
var relations = []string{"pre-depends", "depends", "recommends", "suggests", "enhances", "conflicts", "breaks", "replaces", "provides"}

var (
	nameRule     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.-]{0,254}$`)
	versionRule  = regexp.MustCompile(`^[A-Za-z0-9.+:~-]{1,255}$`)
	archRule     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	statusRule   = regexp.MustCompile(`^[a-z]+ [a-z]+ [a-z-]+$`)
	wordRule     = regexp.MustCompile(`^[A-Za-z0-9/+.-]{0,64}$`)
	relationRule = regexp.MustCompile(`^[A-Za-z0-9+.:~<>=|,() -]*$`)
	sourceRule   = regexp.MustCompile(`^[A-Za-z0-9+.:~() -]*$`)
	pinRule      = regexp.MustCompile(`^[ -~]+$`)
	priorityRule = regexp.MustCompile(`^-?[0-9]{1,5}$`)
)

// more are the other fields that the solver looks at, with what they may hold.
var more = map[string]*regexp.Regexp{
	"essential": wordRule, "important": wordRule, "protected": wordRule, "priority": wordRule, "section": wordRule,
	"multi-arch": wordRule, "installed-size": wordRule, "source": sourceRule,
}

var statusFields = func() map[string]bool {
	all := map[string]bool{"package": true, "version": true, "architecture": true, "status": true}
	for name := range more {
		all[name] = true
	}
	for _, name := range relations {
		all[name] = true
	}
	return all
}()

func readState(q upgrade.Question) (*state, error) {
	s := &state{native: q.Architecture, byID: map[string]int{}, prefs: map[string][]byte{}}
	for arch := range strings.FieldsSeq(string(q.State.Foreign)) {
		if !archRule.MatchString(arch) {
			return nil, bad("/var/lib/dpkg/arch", 0, "%q is no architecture", arch)
		}
		if arch != s.native && !slices.Contains(s.foreign, arch) {
			s.foreign = append(s.foreign, arch)
		}
	}
	if len(s.foreign) > maxForeign {
		return nil, bad("/var/lib/dpkg/arch", 0, "%d foreign architectures are too many", len(s.foreign))
	}
	slices.Sort(s.foreign)
	if err := s.readStatus(q.State.Status); err != nil {
		return nil, err
	}
	if err := s.readExtended(q.State.Extended); err != nil {
		return nil, err
	}
	return s, s.readPreferences(q.State.Preferences)
}

// maxForeign bounds the lists that one image makes this host fetch.
const maxForeign = 4

func bad(file string, line int, format string, args ...any) error {
	return errs.New(errs.Invalid, CodeState, format, args...).At(errs.Where{File: file, Line: line})
}

const statusFile = "/var/lib/dpkg/status"

func (s *state) readStatus(text []byte) error {
	err := deb.Paragraphs(bytes.NewReader(text), statusFields, func(line int, get func(string) string) error {
		p := installed{Package: deb.Package{Name: get("package"), Version: get("version"), Architecture: get("architecture"), Status: get("status")}, fields: map[string]string{}}
		if p.Version == "" && !p.Installed() {
			return nil // known by name only
		}
		switch {
		case !nameRule.MatchString(p.Name):
			return bad(statusFile, line, "%.60q is no package name", p.Name)
		case !versionRule.MatchString(p.Version):
			return bad(statusFile, line, "%.60q is no version of %s", p.Version, p.Name)
		case !archRule.MatchString(p.Architecture):
			return bad(statusFile, line, "%.60q is no architecture of %s", p.Architecture, p.Name)
		case !statusRule.MatchString(p.Status):
			return bad(statusFile, line, "%.60q is no status of %s", p.Status, p.Name)
		}
		for name, rule := range more {
			if p.fields[name] = get(name); !rule.MatchString(p.fields[name]) {
				return bad(statusFile, line, "the field %s of %s is malformed", name, p.Name)
			}
		}
		for _, name := range relations {
			if p.fields[name] = strings.ReplaceAll(get(name), "\n", " "); !relationRule.MatchString(p.fields[name]) {
				return bad(statusFile, line, "the field %s of %s is malformed", name, p.Name)
			}
		}
		p.Source, p.InstalledSize = p.fields["source"], kib(p.fields["installed-size"])
		if _, twice := s.byID[s.id(p.Name, p.Architecture)]; twice {
			return bad(statusFile, line, "%s is there twice", s.id(p.Name, p.Architecture))
		}
		s.byID[s.id(p.Name, p.Architecture)] = len(s.packages)
		s.packages = append(s.packages, p)
		return nil
	})
	if err != nil {
		return inState(err, statusFile)
	}
	if len(s.packages) == 0 {
		return bad(statusFile, 0, "there is no package in it")
	}
	return nil
}

// inState names the file of an error of the parser, which knows the line only.
func inState(err error, file string) error {
	if errs.CodeOf(err) == CodeState {
		return err
	}
	return errs.Wrap(err, errs.Invalid, CodeState, "%s cannot be read", file)
}

// id is "name:architecture"; packages for all architectures count for the native one, as apt has it.
func (s *state) id(name, arch string) string {
	if arch == "all" || arch == "" {
		arch = s.native
	}
	return name + ":" + arch
}

func (s *state) find(id string) *installed {
	if i, ok := s.byID[id]; ok {
		return &s.packages[i]
	}
	return nil
}

// status is the dpkg status for apt; the packages in hold are held.
func (s *state) status(hold map[string]string) []byte {
	var b bytes.Buffer
	for _, p := range s.packages {
		status := p.Status
		if _, held := hold[s.id(p.Name, p.Architecture)]; held {
			_, rest, _ := strings.Cut(status, " ")
			status = "hold " + rest
		}
		fmt.Fprintf(&b, "Package: %s\nStatus: %s\nArchitecture: %s\nVersion: %s\n", p.Name, status, p.Architecture, p.Version)
		for _, name := range slices.Sorted(maps.Keys(p.fields)) {
			if v := p.fields[name]; v != "" {
				fmt.Fprintf(&b, "%s: %s\n", name, v)
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

const extendedFile = "/var/lib/apt/extended_states"

func (s *state) readExtended(text []byte) error {
	var b bytes.Buffer
	err := deb.Paragraphs(bytes.NewReader(text), nil, func(line int, get func(string) string) error {
		name, arch, auto := get("package"), get("architecture"), get("auto-installed")
		if !nameRule.MatchString(name) || !archRule.MatchString(arch) {
			return bad(extendedFile, line, "%.60q is no package", name+":"+arch)
		}
		if auto == "1" {
			fmt.Fprintf(&b, "Package: %s\nArchitecture: %s\nAuto-Installed: 1\n\n", name, arch)
		}
		return nil
	})
	s.extended = b.Bytes()
	if err != nil {
		return inState(err, extendedFile)
	}
	return nil
}

// readPreferences keeps the records of the files that apt would read (https://manpages.debian.org/apt_preferences).
func (s *state) readPreferences(files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		base := path.Base(name)
		if ext := path.Ext(base); !nameRule.MatchString(strings.ReplaceAll(base, "_", "-")) || ext != "" && ext != ".pref" {
			continue
		}
		var b bytes.Buffer
		err := deb.Paragraphs(bytes.NewReader(files[name]), nil, func(line int, get func(string) string) error {
			pkg, pin, priority := strings.Join(strings.Fields(get("package")), " "), strings.Join(strings.Fields(get("pin")), " "), get("pin-priority")
			if pkg == "" && pin == "" && priority == "" {
				return nil // an explanation only
			}
			if !pinRule.MatchString(pkg) || !pinRule.MatchString(pin) || !priorityRule.MatchString(priority) {
				return bad(name, line, "this is no record of apt's preferences")
			}
			fmt.Fprintf(&b, "Package: %s\nPin: %s\nPin-Priority: %s\n\n", pkg, pin, priority)
			return nil
		})
		if err != nil {
			return inState(err, name)
		}
		// In apt's order: the main file, then those of the folder by their names; the plan's own records come before all.
		key := "2-" + base
		if !strings.Contains(name, "preferences.d") {
			key = "1-" + base
		}
		s.prefs[key] = b.Bytes()
	}
	return nil
}

// kib reads Installed-Size; 0 where it is no number, for it is an estimate anyway.
func kib(text string) int64 {
	var n int64
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || n < 0 || n > 1<<40 {
		return 0
	}
	return n
}
