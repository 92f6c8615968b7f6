package testboot

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// failures are what consoles say where no system comes up any more, with words for people. Each is matched against
// one line, also one that has not ended: prompts do not.
var failures = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`Kernel panic - not syncing`), "the kernel panicked"},
	{regexp.MustCompile(`(You are in|Entering) (emergency|rescue) mode|Give root password for maintenance|Cannot open access to console, the root account is locked|Welcome to emergency mode`),
		"systemd went into emergency mode"},
	{regexp.MustCompile(`^\(initramfs\)|ALERT! .* does not exist\. +Dropping to a shell|Gave up waiting for root (file system )?device|^dracut:/#|dracut-initqueue.*: Warning: .*timeout|No init found\. Try passing init=`),
		"the initial RAM disk did not find the system"},
	{regexp.MustCompile(`grub rescue>|Entering rescue mode\.\.\.|^grub>`), "GRUB did not find its files"},
	{regexp.MustCompile(`No bootable device|Boot failed: not a bootable disk|BdsDxe: No bootable option or device was found|UEFI Interactive Shell`),
		"the firmware found nothing to boot"},
	{regexp.MustCompile(`BUG: unable to handle|Unable to mount root fs`), "the kernel failed"},
}

// hints are pieces of which each failure has one: most lines have none, and a guest can write very many.
var hints = []string{"panic", "mode", "maintenance", "locked", "initramfs", "Dropping", "Gave up", "dracut", "No init", "grub", "bootable", "UEFI", "BUG:", "root fs"}

// failure names what a line says; "" for an ordinary line.
func failure(line string) string {
	if !slices.ContainsFunc(hints, func(h string) bool { return strings.Contains(line, h) }) {
		return ""
	}
	line = strings.TrimSpace(line)
	for _, f := range failures {
		if f.pattern.MatchString(line) {
			return f.text
		}
	}
	return ""
}

// login is the prompt of agetty and of most others.
var login = regexp.MustCompile(`(^|\s)login: *$`)

var escapes = regexp.MustCompile("\x1b(\\[[0-9;?=]*[ -/]*[@-~]|[()][A-Z0-9]|[=>c78])")

// lineEnds are what a terminal makes of one.
var lineEnds = regexp.MustCompile("\r+\n")

// printable drops what could act on a terminal or a log: an image's output is hostile.
func printable(s string) string {
	if strings.Contains(s, "\x1b") {
		s = escapes.ReplaceAllString(s, "")
	}
	if strings.Contains(s, "\r\n") {
		s = lineEnds.ReplaceAllString(s, "\n")
	}
	s = strings.ToValidUTF8(s, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			return r
		case r == '\r':
			return '\n'
		}
		return -1
	}, s)
}
