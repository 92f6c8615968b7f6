package steps

import (
	"fmt"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// AptInstall installs packages as the native builder does: without recommended ones, keeping no questions open.
const AptInstall = "apt-get -q -y -o APT::Install-Recommends=false -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 " +
	"-o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confnew install "

func users(list []recipe.User) string {
	var out strings.Builder
	for _, u := range list {
		shell := u.Shell
		if shell == "" {
			shell = "/bin/bash"
		}
		name := Quote(u.Name)
		fmt.Fprintf(&out, "id -u %[1]s >/dev/null 2>&1 || useradd --create-home --user-group --shell %[2]s %[1]s\n", name, Quote(shell))
		for _, g := range u.Groups {
			fmt.Fprintf(&out, "getent group %[1]s >/dev/null || groupadd %[1]s\nusermod --append --groups %[1]s %[2]s\n", Quote(g), name)
		}
		if u.Sudo {
			fmt.Fprintf(&out, "install -d -m 0750 /etc/sudoers.d\nprintf '%%s ALL=(ALL) NOPASSWD:ALL\\n' %[1]s >/etc/sudoers.d/90-%[2]s\nchmod 0440 /etc/sudoers.d/90-%[2]s\n", name, u.Name)
		}
		if len(u.SSHKeys) > 0 {
			fmt.Fprintf(&out, "home=$(getent passwd %[1]s | cut -d: -f6)\ninstall -d -m 0700 -o %[1]s -g \"$(id -g %[1]s)\" \"$home/.ssh\"\n"+
				"printf '%%s\\n' %[2]s >\"$home/.ssh/authorized_keys\"\nchown %[1]s: \"$home/.ssh/authorized_keys\"\nchmod 0600 \"$home/.ssh/authorized_keys\"\n",
				name, Quote(strings.Join(u.SSHKeys, "\n")))
		}
	}
	return out.String()
}

func services(s recipe.Services) string {
	var out strings.Builder
	for _, unit := range s.Enable {
		fmt.Fprintf(&out, "systemctl enable -- %s\n", Quote(unit))
	}
	for _, unit := range s.Disable {
		fmt.Fprintf(&out, "systemctl disable -- %s\n", Quote(unit))
	}
	return out.String()
}

// cloudInit writes where cloud-init asks for its data, over what Debian's package asked debconf.
func cloudInit(sources []string) string {
	return "command -v cloud-init >/dev/null || " + AptInstall + "cloud-init\n" +
		"mkdir -p /etc/cloud/cloud.cfg.d\nprintf '%s\\n' " + Quote("datasource_list: ["+strings.Join(sources, ", ")+"]") + " >/etc/cloud/cloud.cfg.d/95_kiln.cfg\n"
}

// Quote makes one word of the shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Words makes words of the shell.
func Words(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = Quote(s)
	}
	return strings.Join(quoted, " ")
}
