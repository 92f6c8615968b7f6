package output_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/output"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

var web = &recipe.Recipe{Name: "web", Family: "debian-12-web", Description: "A web server", Path: "web.yaml"}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// tree makes a small root file system as a raw disk without a partition table.
func tree(t *testing.T, fill func(dir string)) build.Artifact {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root: loop devices and mounts")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"etc", "boot/grub", "usr/bin", "usr/lib/modules/6.1", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/fstab": "x", "etc/hosts": "127.0.0.1 localhost", "boot/vmlinuz-6.1": "k", "usr/lib/modules/6.1/a.ko": "m"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fill(root)
	path := filepath.Join(dir, "disk.raw")
	run(t, "truncate", "-s", "64M", path)
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", root, path)
	return build.Artifact{Format: "raw", Path: path, VirtualSize: 64 << 20}
}

// layerOf reads the archive's one layer.
func layerOf(t *testing.T, archive string) (files map[string]*tar.Header, names []string, manifest []struct {
	Config   string
	RepoTags []string
	Layers   []string
}) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files = map[string]*tar.Header{}
	outer := tar.NewReader(f)
	for {
		h, err := outer.Next()
		if errors.Is(err, io.EOF) {
			return files, names, manifest
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Name {
		case "layer.tar":
			inner := tar.NewReader(outer)
			for {
				e, err := inner.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				files[e.Name] = e
				names = append(names, e.Name)
			}
			if _, err := io.Copy(io.Discard, outer); err != nil {
				t.Fatal(err)
			}
		case "manifest.json":
			if err := json.NewDecoder(outer).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func nothingLeft(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if !slices.Equal(have, want) {
		t.Errorf("the folder holds %v, not %v", have, want)
	}
}

func TestHostileTree(t *testing.T) {
	deep := strings.Repeat("d", 250)
	from := tree(t, func(root string) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(unix.Mknod(filepath.Join(root, "etc/disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(8, 0))))
		must(unix.Mknod(filepath.Join(root, "usr/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		l, err := net.Listen("unix", filepath.Join(root, "etc/socket"))
		must(err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		must(l.Close())
		must(unix.Mkfifo(filepath.Join(root, "etc/fifo"), 0o600))
		must(os.WriteFile(filepath.Join(root, "etc/a"), []byte("same"), 0o640))
		must(os.Link(filepath.Join(root, "etc/a"), filepath.Join(root, "usr/b")))
		must(os.Chown(filepath.Join(root, "etc/a"), 1234, 5678))
		must(unix.Chmod(filepath.Join(root, "etc/a"), 0o6750))
		must(os.WriteFile(filepath.Join(root, "etc/new\nline \xff\xfe ..\\ \"quoted\""), []byte("odd"), 0o644))
		must(os.Symlink("/etc/../../../../etc/passwd", filepath.Join(root, "etc/out")))
		must(os.Symlink("../../../..", filepath.Join(root, "usr/bin/up")))
		must(os.WriteFile(filepath.Join(root, "usr/bin/ping"), []byte("#!"), 0o755))
		must(unix.Setxattr(filepath.Join(root, "usr/bin/ping"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		must(unix.Setxattr(filepath.Join(root, "usr/bin/ping"), "user.note", []byte("kept"), 0))
		at := root // longer than any path that a call takes
		for range 3 {
			at = filepath.Join(at, deep)
		}
		must(os.MkdirAll(at, 0o755))
		must(os.WriteFile(filepath.Join(at, "bottom"), nil, 0o644))
	})
	dir := t.TempDir()
	var log bytes.Buffer
	a, err := output.Maker{}.Make(t.Context(), from, output.Docker, dir, web, &log)
	if err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir, "artifact.docker")
	files, names, manifest := layerOf(t, a.Path)
	for _, gone := range []string{"etc/disk", "usr/null", "etc/socket", "etc/fstab", "boot/vmlinuz-6.1", "boot/grub/", "usr/lib/modules/6.1/"} {
		if files[gone] != nil {
			t.Errorf("%s is in the layer", gone)
		}
	}
	for _, there := range []string{"etc/hosts", "boot/", "usr/lib/modules/", "etc/fifo", "etc/new\nline \xff\xfe ..\\ \"quoted\"", strings.Repeat(deep+"/", 3) + "bottom"} {
		if files[there] == nil {
			t.Errorf("%q is not in the layer of %d files", there, len(files))
		}
	}
	if !slices.IsSorted(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return strings.HasSuffix(s, "/") })) && len(names) == 0 {
		t.Error("the layer is not sorted")
	}
	if h := files["etc/a"]; h == nil || h.Uid != 1234 || h.Gid != 5678 || h.Mode != 0o6750 || h.Size != 4 || h.ModTime.Nanosecond() != 0 {
		t.Errorf("etc/a: %+v", h)
	}
	if h := files["usr/b"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "etc/a" {
		t.Errorf("usr/b: %+v", h)
	}
	if h := files["etc/out"]; h == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "/etc/../../../../etc/passwd" {
		t.Errorf("etc/out: %+v", h)
	}
	if h := files["usr/bin/ping"]; h == nil || len(h.PAXRecords["SCHILY.xattr.security.capability"]) != 20 || h.PAXRecords["SCHILY.xattr.user.note"] != "kept" {
		t.Errorf("ping: %+v", h)
	}
	if len(manifest) != 1 || !strings.HasPrefix(manifest[0].RepoTags[0], "kiln/debian-12-web:") || !strings.Contains(log.String(), "3 device nodes and sockets left out") {
		t.Errorf("%+v %s", manifest, log.String())
	}

	system, err := output.Maker{}.Make(t.Context(), from, output.System, dir, web, &log)
	if err != nil {
		t.Fatal(err)
	}
	listed := listErofs(t, system.Path)
	for _, gone := range []string{"etc/disk", "usr/null", "etc/socket", "etc/fstab", "boot/vmlinuz-6.1", "boot/grub", "usr/lib/modules/6.1"} {
		if listed[gone] {
			t.Errorf("%s is in the system", gone)
		}
	}
	for _, there := range []string{"etc/hosts", "boot", "usr/lib/modules", "etc/fifo", "usr/b", "etc/new\nline \xff\xfe ..\\ \"quoted\""} {
		if !listed[there] {
			t.Errorf("%q is not in the system: %v", there, slices.Sorted(maps.Keys(listed)))
		}
	}
}

func listErofs(t *testing.T, path string) map[string]bool {
	t.Helper()
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.MountRaw(t.Context(), path, 0, info.Size(), "erofs", "ro,noexec")
	if err != nil {
		t.Fatal(err)
	}
	at, found := m.HostPath(), map[string]bool{}
	err = filepath.WalkDir(at+"/", func(path string, _ os.DirEntry, err error) error {
		found[strings.TrimPrefix(strings.TrimPrefix(path, at), "/")] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTreesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		fill   func(root string)
		limits output.Limits
		want   string
	}{
		"too many files": {func(string) {}, output.Limits{Files: 3}, "more than 3 files"},
		"too deep": {func(root string) {
			if err := os.MkdirAll(filepath.Join(root, "a/b/c/d/e/f"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, output.Limits{Depth: 5}, "more than 5 levels"},
		"sparse": {func(root string) {
			run(t, "truncate", "-s", "300G", filepath.Join(root, "etc/huge"))
		}, output.Limits{}, "it is sparse"},
	} {
		t.Run(name, func(t *testing.T) {
			from := tree(t, c.fill)
			for _, format := range []string{output.Docker, output.System} {
				dir := t.TempDir()
				_, err := output.Maker{Limits: c.limits}.Make(t.Context(), from, format, dir, web, nil)
				if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != output.CodeTree || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v", format, err)
				}
				nothingLeft(t, dir)
			}
		})
	}
}

func TestDiskFormats(t *testing.T) {
	from := tree(t, func(string) {})
	for format, driver := range map[string]string{output.VMDK: "vmdk", output.VHD: "vpc", output.Qcow2: "qcow2", output.Raw: "raw"} {
		dir := t.TempDir()
		a, err := output.Maker{}.Make(t.Context(), from, format, dir, web, nil)
		if err != nil || a.VirtualSize != from.VirtualSize || a.Format != format {
			t.Fatalf("%s: %+v, %v", format, a, err)
		}
		nothingLeft(t, dir, "artifact."+format)
		info := run(t, "qemu-img", "info", "--output=json", "-f", driver, a.Path)
		if format == output.VMDK && !strings.Contains(info, `"streamOptimized"`) {
			t.Error(info)
		}
		run(t, "qemu-img", "compare", "-f", driver, "-F", "raw", a.Path, from.Path)
	}
}

func TestUnknownFormatAndCancel(t *testing.T) {
	from := tree(t, func(string) {})
	dir := t.TempDir()
	_, err := output.Maker{}.Make(t.Context(), from, "iso", dir, web, nil)
	if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != output.CodeFormat || !strings.Contains(err.Error(), "web.yaml") {
		t.Errorf("%v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, format := range []string{output.Docker, output.System, output.VMDK} {
		if _, err := (output.Maker{}).Make(ctx, from, format, dir, web, nil); !errs.Is(err, errs.Cancelled) {
			t.Errorf("%s: %v", format, err)
		}
	}
	nothingLeft(t, dir)
}
