package scripts_test

import (
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/scripts"
)

func TestWhatAScriptNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		script string // a postinst under set -e
		want   upgrade.Script
		why    string
	}{
		"files only":                 {"install -d /var/lib/web\nadduser --system web\nldconfig\nupdate-alternatives --install a b c 1\npy3compile -p x", upgrade.ScriptSafe, ""},
		"a service":                  {"if [ \"$1\" = configure ]; then\n  invoke-rc.d web restart || exit 1\nfi", upgrade.ScriptDivert, "postinst line 4: invoke-rc.d web restart"},
		"systemd":                    {"deb-systemd-invoke restart web.service >/dev/null || true", upgrade.ScriptDivert, "deb-systemd-invoke"},
		"the initial RAM disk":       {"update-initramfs -u", upgrade.ScriptDivert, "update-initramfs -u"},
		"a database":                 {"echo 'UPDATE x' | psql -U postgres app", upgrade.ScriptRunning, "postinst line 3: psql -U postgres app"},
		"a database as another user": {"su postgres -c \"psql -c 'select 1'\"", upgrade.ScriptRunning, "psql -c select 1"},
		"a database in a variable":   {"v=$(mysql -Ne 'select version()')", upgrade.ScriptRunning, "mysql -Ne"},
		"a database by its path":     {"/usr/bin/mysql_upgrade --defaults-file=/etc/mysql/debian.cnf || true", upgrade.ScriptRunning, "mysql_upgrade"},
		"only where it runs":         {"if [ -d /run/systemd/system ]; then\n  psql -c 'x'\nfi", upgrade.ScriptDivert, "psql"},
		"only where it does not run": {"if [ ! -d /run/systemd/system ]; then\n  psql -c 'x'\nfi", upgrade.ScriptRunning, "psql"},
		"or else":                    {"if [ ! -S /run/x.sock ]; then\n  true\nelse\n  docker load -i x\nfi", upgrade.ScriptDivert, "docker"},
		"and":                        {"pidof named && rndc reload", upgrade.ScriptDivert, "rndc"},
		"looked for only":            {"if command -v docker >/dev/null; then echo docker; fi\nwhich psql mysql || true", upgrade.ScriptSafe, ""},
		"in a comment and a text":    {"# psql\necho 'run psql now; reboot'\ncat <<EOF\npsql -c x\nreboot\nEOF\ntrue", upgrade.ScriptSafe, ""},
		"a module, required":         {"modprobe fuse", upgrade.ScriptRunning, "modprobe fuse"},
		"a module, if it works":      {"modprobe fuse || true", upgrade.ScriptDivert, "modprobe fuse"},
		"settings, required":         {"sysctl --system", upgrade.ScriptRunning, "sysctl --system"},
		"devices, asked first":       {"if udevadm trigger; then :; fi", upgrade.ScriptDivert, "udevadm"},
		"the kernel's files":         {"echo 1 > /proc/sys/net/ipv4/ip_forward", upgrade.ScriptRunning, "> /proc/sys/net/ipv4/ip_forward"},
		"nothing of them":            {"echo 1 > /etc/x 2>/dev/null", upgrade.ScriptSafe, ""},
		"dbus":                       {"dbus-send --system --dest=a b", upgrade.ScriptRunning, "dbus-send"},
		"reboot":                     {"reboot", upgrade.ScriptRunning, "reboot"},
		"reboot as a case":           {"case $x in reboot|shutdown) true ;; esac", upgrade.ScriptSafe, ""},
		"at removal only":            {"case \"$1\" in\n  remove|purge)\n    psql -c 'drop'\n  ;;\n  configure)\n    true\n  ;;\nesac", upgrade.ScriptSafe, ""},
		"at removal only, by if":     {"if [ \"$1\" = purge ]; then mysql -e 'drop'; fi", upgrade.ScriptSafe, ""},
		"at every action":            {"case \"$1\" in *) psql -c x ;; esac", upgrade.ScriptRunning, "psql"},
		"a function of its own":      {"mysql() { cat; }\nmysql < /etc/passwd", upgrade.ScriptSafe, ""},
		"in a function":              {"f() {\n  rabbitmqctl list_queues\n}\nf", upgrade.ScriptRunning, "postinst line 4: rabbitmqctl"},
		"by sh -c":                   {"sh -c 'env A=1 timeout 5 redis-cli save'", upgrade.ScriptRunning, "redis-cli save"},
		"dbconfig-common":            {". /usr/share/dbconfig-common/dpkg/postinst.mysql\ndbc_go app \"$@\"", upgrade.ScriptRunning, "dbc_go app"},
		"continued lines":            {"true \\\n  && \\\n  psql", upgrade.ScriptRunning, "line 5: psql"},
		"not careful":                {"set +e\nmodprobe x || :", upgrade.ScriptDivert, "modprobe"},
		"its version only":           {"psql --version", upgrade.ScriptSafe, ""},
		"a program that is there":    {"kill -0 1", upgrade.ScriptSafe, ""},
	} {
		v := scripts.Classify(map[string][]byte{"postinst": []byte("#!/bin/sh\nset -e\n" + c.script + "\n")})
		if v.Script != c.want || !strings.Contains(v.Why, c.why) || c.why == "" && v.Why != "" {
			t.Errorf("%s: %s, %q; want %s, %q", name, v.Script, v.Why, c.want, c.why)
		}
	}
}

func TestWhatAPackageNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string][]byte
		want  upgrade.Script
	}{
		"no scripts":         {nil, upgrade.ScriptNone},
		"the worst decides":  {map[string][]byte{"prerm": []byte("#!/bin/sh\nset -e\nreboot\n"), "postinst": []byte("#!/bin/sh\nldconfig\n")}, upgrade.ScriptRunning},
		"without set -e":     {map[string][]byte{"postinst": []byte("#!/bin/sh\nmodprobe x\n")}, upgrade.ScriptDivert},
		"set -e by its line": {map[string][]byte{"postinst": []byte("#!/bin/sh -e\nmodprobe x\n")}, upgrade.ScriptRunning},
		"perl":               {map[string][]byte{"postinst": []byte("#!/usr/bin/perl\n# system psql\nsystem(\"psql -c x\");\n")}, upgrade.ScriptRunning},
		"perl, harmless":     {map[string][]byte{"postinst": []byte("#!/usr/bin/perl\nprint \"psql\";\n")}, upgrade.ScriptSafe},
		"python":             {map[string][]byte{"postinst": []byte("#!/usr/bin/python3\nsubprocess.check_call(['invoke-rc.d', 'x', 'restart'])\n")}, upgrade.ScriptDivert},
		"a program":          {map[string][]byte{"postinst": []byte("\x7fELF")}, upgrade.ScriptDivert},
		"garbage":            {map[string][]byte{"postinst": []byte("'\"`$(${((;;)) case in esac if fi { <<")}, upgrade.ScriptSafe},
	} {
		if v := scripts.Classify(c.files); v.Script != c.want {
			t.Errorf("%s: %s, %q; want %s", name, v.Script, v.Why, c.want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte("#!/bin/sh -e\ncase \"$1\" in a|b) if x; then y `z $(w)`; fi;; esac\ncat <<-E\n\tE\n"))
	f.Add([]byte("f() { ${a#{b}} \"$(c '(' )\" | d && e; }; function g { su x -c 'h <<E' ; }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, name := range scripts.Names {
			if v := scripts.Classify(map[string][]byte{name: text}); v.Script == upgrade.ScriptNone {
				t.Errorf("a script that is no script: %q", text)
			}
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\ncontrol.tar     0           0     0     100644  0         `\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = scripts.Read(strings.NewReader(string(data))) // must end, and must not panic
	})
}
