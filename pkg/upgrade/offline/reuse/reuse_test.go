package reuse_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/reuse"
)

// image makes a small tree.
func image(t *testing.T, change func(dir string)) *os.Root {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "etc/hooks"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "usr/lib/mod"), 0o755))
	must(os.Mkdir(filepath.Join(dir, "boot"), 0o755))
	must(os.Symlink("usr/lib", filepath.Join(dir, "lib")))
	must(os.Symlink("/usr/lib/mod", filepath.Join(dir, "etc/absolute")))
	must(os.WriteFile(filepath.Join(dir, "etc/conf"), []byte("MODULES=most\n"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "etc/hooks/fsck"), []byte("#!/bin/sh\n"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "usr/lib/mod/ext4.ko"), []byte("module"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "etc/other"), []byte("nobody looks"), 0o644))
	if change != nil {
		change(dir)
	}
	root, err := os.OpenRoot(dir)
	must(err)
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func looks() *reuse.Looks {
	var l reuse.Looks
	for _, a := range []sandbox.Access{
		{Kind: sandbox.Exec, Path: "/etc/hooks/fsck"}, {Kind: sandbox.Read, Path: "/etc/conf"}, {Kind: sandbox.List, Path: "/etc/hooks"},
		{Kind: sandbox.Read, Path: "/lib/mod/ext4.ko"}, {Kind: sandbox.Read, Path: "/etc/absolute/ext4.ko"}, {Kind: sandbox.Readlink, Path: "/lib", NoFollow: true},
		{Kind: sandbox.Stat, Path: "/etc/none"}, {Kind: sandbox.Stat, Path: "/etc/none/deeper"}, {Kind: sandbox.Stat, Path: "/etc/other"},
		{Kind: sandbox.Write, Path: "/var/tmp/work/new"}, {Kind: sandbox.Read, Path: "/proc/cpuinfo"}, {Kind: sandbox.Read, Path: "/etc/hooks/../conf", Asked: "/etc/hooks/../conf"},
		{Kind: sandbox.Read, Path: "/var/tmp/work/etc/x", Root: "/var/tmp/work"}, {Kind: sandbox.Change, Path: "/boot/initrd", NoFollow: true},
	} {
		l.See(a)
	}
	return &l
}

func result(t *testing.T, text string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "result")
	if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func open(t *testing.T, cfg reuse.Config) *reuse.Cache {
	t.Helper()
	c, err := reuse.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOnlyEqualInputsGetTheResult(t *testing.T) {
	c := open(t, reuse.Config{Dir: t.TempDir()})
	family := reuse.Family("initrd", "6.1")
	if err := c.Keep(t.Context(), image(t, nil), reuse.Made{Family: family, Looks: looks(), Ignored: []string{"/boot/initrd"}, Result: result(t, "made")}); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) func(string) {
		return func(dir string) {
			os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
			os.WriteFile(filepath.Join(dir, name), []byte(text), mode)
			os.Chmod(filepath.Join(dir, name), mode)
		}
	}
	for name, c2 := range map[string]struct {
		change func(string)
		same   bool
	}{
		"the same":                   {nil, true},
		"a file that nobody read":    {write("etc/other", "nobody looks", 0o644), true},
		"a new file beside":          {write("etc/new", "x", 0o644), true},
		"only the time":              {func(d string) { os.Chtimes(d+"/etc/conf", time.Unix(1, 0), time.Unix(1, 0)) }, true},
		"the result of an older run": {write("boot/initrd", "old", 0o644), true},
		"a setting":                  {write("etc/conf", "MODULES=dep!\n", 0o644), false},
		"a setting of another size":  {write("etc/conf", "MODULES=dep\n", 0o644), false},
		"the mode of a hook":         {write("etc/hooks/fsck", "#!/bin/sh\n", 0o644), false},
		"one more hook":              {write("etc/hooks/zz", "", 0o755), false},
		"what was not there":         {write("etc/none", "", 0o644), false},
		"a module":                   {write("usr/lib/mod/ext4.ko", "module2", 0o644), false},
		"the size of what was asked": {write("etc/other", "nobody looks?", 0o644), false},
		"another link": {func(d string) {
			os.Remove(d + "/lib")
			os.Symlink("/usr/lib", d+"/lib")
		}, false},
		"a link instead of a file": {func(d string) {
			os.Remove(d + "/usr/lib/mod/ext4.ko")
			os.Symlink("/proc/self/environ", d+"/usr/lib/mod/ext4.ko")
		}, false},
		"a pipe instead of a file": {func(d string) { os.RemoveAll(d + "/etc/conf"); mkfifo(t, d+"/etc/conf") }, false},
		"links in a circle":        {func(d string) { os.RemoveAll(d + "/etc/conf"); os.Symlink("conf", d+"/etc/conf") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, why, err := c.Find(t.Context(), family, image(t, c2.change), time.Time{})
			if err != nil || (got != nil) != c2.same || (why == "") != c2.same {
				t.Fatalf("%v %q %v", got, why, err)
			}
			if got == nil {
				return
			}
			defer got.Close()
			if b, err := io.ReadAll(got); err != nil || string(b) != "made" || got.Mode != 0o640 {
				t.Errorf("%q %v %v", b, got.Mode, err)
			}
		})
	}
	if got, why, err := c.Find(t.Context(), reuse.Family("initrd", "6.2"), image(t, nil), time.Time{}); got != nil || why != "" || err != nil {
		t.Errorf("another family: %v %q %v", got, why, err)
	}
}

