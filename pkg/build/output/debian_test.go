package output_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/output"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/testkit/docker"
)

// make2 makes the artifact twice, the second time from the disk in raw form: both must be the same bytes.
func make2(t *testing.T, format string) string {
	t.Helper()
	debian := boottest.Debian(t)
	from := build.Artifact{Format: "qcow2", Path: debian.Path}
	dirs := []string{t.TempDir(), t.TempDir()}
	var paths []string
	for _, dir := range dirs {
		start := time.Now()
		var log bytes.Buffer
		a, err := output.Maker{}.Make(t.Context(), from, format, dir, web, &log)
		if err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, dir, "artifact."+format)
		info, err := os.Stat(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s from %s in %s: %d MiB; %s", format, from.Format, time.Since(start).Round(10*time.Millisecond), info.Size()>>20, log.String())
		paths = append(paths, a.Path)
		raw := filepath.Join(t.TempDir(), "raw")
		if err := disk.Convert(t.Context(), disk.Image{Path: debian.Path, Format: disk.Qcow2}, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
			t.Fatal(err)
		}
		from = build.Artifact{Format: "raw", Path: raw}
	}
	if digest.File(t, paths[0]) != digest.File(t, paths[1]) {
		t.Errorf("two %s of one disk differ", format)
	}
	return paths[0]
}

func TestDebianSystemRuns(t *testing.T) {
	path := make2(t, output.System)
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.MountRaw(t.Context(), path, 0, info.Size(), "erofs", "ro")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	err = sandbox.Run(t.Context(), sandbox.Spec{Session: s, Rootfs: m.Path(), StartServices: true, Stdout: &said, Limits: sandbox.Limits{Time: time.Minute},
		Args: []string{"/bin/sh", "-ec", "cat /etc/boottest-link '/etc/odd name\\ with \"all\"'; getcap /bin/ping; ls /boot /usr/lib/modules; test ! -e /etc/fstab; ! touch /etc/x; dpkg --verify bash; stat -c %U:%a /etc/shadow"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	for _, want := range []string{"one\nodd\n", "cap_net_raw=ep", "/boot:\n\n/usr/lib/modules:\n", "Read-only file system", "root:640"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in:\n%s", want, said.String())
		}
	}
}

func TestDebianRunsInDocker(t *testing.T) {
	path := make2(t, output.Docker)
	run := docker.Start(t)
	loaded := run("load", "-i", path)
	_, image, ok := strings.Cut(strings.TrimSpace(loaded), "Loaded image: ")
	if !ok || !strings.HasPrefix(image, "kiln/debian-12-web:") {
		t.Fatalf("docker load: %s", loaded)
	}
	said := run("run", "--rm", "--network", "none", image, "/bin/bash", "-ec",
		"cat /etc/boottest-link '/etc/odd name\\ with \"all\"'; getcap /bin/ping; ls -A /boot /usr/lib/modules; test ! -e /etc/fstab; dpkg --verify bash; stat -c %U:%a /etc/shadow; python3 -c 'print(6*7)'")
	for _, want := range []string{"one\nodd\n", "cap_net_raw=ep", "/boot:\n\n/usr/lib/modules:\n", "root:640", "42"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in:\n%s", want, said)
		}
	}
	inspected := run("inspect", "--format", "{{json .Config}} {{.Architecture}} {{len .RootFS.Layers}}", image)
	for _, want := range []string{`"Cmd":["/bin/bash"]`, `"org.opencontainers.image.title":"debian-12-web"`, "PATH=/usr/local/sbin", "amd64 1"} {
		if !strings.Contains(inspected, want) {
			t.Errorf("%q is not in %s", want, inspected)
		}
	}
}
