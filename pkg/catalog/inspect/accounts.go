package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

// Bounds of the lists among the facts: more is no image that anybody made on purpose.
const (
	maxUsers  = 10_000
	maxSetuid = 10_000
	maxUnits  = 10_000
)

// readUsers lists who can have a shell (https://manpages.debian.org/passwd.5, shadow.5).
func readUsers(facts *catalog.Facts, fsys fileSystem) error {
	passwd, err := optional(fsys, "/etc/passwd", 4<<20)
	if err != nil {
		return err
	}
	shadow, err := optional(fsys, "/etc/shadow", 4<<20)
	if err != nil {
		return err
	}
	passwords := map[string]string{}
	for line := range strings.Lines(shadow) {
		if f := strings.Split(line, ":"); len(f) > 1 {
			passwords[f[0]] = passwordState(f[1])
		}
	}
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 || !loginShell(f[6]) || len(facts.Users) >= maxUsers {
			continue
		}
		uid, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			continue
		}
		u := catalog.User{Name: clean(f[0]), UID: uid, Shell: clean(f[6]), Password: "unknown"}
		if f[1] != "x" {
			u.Password = passwordState(f[1])
		} else if state, ok := passwords[f[0]]; ok {
			u.Password = state
		}
		facts.Users = append(facts.Users, u)
	}
	return nil
}

func loginShell(shell string) bool {
	switch path.Base(shell) {
	case "nologin", "false", "true", "sync", "halt", "shutdown":
		return false
	}
	return true // also "", which is /bin/sh
}

func passwordState(field string) string {
	switch {
	case field == "":
		return "none"
	case strings.HasPrefix(field, "!"), strings.HasPrefix(field, "*"):
		return "locked"
	}
	return "set"
}

// readSetuid lists the programs that run as another user than who starts them.
func readSetuid(ctx context.Context, facts *catalog.Facts, fsys fileSystem) error {
	return fsys.Walk(ctx, MaxFiles, func(n tree.Node) error {
		if n.Mode&tree.TypeMask != tree.TypeFile || n.Mode&0o6000 == 0 || n.Mode&0o111 == 0 {
			return nil
		}
		if len(facts.Setuid) >= maxSetuid {
			return fmt.Errorf("%w: more than %d setuid programs", tree.ErrCorrupt, maxSetuid)
		}
		facts.Setuid = append(facts.Setuid, catalog.Setuid{
			Path: strings.ToValidUTF8(n.Path, "\uFFFD"), Mode: fmt.Sprintf("%04o", n.Mode&0o7777), UID: n.UID, GID: n.GID,
		})
		return nil
	})
}

// Where systemd looks for units, the administrator's first.
var unitDirs = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// readServices lists the units that start by themselves: those that another unit wants or requires by a link in /etc,
// and for an image whose first boot applies presets those that a preset enables by name
// (https://manpages.debian.org/systemd.preset.5, machine-id.5).
func readServices(facts *catalog.Facts, fsys fileSystem) error {
	units := map[string]bool{}
	const etc = "/etc/systemd/system"
	dirs, err := list(fsys, etc)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if !strings.HasSuffix(dir, ".wants") && !strings.HasSuffix(dir, ".requires") && !strings.HasSuffix(dir, ".upholds") {
			continue
		}
		names, err := list(fsys, etc+"/"+dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			units[name] = true
		}
	}
	if facts.MachineID == "missing" || facts.MachineID == "uninitialized" {
		if err := presets(fsys, units); err != nil {
			return err
		}
	}
	for name := range units {
		if masked, err := isMasked(fsys, name); err != nil || masked {
			delete(units, name)
		}
	}
	if len(units) > maxUnits {
		return fmt.Errorf("%w: more than %d units", tree.ErrCorrupt, maxUnits)
	}
	for name := range units {
		facts.Services = append(facts.Services, clean(name))
	}
	slices.Sort(facts.Services)
	return nil
}

// isMasked reports whether a unit is a link to /dev/null or an empty file in /etc.
func isMasked(fsys fileSystem, unit string) (bool, error) {
	target, err := fsys.ReadLink("/etc/systemd/system/" + unit)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return false, nil
	}
	return target == "/dev/null", err
}

// presets adds the units that exist and that a preset names. The first line about a unit counts; patterns are left
// alone, because what they enable depends on more than the tree tells.
func presets(fsys fileSystem, units map[string]bool) error {
	files := map[string]string{} // by name: /etc hides /usr/lib
	for _, dir := range []string{"/lib/systemd/system-preset", "/usr/lib/systemd/system-preset", "/etc/systemd/system-preset"} {
		names, err := list(fsys, dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasSuffix(name, ".preset") {
				files[name] = dir + "/" + name
			}
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	told := map[string]bool{}
	for _, name := range names {
		text, err := optional(fsys, files[name], maxText)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || strings.ContainsAny(words[1], "*?[@/") || told[words[1]] {
				continue
			}
			told[words[1]] = true
			if words[0] == "enable" && unitExists(fsys, words[1]) {
				units[words[1]] = true
			}
		}
	}
	return nil
}

func unitExists(fsys fileSystem, name string) bool {
	return slices.ContainsFunc(unitDirs, func(dir string) bool {
		_, err := fsys.Stat(dir + "/" + name)
		return err == nil
	})
}

// list names what is in a directory; nothing where there is none.
func list(fsys fileSystem, dir string) ([]string, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// optional reads a file; "" where there is none.
func optional(fsys fileSystem, name string, limit int64) (string, error) {
	text, err := fsys.ReadFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return "", nil
	}
	return string(text), err
}
