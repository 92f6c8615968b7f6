package scripts

import (
	"regexp"
	"slices"
	"strings"
)

// kind is what a command means for an image that does not run.
type kind int

const (
	harmless kind = iota // files of the image only
	diverted             // a no-op in the sandbox, or done once at the end by Kiln
	live                 // changes what the kernel or a program holds in memory; a system that boots does it by itself
	data                 // changes data through a program that must run
)

// known are the commands that are more than harmless. Everything else changes files of the image only, as far as we know.
var known = map[string]kind{
	// Services are not started: there is no systemd in the sandbox, and policy-rc.d forbids the rest.
	"invoke-rc.d": diverted, "service": diverted, "systemctl": diverted, "deb-systemd-invoke": diverted, "start-stop-daemon": diverted, "initctl": diverted,
	"telinit": diverted, "runit-helper": diverted, "rc-service": diverted, "needrestart": diverted, "loginctl": diverted, "journalctl": diverted, "timedatectl": diverted, "hostnamectl": diverted, "localectl": diverted,
	// Once at the end, or kept from the image: its identity and its boot.
	"update-initramfs": diverted, "mkinitramfs": diverted, "dracut": diverted, "update-grub": diverted, "update-grub2": diverted, "grub-mkconfig": diverted, "grub-install": diverted,
	"grub-multi-install": diverted, "bootctl": diverted, "kernel-install": diverted, "flash-kernel": diverted, "ssh-keygen": diverted, "systemd-machine-id-setup": diverted, "dbus-uuidgen": diverted, "zipl": diverted, "efibootmgr": diverted,
	"systemd-update-helper": diverted, "grub2-mkconfig": diverted, "grub2-install": diverted, "grubby": diverted, "new-kernel-pkg": diverted,
	"linux-update-symlinks": harmless,
	// The kernel's and the daemons' memory.
	"modprobe": live, "insmod": live, "rmmod": live, "sysctl": live, "udevadm": live, "dbus-send": live, "gdbus": live, "busctl": live, "mount": live, "umount": live, "swapon": live, "swapoff": live,
	"losetup": live, "vgchange": live, "lvchange": live, "dmsetup": live, "cryptsetup": live, "ip": live, "ifup": live, "ifdown": live, "iptables": live, "iptables-restore": live, "ip6tables-restore": live, "nft": live, "ipset": live,
	"kill": live, "killall": live, "pkill": live, "apparmor_parser": live, "aa-remove-unknown": live, "setenforce": live, "load_policy": live, "ebtables-restore": live, "nmcli": live, "firewall-cmd": live, "rndc": live, "chronyc": live, "ntpq": live,
	"hwclock": live, "setupcon": diverted, "loadkeys": live, "setfont": live, "unbound-control": live, "postqueue": live, "lpadmin": live, "cupsctl": live, "brctl": live, "tc": live, "ethtool": live, "ovs-vsctl": data,
	// Data that only a running program can reach.
	"dbc_go": data, // dbconfig-common: changes the tables of a database that must run
	"psql":   data, "createdb": data, "dropdb": data, "createuser": data, "dropuser": data, "pg_upgradecluster": data, "pg_dropcluster": data, "pg_ctlcluster": data, "pg_dumpall": data, "vacuumdb": data, "reindexdb": data,
	"mysql": data, "mariadb": data, "mysqladmin": data, "mariadb-admin": data, "mysql_upgrade": data, "mariadb-upgrade": data, "mysqlcheck": data, "mysqldump": data, "mongo": data, "mongosh": data, "redis-cli": data, "rabbitmqctl": data,
	"ldapadd": data, "ldapmodify": data, "ldapsearch": data, "docker": data, "podman": data, "ctr": data, "kubectl": data, "lxc": data, "lxd": data, "virsh": data, "ceph": data, "gluster": data, "nodetool": data, "consul": data, "vault": data, "etcdctl": data,
	"reboot": data, "shutdown": data, "halt": data, "poweroff": data, "kexec": data, "init": data,
}

// kindOf tells what a command means, with its arguments looked at where they matter.
func kindOf(c command) kind {
	if c.name == ">" {
		return live // /proc and /sys
	}
	k := known[c.name]
	asks := func(words ...string) bool {
		return slices.ContainsFunc(c.args, func(a string) bool { return slices.Contains(words, a) })
	}
	switch {
	case c.name == "kill" && asks("-0"), k != harmless && asks("--version", "-V", "--help"):
		return harmless
	case c.name == "init" && len(c.args) > 0 && !slices.Contains([]string{"0", "6"}, c.args[0]):
		return diverted
	case c.name == "udevadm" && asks("hwdb", "--version", "verify"):
		return harmless
	case c.name == "apparmor_parser" && asks("-Q", "--skip-kernel-load", "-S", "--preprocess"):
		return harmless
	case c.name == "cryptsetup" && asks("isLuks", "luksUUID"), c.name == "ip" && len(c.args) == 0, c.name == "mount" && len(c.args) == 0:
		return harmless
	case c.name == "systemctl" && (asks("reboot", "poweroff", "kexec", "halt")):
		return data
	case (c.name == "pg_dropcluster" || c.name == "pg_ctlcluster") && !asks("promote"):
		return diverted // they stop or start a server, or remove one's files
	}
	return k
}

// class is what a command makes of its package, "" where nothing.
func class(c command) (needs, touches bool) {
	switch kindOf(c) {
	case harmless:
		return false, false
	case diverted:
		return false, true
	case live:
		// Where the script goes on without it, nothing is lost: the next boot does it.
		return c.required && !c.live, true
	case data:
		return !c.live, true
	}
	return false, false
}

// inOthers finds the same commands in scripts of other languages, where they are called by system, exec and their like.
var (
	callRule = regexp.MustCompile("\\b(?:system|exec|qx|popen|run|call|check_call|check_output|Popen|spawn)\\b|`")
	wordRule = regexp.MustCompile(`[A-Za-z0-9_.-]+`)
)

// calls lists the known commands that a line of perl or python calls.
func calls(line string, number int) []command {
	if !callRule.MatchString(line) {
		return nil
	}
	var out []command
	words := wordRule.FindAllString(line, -1)
	for i, word := range words {
		if _, ok := known[word]; ok && strings.ContainsAny(line, "\"'`") && word != "init" && word != "mount" && word != "kill" && word != "service" && word != "ip" {
			out = append(out, command{name: word, args: words[i+1:], line: number})
		}
	}
	return out
}
