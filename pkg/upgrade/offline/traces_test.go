package offline

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestWhatABootLeaves: of what changed while the copy ran, the packages' part stays, and the rest goes or comes back.
func TestWhatABootLeaves(t *testing.T) {
	const early, within, late = 50, 150, 250
	file := func(changed int64) node { return node{mode: unix.S_IFREG | 0o644, changed: changed} }
	dir := func(changed int64) node { return node{mode: unix.S_IFDIR | 0o755, changed: changed} }
	q := &quarantine{machine: "0123456789abcdef0123456789abcdef", from: 100, to: 200, tree: tree{
		"etc": dir(1), "etc/app.conf": file(1), "etc/motd": file(1), "etc/issue.net": file(1), "etc/fstab": file(1), "etc/same": file(1), "etc/dropped": file(1), "etc/old": dir(1), "etc/old/x": file(1),
		"var/lib/app": dir(1), "var/lib/app/data": file(1), "var/lib/app/lock": file(1), "var/log/app.log": file(1), "var/log/dpkg.log": file(1), "var/log/gone.log": file(1), "var/log": dir(1),
		"var/lib/cloud": dir(1), "var/lib/cloud/id": file(1), "usr/bin": dir(1), "usr/bin/app": file(1),
	}}
	changedMode := dir(late)
	changedMode.mode = unix.S_IFDIR | 0o700
	now := tree{
		"etc": dir(early), "etc/app.conf": file(within), "etc/motd": file(early), "etc/fstab": file(within), "etc/same": file(1), "etc/new.conf": file(within), "etc/.updated": file(within), "etc/late": file(late), "root/left": file(within),
		"var/lib/app": dir(within), "var/lib/app/data": file(within), "var/lib/app/sub": dir(within), "var/lib/app/sub/table": file(within), "var/log": dir(within), "var/log/app.log": file(within), "var/log/dpkg.log": file(within), "var/log/new.log": file(within),
		"var/log/journal": dir(early), "var/log/journal/" + q.machine: dir(within), "var/log/journal/" + q.machine + "/system.journal": file(within),
		"var/lib/cloud": dir(within), "var/lib/cloud/id": file(within), "var/lib/cloud/next": file(within), "usr/bin": changedMode, "usr/bin/app": file(within),
	}
	got := q.findTraces(now, fileOwners{"usr/bin/app": {"app"}})
	want := repair{
		remove: []string{
			"var/log/journal/" + q.machine + "/system.journal", "var/log/journal/" + q.machine, "var/log/journal", "var/lib/cloud/next", "etc/late", "etc/.updated",
		},
		// issue.net, dropped and old/x went in a folder that changed outside of the packages' part; lock went within it.
		restore: []string{"etc/dropped", "etc/fstab", "etc/issue.net", "etc/motd", "etc/old", "etc/old/x", "usr/bin", "var/lib/cloud/id", "var/log/app.log", "var/log/gone.log"},
		empty:   []string{"var/log/new.log"},
		changed: []string{"/etc/app.conf", "/etc/new.conf", "/var/lib/app/data", "/var/lib/app/sub/table"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(repair{})); diff != "" {
		t.Error(diff)
	}
}

// TestTracesGo: files come back with their text and rights, new ones go, and nothing outside of the root is touched.
func TestTracesGo(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = errors.Join(root.Mkdir("was", 0o750), root.WriteFile("was/file", []byte("text"), 0o640), root.Symlink("file", "was/link"), root.WriteFile("log", []byte("secret"), 0o600),
		root.Mkdir("new", 0o755), root.WriteFile("new/x", nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	fix := repair{remove: []string{"new/x", "new", "never"}, restore: []string{"was", "was/file", "was/link"}, empty: []string{"log"}}
	kept := map[string]keptFile{}
	for _, name := range fix.restore {
		if kept[name], err = keepAny(root, name, maxTrace); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(root.RemoveAll("was"), root.Mkdir("was", 0o777), root.Symlink("/etc/passwd", "was/file")); err != nil {
		t.Fatal(err)
	}
	if err := fix.apply(root, kept); err != nil {
		t.Fatal(err)
	}
	for _, name := range fix.restore {
		if again, err := keepAny(root, name, maxTrace); err != nil || !again.equal(kept[name]) {
			t.Errorf("%s: %v %+v", name, err, again)
		}
	}
	if text, err := root.ReadFile("log"); err != nil || len(text) > 0 {
		t.Errorf("%v %q", err, text)
	}
	if exists(root, "new") {
		t.Error("new stayed")
	}
}
