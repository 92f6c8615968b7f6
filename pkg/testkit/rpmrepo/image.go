package rpmrepo

import (
	"path/filepath"
	"testing"
)

// System is the base of a made-up rpm distribution, Example 9: a shell, the folders, and what identifies it.
func System() Package {
	links := map[string]string{"/bin": "usr/bin"}
	for _, name := range []string{"sh", "id", "wget", "cat", "mkdir", "chmod", "cp", "grep", "ls", "mknod", "mount"} {
		links["/usr/bin/"+name] = "busybox"
	}
	return Package{
		Name: "base", Version: "1", Fields: "Provides: /bin/sh\n", Dirs: []string{"/proc", "/dev", "/run", "/tmp", "/root", "/var/lib/tool", "/usr/sbin", "/boot"},
		Files: map[string]string{ //nolint:gosec // no password is in it
			"/etc/os-release": "ID=example\nVERSION_ID=9\nPRETTY_NAME=\"Example 9\"\n", "/etc/passwd": "root:x:0:0::/root:/bin/sh\ntool:x:99:99::/:/bin/false\n",
			"/etc/group": "root:x:0:\ntool:x:99:\n",
		},
		Copies: map[string]string{"/usr/bin/busybox": "/bin/busybox"}, Links: links,
	}
}

// Tool is a package with configuration of both kinds and a changelog, which needs a Lib of its version.
func Tool(version string) Package {
	return Package{
		Name: "tool", Version: version, Fields: "Requires: lib >= 1:" + version + "\n",
		Files: map[string]string{
			"/etc/tool.conf": "shipped " + version + "\n", "/etc/plain.conf": "shipped " + version + "\n", "/etc/calm.conf": "shipped " + version + "\n",
			"/usr/share/tool": "tool " + version + "\n",
		},
		Config: []string{"/etc/tool.conf", "/etc/calm.conf"}, PlainConfig: []string{"/etc/plain.conf"},
		Changelog: "* Mon Nov 02 2026 A <a@example.org> - 2-1\n- fixes CVE-2026-4242\n\n* Thu Oct 01 2026 A <a@example.org> - 1-1\n- fixes CVE-2025-1111\n",
	}
}

// Lib is a package with an epoch.
func Lib(version string) Package {
	return Package{Name: "lib", Version: version, Fields: "Epoch: 1\n", Files: map[string]string{"/usr/lib/lib.so": "lib " + version + "\n"}}
}

// Image is a raw disk of one ext4 of 64 MiB with System, Lib and Tool of version 1 and further packages, and what edit makes
// of its tree. It needs root.
func Image(t testing.TB, edit func(tree string), packages ...Package) string {
	t.Helper()
	return ImageWith(t, nil, edit, packages...)
}

// ImageWith is Image with further arguments of mke2fs.
func ImageWith(t testing.TB, args []string, edit func(tree string), packages ...Package) string {
	t.Helper()
	tree := t.TempDir()
	var files []string
	for _, p := range append([]Package{System(), Lib("1"), Tool("1")}, packages...) {
		files = append(files, p.Build(t))
	}
	Install(t, tree, files...)
	if edit != nil {
		edit(tree)
	}
	image := filepath.Join(t.TempDir(), "old.raw")
	args = append([]string{"/usr/sbin/mke2fs", "-q", "-t", "ext4", "-U", "1c9d2f53-7a3e-4a57-8f3b-2b7a5d1e0c11", "-d", tree}, args...)
	run(t, t.TempDir(), nil, append(args, image, "64m")...)
	return image
}