// TestTimesThatCount: of a program that reads times those of its folders count. What changed with the tree has one time.
func TestTimesThatCount(t *testing.T) {
	c := open(t, reuse.Config{Dir: t.TempDir()})
	begun := time.Unix(1_700_000_000, 0)
	at := func(name string, when time.Time) func(string) {
		return func(dir string) { os.Chtimes(filepath.Join(dir, name), when, when) }
	}
	all := func(changes ...func(string)) func(string) {
		return func(dir string) {
			filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
				if err == nil && d.Type()&os.ModeSymlink == 0 {
					err = os.Chtimes(name, begun.Add(-time.Hour), begun.Add(-time.Hour))
				}
				return err
			})
			for _, change := range changes {
				change(dir)
			}
		}
	}
	dated := looks()
	dated.Dated = []string{"/etc/hooks"}
	kept := all(at("etc/hooks", begun.Add(time.Second)))
	if err := c.Keep(t.Context(), image(t, kept), reuse.Made{Family: "f", Looks: dated, Begun: begun, Ignored: []string{"/boot/initrd"}, Result: result(t, "made")}); err != nil {
		t.Fatal(err)
	}
	later := begun.Add(24 * time.Hour)
	for name, c2 := range map[string]struct {
		change func(string)
		same   bool
	}{
		"the folder changed that day too":   {all(at("etc/hooks", later.Add(time.Minute))), true},
		"the folder did not change":         {all(), false},
		"the folder changed the day before": {all(at("etc/hooks", begun.Add(time.Second))), false},
		"a file in it has another time":     {all(at("etc/hooks", later.Add(time.Minute)), at("etc/hooks/fsck", begun)), false},
		"a file elsewhere has one":          {all(at("etc/hooks", later.Add(time.Minute)), at("usr/lib/mod/ext4.ko", begun)), true},
	} {
		got, why, err := c.Find(t.Context(), "f", image(t, c2.change), later)
		if err != nil || (got != nil) != c2.same {
			t.Errorf("%s: found %v: %s %v", name, got != nil, why, err)
		}
		if got != nil {
			got.Close()
		}
	}
}

// TestOneMakesWhatTwoNeed: who needs a result that is being made waits for it.
func TestOneMakesWhatTwoNeed(t *testing.T) {
	c := open(t, reuse.Config{Dir: t.TempDir()})
	waited, ended, err := c.Begin(t.Context(), "f")
	if waited || err != nil {
		t.Fatal(waited, err)
	}
	if other, done, err := c.Begin(t.Context(), "g"); other || err != nil {
		t.Errorf("another family waits: %v", err)
	} else {
		done()
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if _, done, err := c.Begin(short, "f"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled one: %v", err)
	} else {
		done()
	}
	second, called := make(chan error), make(chan bool)
	go func() {
		close(called)
		waited, done, err := c.Begin(t.Context(), "f")
		done()
		if !waited {
			err = errors.Join(err, errors.New("the second one did not wait"))
		}
		second <- err
	}()
	<-called
	select {
	case err := <-second:
		t.Fatalf("the second one began before the first one ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	ended()
	if err := <-second; err != nil {
		t.Error(err)
	}
	for i, want := range []bool{false, true, false, true, true} {
		if again, err := c.Missed("f", []string{"", "", "other", "", "other"}[i]); again != want || err != nil {
			t.Errorf("miss %d: %v %v", i, again, err)
		}
	}
}

func TestWhatIsNotProvenIsNotKept(t *testing.T) {
	dir := t.TempDir()
	c := open(t, reuse.Config{Dir: dir})
	family := reuse.Family("x")
	unknown := looks()
	unknown.See(sandbox.Access{Kind: sandbox.Unknown})
	if err := c.Keep(t.Context(), image(t, nil), reuse.Made{Family: family, Looks: unknown, Result: result(t, "made")}); err != nil {
		t.Error(err)
	}
	rooted := looks()
	rooted.See(sandbox.Access{Kind: sandbox.Read, Path: "/etc/hooks/x", Root: "/etc"})
	if err := c.Keep(t.Context(), image(t, nil), reuse.Made{Family: family, Looks: rooted, Result: result(t, "made")}); err == nil {
		t.Error("a command in a root of the image was kept")
	}
	if got, _, _ := c.Find(t.Context(), family, image(t, nil), time.Time{}); got != nil {
		t.Error("it was kept")
	}
	// Damage on the disk.
	for _, damage := range []string{"result", "record.json"} {
		if err := c.Keep(t.Context(), image(t, nil), reuse.Made{Family: family, Looks: looks(), Result: result(t, "made")}); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "results", family, "*", damage))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.WriteFile(f, []byte(`{"inputs":[`), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, _, err := c.Find(t.Context(), family, image(t, nil), time.Time{}); got != nil || err != nil {
			t.Errorf("damaged %s: %v %v", damage, got, err)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	dir := t.TempDir()
	c := open(t, reuse.Config{Dir: dir, Most: 3, MaxAge: time.Hour, Now: func() time.Time { return now }})
	for _, f := range []string{"a", "b", "c", "d", "e"} {
		if err := c.Keep(t.Context(), image(t, nil), reuse.Made{Family: reuse.Family(f), Looks: looks(), Result: result(t, strings.Repeat(f, 10))}); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		files, err := filepath.Glob(filepath.Join(dir, "results", "*", "*", "result"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	if n := count(); n != 3 {
		t.Errorf("%d results are kept", n)
	}
	now = time.Now().Add(2 * time.Hour)
	open(t, reuse.Config{Dir: dir, MaxAge: time.Hour, Now: func() time.Time { return now }})
	if n := count(); n != 0 {
		t.Errorf("%d old results are kept", n)
	}
}
