package offline_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// TestCachesChangeOnlyTheTime: an image is upgraded with empty caches, another one with what they have then, one with an input of
// its initial RAM disk changed, and the first one again, of which nothing is made anew.
func TestCachesChangeOnlyTheTime(t *testing.T) {
	original := debian(t)
	t.Parallel()
	p := proxy(t)
	caches, err := offline.OpenCaches(t.TempDir(), deb.DefaultKeyring, p, logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	hooked := edited(t, original, func(root *os.Root) error {
		return root.WriteFile("etc/initramfs-tools/hooks/own", []byte("#!/bin/sh\n[ \"$1\" = prereqs ] || echo own >$DESTDIR/own-file\n"), 0o755)
	})
	// What other images have: none of it is in an initial RAM disk.
	another := edited(t, original, func(root *os.Root) error {
		users, err := root.ReadFile("etc/passwd")
		return errors.Join(err, root.Mkdir("etc/nginx", 0o755), root.Mkdir("usr/lib/galera", 0o755),
			root.WriteFile("etc/passwd", append(users, "web:x:990:990::/srv:/bin/false\n"...), 0o644))
	})
	var first []byte
	var made string
	const same = " is that of an image with the same inputs"
	for _, c := range []struct{ name, image, said, not string }{
		{"cold", original, "update-initramfs: Generating", same},
		{"warm", another, same, "update-initramfs: Generating"},
		{"one more hook", hooked, "fits: /etc/initramfs-tools/hooks", "RAM disk of \\S+" + same},
		{"again", original, "certificates" + same, "Updating certificates in|Generating"},
	} {
		var log bytes.Buffer
		output := filepath.Join(t.TempDir(), "new.raw")
		x := offline.New(offline.Config{Proxy: p, Log: logrus.New(), Caches: caches})
		report, err := x.Upgrade(t.Context(), upgrade.Request{Original: c.image, OriginalFormat: "raw", Suites: suites(t), WorkDir: t.TempDir(), Output: output, OutputFormat: "raw", Log: &log})
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, log.Bytes()[max(0, log.Len()-6000):])
		}
		for _, s := range report.Steps {
			t.Logf("%-14s %-20s %6.2f s", c.name, s.Name, s.Seconds)
		}
		checkReport(t, report)
		checkImage(t, c.image, output, report)
		checkInitrd(t, output, report.KernelTo)
		if text := log.String(); !strings.Contains(text, c.said) || regexp.MustCompile(c.not).MatchString(text) || strings.Count(text, "Updating certificates in") > 1 || strings.Contains(text, "Get:") {
			t.Errorf("%s: %q is not in, or %q is in\n%s", c.name, c.said, c.not, text)
		}
		_, fsys := open(t, output)
		initrd, err := fsys.ReadFile("/boot/initrd.img-"+report.KernelTo, 1<<30)
		if err != nil || len(initrd) < 1<<20 {
			t.Fatalf("%d bytes %v", len(initrd), err)
		}
		if first == nil {
			first = initrd
		}
		if same := bytes.Equal(first, initrd); same != (c.image != hooked) {
			t.Errorf("%s: the same initial RAM disk: %v", c.name, same)
		}
		if made == "" {
			made = output
		} else if c.image == original {
			compare(t, c.name, made, output)
		}
	}
}
