package scripts

import (
	"fmt"
	"io"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// ClassifyRPM reads the scriptlets of an rpm package file, of which only the header is read; fresh says that it comes where
// no version of it was. rpm's shell goes on after a command that fails, so a command is required where the script says
// set -e, or where it is the last: its status is the scriptlet's. The scriptlets that an old version runs when it goes are
// taken to be those of the new one. errs.Invalid rpm.CodePackage where the file is no package.
func ClassifyRPM(r io.Reader, fresh bool) (Verdict, error) {
	all, err := rpm.ReadScriptlets(r)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Script: upgrade.ScriptNone}
	for _, s := range all {
		if v.Script == upgrade.ScriptNone {
			v.Script = upgrade.ScriptSafe
		}
		for _, c := range commandsOfRPM(s, fresh) {
			needs, touches := class(c)
			why := fmt.Sprintf("%s line %d: %s", s.Name, c.line, c.text())
			switch {
			case needs:
				return Verdict{Script: upgrade.ScriptRunning, Why: why}, nil
			case touches && v.Script == upgrade.ScriptSafe:
				v = Verdict{Script: upgrade.ScriptDivert, Why: why}
			}
		}
	}
	return v, nil
}

// commandsOfRPM are the commands of a scriptlet that an upgrade runs. $1 is how many versions of the package there will be
// (https://rpm-software-management.github.io/rpm/manual/scriptlet_expansion.html).
func commandsOfRPM(s rpm.Scriptlet, fresh bool) []command {
	count := 2
	switch {
	case s.Name == "preun" || s.Name == "postun":
		if fresh {
			return nil
		}
		count = 1
	case fresh:
		count = 1
	case strings.Contains(s.Name, "trigger"):
		count = unknownCount
	}
	program := base(s.Program)
	switch {
	case s.Text == "":
		return []command{{name: program, line: 1, required: true}}
	case program != "sh" && program != "bash" && program != "dash" && program != "ksh":
		// Lua calls programs by os.execute, rpm.execute and posix.exec.
		return commandsOf("#!" + s.Program + "\n" + strings.ReplaceAll(s.Text, "execute", "exec"))
	}
	return commands(s.Text, false, count, 0)
}
