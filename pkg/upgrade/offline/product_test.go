package offline_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// TestProductsAreTheSameForAll: what a program makes of an image's files is taken from another image with the same files, all of it:
// new, changed and removed names, links, folders, modes. A program that writes elsewhere runs in every image.
func TestProductsAreTheSameForAll(t *testing.T) {
	tiny(t)
	t.Parallel()
	const same = "The store of certificates is that of an image with the same inputs."
	const tidy = "#!/bin/sh\nset -e\ncd /etc/ssl/certs\nrm old\nrm -r gone\nmkdir -m 2750 new\nln -s ../all new/link\ncat conf >all\nchmod 640 all\nchown man:man all new\n"
	for name, c := range map[string]struct {
		program string
		said    []bool // is it taken, by image
	}{
		"within its folder": {tidy, []bool{false, false, true}},
		"elsewhere too":     {tidy + "echo >>/var/log/told\n", []bool{false, false, false}},
		"a pipe":            {tidy + "mkfifo pipe\n", []bool{false, false, false}},
	} {
		image := installed(t, []aptrepo.Package{simple("ca-certificates", "1")}, func(root *os.Root) error {
			return errors.Join(root.MkdirAll("etc/ca-certificates/update.d", 0o755), root.MkdirAll("etc/ssl/certs/gone/deeper", 0o755),
				root.WriteFile("etc/ssl/certs/old", nil, 0o644), root.WriteFile("etc/ssl/certs/conf", []byte("text"), 0o644), root.WriteFile("etc/ssl/certs/all", []byte("before"), 0o644),
				root.WriteFile("usr/sbin/update-ca-certificates", []byte(c.program), 0o755))
		})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			p := simple("ca-certificates", "2")
			p.Scripts = map[string]string{"postinst": certificatesPostinst, "triggers": "interest-noawait update-ca-certificates\n"}
			s.sell(p)
			caches, err := offline.OpenCaches(t.TempDir(), s.Keyring, s.proxy, logrus.New())
			if err != nil {
				t.Fatal(err)
			}
			for i, said := range c.said {
				a := s.upgradeIt(t, image, func(_ *upgrade.Request, cfg *offline.Config) { cfg.Caches = caches }).good(t)
				if strings.Contains(a.log.String(), same) != said {
					t.Errorf("image %d: taken is not %v\n%s", i, said, a.log.String())
				}
				inside(t, a.output, func(root *os.Root) {
					if got := store(t, root); got != storeAfter {
						t.Errorf("image %d:\n%s\nwanted\n%s", i, got, storeAfter)
					}
					if told, _ := root.ReadFile("var/log/told"); strings.Contains(c.program, "\necho >>") && strings.Count(string(told), "\n") < 1 {
						t.Errorf("image %d: the program did not run in it", i)
					}
				})
			}
		})
	}
}

const storeAfter = `. drwxr-xr-x
all -rw-r----- text
conf -rw-r--r-- text
new dgrwxr-x---
new/link Lrwxrwxrwx ../all
`

// store lists the folder of certificates.
func store(t *testing.T, root *os.Root) string {
	t.Helper()
	certs, err := root.OpenRoot("etc/ssl/certs")
	if err != nil {
		t.Fatal(err)
	}
	defer certs.Close()
	var out strings.Builder
	err = fs.WalkDir(certs.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "pipe" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out.WriteString(name + " " + info.Mode().String())
		var text []byte
		switch {
		case info.Mode().IsRegular():
			text, err = certs.ReadFile(name)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			target, err = certs.Readlink(name)
			text = []byte(target)
		}
		if len(text) > 0 {
			out.WriteString(" " + string(text))
		}
		out.WriteString("\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
