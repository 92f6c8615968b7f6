// Package scripts reads the maintainer scripts of a package, without running anything, and says whether they can run in an
// image that is not booted: they change files only, or also things that the sandbox diverts, or they need a running system.
package scripts

import (
	"fmt"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Names are the maintainer scripts (https://www.debian.org/doc/debian-policy/ch-maintainerscripts.html), in the order in
// which an upgrade runs them.
var Names = []string{"config", "prerm", "preinst", "postrm", "postinst"}

// Verdict is what a package's scripts need.
type Verdict struct {
	Script upgrade.Script
	Why    string // the script, the line and the command that decided; "" for none and safe
}

// Classify reads the scripts of a package, by their names. The shell is read roughly: its commands with the tests around
// them, and of a script's actions those of an upgrade. A command that is not known changes files of the image, as far as
// anybody can tell; one that is known to need a running program or kernel makes the package ScriptRunning, but not where the
// script does it on a running system only, and not where the next boot does it anyway and the script goes on without it.
func Classify(files map[string][]byte) Verdict {
	v := Verdict{Script: upgrade.ScriptNone}
	for _, name := range Names {
		text, ok := files[name]
		if !ok {
			continue
		}
		if v.Script == upgrade.ScriptNone {
			v.Script = upgrade.ScriptSafe
		}
		for _, c := range commandsOf(string(text)) {
			if name == "config" && c.name == "dbc_go" {
				continue // there it only asks
			}
			needs, touches := class(c)
			why := fmt.Sprintf("%s line %d: %s", name, c.line, c.text())
			switch {
			case needs:
				return Verdict{Script: upgrade.ScriptRunning, Why: why}
			case touches && v.Script == upgrade.ScriptSafe:
				v = Verdict{Script: upgrade.ScriptDivert, Why: why}
			}
		}
	}
	return v
}

func commandsOf(text string) []command {
	first, _, _ := strings.Cut(text, "\n")
	switch {
	case strings.HasPrefix(text, "\x7fELF"):
		return []command{{name: "service", args: []string{"(a program, which cannot be read)"}, line: 1}}
	case !strings.HasPrefix(first, "#!") || strings.Contains(first, "sh"):
		return commands(text, false, 0, 0)
	}
	var out []command
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			out = append(out, calls(line, number)...)
		}
	}
	return out
}
