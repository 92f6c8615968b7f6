package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// traced runs a script and gives what its processes looked at, as "kind path", with " -" where a link is not followed.
func traced(t *testing.T, spec sandbox.Spec, script string) (seen []string, out string, err error) {
	t.Helper()
	spec.Trace = func(a sandbox.Access) {
		line := fmt.Sprintf("%s %s", a.Kind, a.Path)
		if a.NoFollow {
			line += " -"
		}
		if a.Process <= 1 {
			t.Errorf("no process: %+v", a)
		}
		seen = append(seen, line)
	}
	out, err = run(t, spec, script)
	return seen, out, err
}

func TestTraceTellsEveryName(t *testing.T) {
	dir := tree(t)
	for name, text := range map[string]string{"etc/conf": "text\n", "bin/own": "#!/bin/ash -e\necho own\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("conf", filepath.Join(dir, "etc/link")); err != nil {
		t.Fatal(err)
	}
	seen, out, err := traced(t, sandbox.Spec{Rootfs: dir, NoSync: true}, `own && sync && cat /etc/conf /etc/./link && cd etc && cat ../etc//conf && ls /var; [ -e /not/there ]; readlink /etc/link
		echo x >/var/new; echo y >>/var/new; mkdir /var/d; mv /var/new /var/d/moved; ln -s t /var/d/s; ln /var/d/moved /var/hard; chmod 600 /var/hard; rm -r /var/d; chown -h 1 /var/hard
		mount -t tmpfs x /var && echo MOUNTED; true`)
	if err != nil || strings.Contains(out, "MOUNTED") {
		t.Fatalf("%v %s", err, out)
	}
	for _, want := range []string{
		"exec /bin/sh", "exec /bin/own", "exec /bin/ash", "read /etc/conf", "read /etc/link", "stat /etc", "stat /not/there", "readlink /etc/link -",
		"write /var/new", "read /var/new", "change /var/d -", "change /var/new -", "change /var/d/moved -", "change /var/d/s -", "change /var/hard -", "change /var/hard",
	} {
		if !slices.Contains(seen, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if !slices.ContainsFunc(seen, func(s string) bool { return s == "list /var" || s == "read /var" }) {
		t.Error("not told that /var was listed")
	}
	if slices.ContainsFunc(seen, func(s string) bool { return strings.HasPrefix(s, "unknown") }) || t.Failed() {
		t.Errorf("%s", strings.Join(seen, "\n"))
	}
	// A process with a root of its own: its names are told as the others see them.
	seen, _, err = traced(t, sandbox.Spec{Rootfs: dir}, "mkdir /var/root && chroot /var/root /bin/sh; true")
	if err != nil || !slices.Contains(seen, "exec /var/root/bin/sh") || !slices.ContainsFunc(seen, func(s string) bool { return strings.HasPrefix(s, "unknown") }) {
		t.Errorf("a changed root was not told: %v %v", err, seen)
	}
}

// TestTraceChangesNothing: what is forbidden stays forbidden, what fails fails with the same code, many processes at once.
func TestTraceChangesNothing(t *testing.T) {
	dir := tree(t)
	if _, _, err := traced(t, sandbox.Spec{Rootfs: dir}, "mknod /dev/h b 254 0 || exit 7"); errs.CodeOf(err) != sandbox.CodeExit || !strings.Contains(err.Error(), "exit code 7") {
		t.Error(err)
	}
	seen, out, err := traced(t, sandbox.Spec{Rootfs: dir}, `for i in 1 2 3 4 5 6 7 8; do (for j in $(seq 20); do cat /etc/none$i.$j 2>/dev/null; /bin/true; done) & done; wait; echo end`)
	if err != nil || out != "end\n" {
		t.Fatalf("%v %q", err, out)
	}
	for i := range 8 {
		for j := range 20 {
			if want := fmt.Sprintf("read /etc/none%d.%d", i+1, j+1); !slices.Contains(seen, want) {
				t.Fatalf("%s is missing", want)
			}
		}
	}
	begin := time.Now()
	if _, _, err := traced(t, sandbox.Spec{Rootfs: dir, Limits: sandbox.Limits{Time: time.Second}}, "while :; do test -e /x; done"); errs.CodeOf(err) != sandbox.CodeTimeout || time.Since(begin) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	err = sandbox.Run(t.Context(), sandbox.Spec{Rootfs: dir, Args: []string{"/bin/nothing-there"}, Trace: func(sandbox.Access) {}})
	if errs.CodeOf(err) != sandbox.CodeRuntime {
		t.Errorf("a command that cannot start: %v", err)
	}
}

func TestTraceInADeepFolder(t *testing.T) {
	dir := tree(t)
	work := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 12))
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := disk.OpenSession(t.Context(), work)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.Mount(t.Context(), dir, "", 0x1000, "") // MS_BIND
	if err != nil {
		t.Fatal(err)
	}
	if seen, _, err := traced(t, sandbox.Spec{Session: s, Rootfs: m.Path()}, "test -e /x; true"); err != nil || !slices.Contains(seen, "stat /x") {
		t.Errorf("%v %v", err, seen)
	}
}
