package offline

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"regexp"
)

// Programs in the control folder that stand before the image's own on the PATH of maintainer scripts. Each knows one usage,
// in which the real program would change nothing or would do its work again at the end, and hands every other one to the
// real program, under its own name and with its own arguments. Scripts that call a program by its absolute path get the real one.

// quickFolder is where upgradeScript puts them.
const quickFolder = controlInside + "/bin"

var activeLine = regexp.MustCompile(`(?m)^[ \t]*[^# \t\n]`)

// quickPrograms names those that can stand in. ucf would bring its templates back where debconf has lost them, and its settings
// may say anything.
func quickPrograms(root *os.Root) []string {
	names := []string{"setpriv", "deb-systemd-helper", "dpkg-maintscript-helper"}
	templates, err := readFile(root, "var/cache/debconf/templates.dat", maxStatus)
	if err != nil || !bytes.Contains(append([]byte("\n"), templates...), []byte("\nName: ucf/changeprompt\n")) {
		return names
	}
	settings, err := readFile(root, "etc/ucf.conf", maxStatus)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || activeLine.Match(settings) {
		return names
	}
	return append(names, "ucf", "ucfr")
}

// ucfStub leaves ucf out where the package's file is the one that ucf saw last and the configuration file is there: ucf then does
// nothing, whatever its policy (ucf(1)), but it first starts debconf, which reads and writes its whole database for that. PHP's
// packages alone call it twenty times in an upgrade. Names that ucf would have to resolve, and those that are diverted or recorded
// more than once, are its own business; so is a running debconf, and any variable or option that this does not know.
const ucfStub = `#!/bin/sh
real() { exec /usr/bin/ucf "$@"; }
new= file= options=1
for word in "$@"; do
	case $options$word in
	1--three-way | 1--debconf-ok) ;;
	*[!A-Za-z0-9/._+-]*) real "$@" ;;
	[10]/*)
		options=0
		if [ -z "$new" ]; then new=$word; elif [ -z "$file" ]; then file=$word; else real "$@"; fi
		;;
	*) real "$@" ;;
	esac
done
[ -n "$file" ] && [ -f "$new" ] && [ -f "$file" ] && [ ! -L "$file" ] || real "$@"
[ -z "${DEBIAN_HAS_FRONTEND:-}${UCF_STATE_DIR:-}${UCF_SOURCE_DIR:-}${UCF_OLD_MDSUM_FILE:-}" ] || real "$@"
[ -d /var/lib/ucf/cache ] || real "$@"
[ "$(cd -P "${file%/*}/" && pwd -P)" = "${file%/*}" ] || real "$@"
sum=$(md5sum <"$new") || real "$@"
[ "$(grep -h -F -e "$file" /var/lib/ucf/hashfile /var/lib/dpkg/diversions 2>/dev/null)" = "${sum%% *}  $file" ] || real "$@"
`

// ucfrStub leaves ucfr out where its registry says already what it is to say.
const ucfrStub = `#!/bin/sh
real() { exec /usr/bin/ucfr "$@"; }
case $# in
2) package=$1 file=$2 ;;
3) package=$2 file=$3; [ "$1" = --force ] || real "$@" ;;
*) real "$@" ;;
esac
case $package,$file in
*[!A-Za-z0-9/._,+-]* | -*) real "$@" ;;
*,/*) ;;
*) real "$@" ;;
esac
[ -z "${UCF_STATE_DIR:-}" ] && [ ! -L "$file" ] && [ -d "${file%/*}" ] || real "$@"
[ "$(cd -P "${file%/*}/" && pwd -P)" = "${file%/*}" ] || real "$@"
set -f
line=$(grep -F -e "$file" /var/lib/ucf/registry 2>/dev/null) || real "$@"
[ "$(printf '%s\n' $line)" = "$package
$file" ] || real "$@"
`

// setprivStub puts the index of manuals off to the end of the upgrade, where it is made beside the store of certificates.
// man-db's postinst takes no notice of how it ends, and neither does the end.
const setprivStub = `#!/bin/sh
if [ "${DPKG_MAINTSCRIPT_PACKAGE:-},${DPKG_MAINTSCRIPT_NAME:-}" = man-db,postinst ]; then
	case "$*" in
	"--reuid man --regid man --init-groups -- /usr/bin/mandb -pq")
		echo asked >>/run/kiln/deferred/manuals
		exit 0
		;;
	esac
fi
exec /usr/bin/setpriv "$@"
`

// systemdStub leaves deb-systemd-helper, a large program of perl, out where a unit is to be unmasked that is not masked, and no
// folder of masks is there that it would tidy up.
const systemdStub = `#!/bin/sh
real() { exec /usr/bin/deb-systemd-helper "$@"; }
[ $# = 2 ] && [ "$1" = unmask ] && [ -n "${DPKG_MAINTSCRIPT_PACKAGE:-}" ] && [ -z "${DPKG_ROOT:-}${_DEB_SYSTEMD_HELPER_DEBUG:-}" ] || real "$@"
case $2 in
"" | -* | *[!A-Za-z0-9@_.-]*) real "$@" ;;
esac
for name in /etc/systemd/system/$2 /var/lib/systemd/deb-systemd-helper-masked /var/lib/systemd/deb-systemd-user-helper-masked; do
	[ ! -e "$name" ] && [ ! -L "$name" ] || real "$@"
done
`

// maintscriptStub leaves dpkg-maintscript-helper out where what a package is to be rid of is gone for long, and nothing of it is
// kept. The helper would compare versions first, and then do nothing.
const maintscriptStub = `#!/bin/sh
real() { exec /usr/bin/dpkg-maintscript-helper "$@"; }
command=${1:-} name=${2:-}
case $command,$name in
rm_conffile,/* | dir_to_symlink,/*) ;;
*) real "$@" ;;
esac
[ -n "${DPKG_MAINTSCRIPT_NAME:-}" ] && [ -n "${DPKG_MAINTSCRIPT_PACKAGE:-}" ] && [ -z "${DPKG_ROOT:-}${DPKG_DEBUG:-}" ] || real "$@"
given() {
	while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
	[ -n "${2:-}" ]
}
given "$@" || real "$@"
[ "$command" = rm_conffile ] || { [ -n "$3" ] && [ "$3" != -- ]; } || real "$@"
name=${name%/}
[ ! -e "$name" ] || [ "$command" = dir_to_symlink ] || real "$@"
[ ! -d "$name" ] || [ -L "$name" ] || real "$@"
for kept in "$name.dpkg-backup" "$name.dpkg-remove" "$name.dpkg-bak"; do
	[ ! -e "$kept" ] && [ ! -L "$kept" ] || real "$@"
done
`
