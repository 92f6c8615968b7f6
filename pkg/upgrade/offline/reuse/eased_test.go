package reuse_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/reuse"
)

const mkinitramfs = `#!/bin/sh
for d in /bin /lib* /sbin; do
	mkdir -p "$DESTDIR/usr$d"
done
cp -pPr /etc/ld.so.conf* "$DESTDIR"/etc/
`

// loaderCache makes what ldconfig would: entries from the greatest name to the least. "/path|name" gives a file another name.
func loaderCache(paths ...string) []byte {
	out := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	binary.LittleEndian.PutUint32(out[20:], uint32(len(paths)))
	at := uint32(len(out) + 24*len(paths))
	var text []byte
	for _, p := range paths {
		p, key, other := strings.Cut(p, "|")
		if !other {
			key = filepath.Base(p)
		}
		e := make([]byte, 24)
		binary.LittleEndian.PutUint32(e, 0x303)
		binary.LittleEndian.PutUint32(e[4:], at+uint32(len(text)))
		binary.LittleEndian.PutUint32(e[8:], at+uint32(len(text)+len(key)+1))
		out, text = append(out, e...), append(text, key+"\x00"+p+"\x00"...)
	}
	return append(out, text...)
}

type file struct {
	name string
	text []byte
}

// system is an image with the scripts of initramfs-tools.
func system(t *testing.T, more ...file) *os.Root {
	t.Helper()
	return image(t, func(dir string) {
		for _, f := range append([]file{
			{"usr/sbin/mkinitramfs", []byte(mkinitramfs)}, {"etc/ld.so.conf", nil}, {"usr/lib/libz.so.1", nil}, {"usr/bin/cp", []byte("\x7fELF ld.so.cache")},
			{"etc/ld.so.cache", loaderCache("/lib/libz.so.10", "/lib/libz.so.1", "/lib/libapr.so.0")},
		}, more...) {
			name := filepath.Join(dir, f.name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, f.text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Processes of the test, by their numbers.
var processes = map[int][]string{
	1: {"/usr/bin/dash", "/bin/sh", "/usr/sbin/mkinitramfs", "-o", "/boot/initrd"},
	2: {"/usr/bin/find", "find", "/etc"},
	3: {"/usr/bin/cp", "cp", "-p", "a", "b"},
	4: {"/usr/bin/cp", "cp", "/etc/ld.so.cache", "/tmp"},
	5: {"/usr/sbin/ldconfig", "ldconfig", "-p"},
	6: {"/usr/bin/dash", "/bin/sh", "-c", "/usr/sbin/mkinitramfs", "x"},
	7: {"/usr/local/dash", "/bin/sh", "/usr/sbin/mkinitramfs"},
}

func watched(also ...sandbox.Access) *reuse.Looks {
	l := &reuse.Looks{Reader: func(p int) (string, []string) { return processes[p][0], processes[p][1:] }}
	for _, a := range append([]sandbox.Access{
		{Kind: sandbox.Read, Path: "/usr/sbin/mkinitramfs", Process: 1}, {Kind: sandbox.List, Path: "/etc", Process: 1}, {Kind: sandbox.List, Path: "/", Process: 1},
		{Kind: sandbox.Exec, Path: "/usr/bin/cp", Process: 3}, {Kind: sandbox.Read, Path: "/etc/ld.so.cache", Process: 3},
		{Kind: sandbox.Read, Path: "/lib/libz.so.1", Process: 3}, {Kind: sandbox.Read, Path: "/lib/libnone.so.2", Process: 3},
	}, also...) {
		l.See(a)
	}
	return l
}

func TestOnlyWhatCountsOfFoldersAndLibraries(t *testing.T) {
	cache := func(paths ...string) file { return file{"etc/ld.so.cache", loaderCache(paths...)} }
	changes := map[string]file{
		"nothing": {"etc/conf", []byte("MODULES=most\n")}, "a folder in /etc": {"etc/nginx/nginx.conf", nil}, "a folder of the root": {"srv/x", nil},
		"another library":               cache("/lib/libz.so.10", "/lib/libz.so.1", "/lib/libgalera.so.3", "/lib/libapr.so.0"),
		"a configuration of the loader": {"etc/ld.so.conf.old", nil},
		"a folder for libraries":        {"lib64x/x", nil},
		"another place of a library":    cache("/lib/libz.so.10", "/opt/libz.so.1", "/lib/libapr.so.0"),
		"a library that was not there":  cache("/lib/libz.so.10", "/lib/libz.so.1", "/lib/libnone.so.2", "/lib/libapr.so.0"),
		"a library of an equal number":  cache("/lib/libz.so.10", "/lib/libz.so.01", "/lib/libz.so.1", "/lib/libapr.so.0"),
		"a cache out of order":          cache("/lib/libz.so.1", "/lib/libz.so.10", "/lib/libapr.so.0"),
		"a name for another file":       cache("/lib/libz.so.10", "/lib/libz.so.1", "/lib/libz.so.1|libapr.so.0"),
		"a cache of another form":       {"etc/ld.so.cache", []byte("ld.so-1.7.0 and more")},
	}
	const etc, root, libraries = "a folder in /etc", "a folder of the root", "another library"
	again := func(kind sandbox.AccessKind, path string, process int) *reuse.Looks {
		return watched(sandbox.Access{Kind: kind, Path: path, Process: process})
	}
	for how, c := range map[string]struct {
		looks *reuse.Looks
		file  file
		hits  []string // and where nothing is different
	}{
		"as it is":                     {watched(), file{"srv1", nil}, []string{etc, root, libraries}},
		"somebody lists all of /etc":   {again(sandbox.List, "/etc", 2), file{"srv1", nil}, []string{root}},
		"the script lists it again":    {again(sandbox.List, "/etc", 1), file{"srv1", nil}, []string{root}},
		"a shell with other commands":  {again(sandbox.List, "/etc", 6), file{"srv1", nil}, []string{root}},
		"something called like it":     {again(sandbox.List, "/etc", 7), file{"srv1", nil}, []string{root}},
		"a copy of the cache":          {again(sandbox.Read, "/etc/ld.so.cache", 4), file{"srv1", nil}, []string{etc, root}},
		"the cache is printed":         {again(sandbox.Read, "/etc/ld.so.cache", 5), file{"srv1", nil}, []string{etc, root}},
		"a script that knows its name": {again(sandbox.Read, "/etc/hook", 1), file{"etc/hook", []byte("cat </etc/ld.so.cache\n")}, []string{etc, root}},
		"a certificate's name":         {again(sandbox.Read, "/etc/Főtanúsítvány.crt", 4), file{"etc/Főtanúsítvány.crt", []byte("PEM")}, []string{etc, root, libraries}},
		"another mkinitramfs":          {watched(), file{"usr/sbin/mkinitramfs", []byte("#!/bin/sh\necho /* /etc/*\n")}, nil},
	} {
		t.Run(how, func(t *testing.T) {
			kept := open(t, reuse.Config{Dir: t.TempDir()})
			if err := kept.Keep(t.Context(), system(t, c.file), reuse.Made{Family: "family", Looks: c.looks, Result: result(t, "made")}); err != nil {
				t.Fatal(err)
			}
			for name, change := range changes {
				got, why, err := kept.Find(t.Context(), "family", system(t, c.file, change), time.Time{})
				if want := name == "nothing" || slices.Contains(c.hits, name); err != nil || (got != nil) != want {
					t.Errorf("%s: found %v, want %v: %s %v", name, got != nil, want, why, err)
				}
				if got != nil {
					got.Close()
				}
			}
		})
	}
}

// The host's own cache is one that ldconfig made.
func TestRealLoaderCacheIsUnderstood(t *testing.T) {
	text, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Fatal(err)
	}
	kept := open(t, reuse.Config{Dir: t.TempDir()})
	if err := kept.Keep(t.Context(), system(t, file{"etc/ld.so.cache", text}), reuse.Made{Family: "family", Looks: watched(), Result: result(t, "made")}); err != nil {
		t.Fatal(err)
	}
	// What stands behind the strings belongs to no name.
	got, why, err := kept.Find(t.Context(), "family", system(t, file{"etc/ld.so.cache", append(text, 0)}), time.Time{})
	if got == nil || err != nil {
		t.Fatal(why, err)
	}
	got.Close()
}
