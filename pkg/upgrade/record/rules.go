package record

import (
	"path"
	"slices"
	"strings"
)

// outside are the folders of the sandbox: nothing in them is the image's.
var outside = []string{"proc", "sys", "dev", "run", "tmp"}

// own are what one machine has for itself. The upgrade puts identity back as it was (offline's identity files), so a
// change of it is no change.
var own = []string{
	"etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/hosts", "etc/mailname", "etc/resolv.conf",
	"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/private/ssl-cert-snakeoil.key",
}

// secret are names that must never travel from one image into another. Where a change touches one there is no record.
var secret = []string{
	"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid", "etc/ssl/private", "var/lib/systemd/random-seed",
	"var/cache/debconf/passwords.dat", "root", "home",
}

// derived are made from the whole image: they are left as they are, and a trigger makes them anew where it is needed.
var derived = map[string]string{
	"etc/ld.so.cache":              "ldconfig",
	"var/cache/ldconfig/aux-cache": "ldconfig",
	"var/cache/ldconfig":           "",
}

// merged are databases with rules of their own; they are no entries.
var merged = []string{statusFile, pendingFile, extendedFile, configFile, templatesFile}

// passing are locks, backups and logs: dpkg and apt make them anew, or nobody reads them.
var passing = []string{
	"var/lib/dpkg/status-old", "var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend",
	"var/lib/dpkg/triggers/Lock", "var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old", "var/cache/debconf/passwords.dat-old",
	"var/lib/apt/extended_states.bak", "var/lib/apt/daily_lock", "var/cache/apt", "var/lib/apt/lists", "var/lib/dpkg/updates",
}

// logs get what was written into them on the first image.
var logs = []string{"var/log/dpkg.log", "var/log/alternatives.log", "var/log/apt/history.log"}

func below(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return name == f || strings.HasPrefix(name, f+"/") })
}

func isOwn(name string) bool {
	return slices.Contains(own, name) || strings.HasPrefix(name, "etc/ssh/ssh_host_")
}

// isSecret knows files with keys, passwords and users, and their backups ("passwd-").
func isSecret(name string) bool {
	return below(strings.TrimSuffix(name, "-"), secret) || strings.HasSuffix(name, ".key") || strings.HasSuffix(path.Base(name), "_key")
}

// Programs whose reading of a database says nothing about the whole of it.
var (
	dpkgTools = []string{"dpkg", "dpkg-query", "dpkg-divert", "dpkg-statoverride", "dpkg-trigger", "dpkg-split", "dpkg-deb", "update-alternatives"}
	aptTools  = []string{"apt-get", "apt-config", "apt-extracttemplates"}
	users     = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"}
)

// reader is who looks at a name.
type reader struct {
	program string   // base name of the executable
	args    []string // its command line; nil where it does not count
}

// waived reports whether an access proves nothing about the image that the checks do not prove in another way.
func waived(name string, r reader) bool {
	switch {
	case name == "etc/ld.so.cache":
		return true // where it leads is opened, and what it lacks is looked for in folders: both are inputs
	case r.program == "ldconfig" || r.program == "ldconfig.real":
		return true // derived: it runs again on each image
	case below(name, merged), below(name, passing):
		return slices.Contains(dpkgTools, r.program) || slices.Contains(aptTools, r.program) || r.program == "perl" && strings.HasPrefix(name, "var/cache/debconf/")
	case strings.HasPrefix(name, infoFolder):
		return slices.Contains(dpkgTools, r.program) || slices.Contains(aptTools, r.program)
	case below(name, []string{triggersFolder}), name == diversionsFile, name == overridesFile, name == "var/lib/dpkg":
		return slices.Contains(dpkgTools, r.program) || slices.Contains(aptTools, r.program)
	case below(name, logs), strings.HasPrefix(name, "var/log/apt"):
		return slices.Contains(dpkgTools, r.program) || slices.Contains(aptTools, r.program)
	case slices.Contains(aptTools, r.program):
		// What apt decides is proven by the plan of each image, and its settings are in the key of the record.
		return strings.HasPrefix(name, "var/lib/apt") || strings.HasPrefix(name, "var/cache/apt") || strings.HasPrefix(name, "etc/apt")
	}
	return false
}

// triggerOf is what a dpkg-trigger(1) was called to activate; "" where it was called for something else.
func triggerOf(args []string) string {
	if slices.Contains(args, "--check-supported") || slices.Contains(args, "--no-act") {
		return ""
	}
	for _, name := range operands(args, "--by-package", "--admindir", "--root") {
		return name
	}
	return ""
}

// asked gives the packages that a dpkg-query was asked about; ok is false where it was asked about all or by a pattern.
func asked(args []string) (names []string, ok bool) {
	names = operands(args, "-f", "--admindir", "--root")
	if slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, "*?[") }) {
		return nil, false
	}
	return names, len(names) > 0
}

// operands are the words of a command line that are neither options nor the values of those that are named.
func operands(args []string, valued ...string) (out []string) {
	skip := true // the program's own name
	for _, a := range args {
		switch {
		case skip:
			skip = false
		case slices.Contains(valued, a):
			skip = true
		case !strings.HasPrefix(a, "-"):
			out = append(out, a)
		}
	}
	return out
}
