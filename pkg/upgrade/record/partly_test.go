package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlyAPartCounts changes what the readers of a folder could use, and what they could not.
func TestOnlyAPartCounts(t *testing.T) {
	rec, _, _ := recordFoo(t)
	other := lay(t, fooImage)
	put(t, other, "usr/sbin/update-rc.d", "opendir(my $d, '/etc/rc3.d');")
	put(t, other, infoFolder+"/foo.prerm", pythonPrerm+"awk --csv '{print $1}'\n")
	strict, _, why := recordIn(t, other, func() { upgradeFoo(t, other) })
	if why != "" {
		t.Fatal(why)
	}
	link := func(name, to string) func(string) error {
		return func(dir string) error { return os.Symlink(to, filepath.Join(dir, name)) }
	}
	file := func(name, text string) func(string) error {
		return func(dir string) error { put(t, dir, name, text); return nil }
	}
	for name, c := range map[string]struct {
		change func(dir string) error
		why    string // "" where the record fits
	}{
		"configuration of another package":    {file("etc/zoo/zoo.conf", ""), ""},
		"one more run level":                  {file("etc/rc7.d/x", ""), "/etc was"},
		"another service":                     {file("etc/rc3.d/S02zoo", ""), ""},
		"the service":                         {file("etc/rc3.d/K09foo", ""), "/etc/rc3.d was"},
		"a system of another kind":            {file("etc/rc3.d/S01mountkernfs.sh", ""), "/etc/rc3.d was"},
		"another program":                     {file("usr/bin/zoo", ""), ""},
		"a link to a program":                 {link("usr/bin/zoo", "/usr/bin/tool"), ""},
		"a module beside a program in Python": {file("usr/bin/re.py", ""), "/usr/bin was"},
		"a module in C":                       {file("usr/bin/re.cpython-311-x86_64-linux-gnu.so", ""), "/usr/bin was"},
		"a folder of modules":                 {file("usr/bin/re/__init__.py", ""), "/usr/bin was"},
		"a link to a folder of modules":       {link("usr/bin/re", "../share"), "/usr/bin was"},
		"a longer initial RAM disk":           {file("boot/initrd.img-1", "initrd and more"), ""},
		"an empty one":                        {file("boot/initrd.img-1", ""), "/boot/initrd.img-1 was"},
		"none":                                {func(dir string) error { return os.Remove(filepath.Join(dir, "boot/initrd.img-1")) }, "/boot/initrd.img-1 was"},
		"one that others may not read":        {func(dir string) error { return os.Chmod(filepath.Join(dir, "boot/initrd.img-1"), 0o600) }, "/boot/initrd.img-1 was"},
		"another alternative":                 {file(alternatives+"/other", ""), ""},
		"another choice of another one":       {file(alternatives+"/zoo", "manual"), ""},
		"another choice":                      {file(alternatives+"/foo", "auto"), "/" + alternatives + "/foo was"},
		"another awk":                         {file("usr/bin/awk", "gawk"), ""},
		"a user named like a folder":          {file("etc/passwd", fooImage["etc/passwd"]+"foopath:x:9:9::/:/bin/sh\n"), ""},
	} {
		dir := lay(t, fooImage)
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		why, err := rec.Fits(t.Context(), tree(t, dir))
		if err != nil || (why == "") != (c.why == "") || !strings.HasPrefix(why, c.why) {
			t.Errorf("%s: %q, want %q: %v", name, why, c.why, err)
		}
		put(t, dir, "usr/sbin/update-rc.d", "opendir(my $d, '/etc/rc3.d');")
		put(t, dir, infoFolder+"/foo.prerm", pythonPrerm+"awk --csv '{print $1}'\n")
		want := map[string]string{"another service": "/etc/rc3.d was", "another awk": "/usr/bin/awk was"}[name]
		if why, err := strict.Fits(t.Context(), tree(t, dir)); err != nil || want != "" && !strings.HasPrefix(why, want) {
			t.Errorf("%s, and a program that lists it all or a script in another awk: %q %v", name, why, err)
		}
	}
}
