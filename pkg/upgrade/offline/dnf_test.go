package offline_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/testkit/rpmrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// rpmTool, rpmLib and rpmImage are those of the testkit, with what a test adds.
func rpmTool(version string, scripts map[string]string) rpmrepo.Package {
	p := rpmrepo.Tool(version)
	p.Scripts = scripts
	return p
}

func rpmLib(version string) rpmrepo.Package { return rpmrepo.Lib(version) }

func rpmImage(t *testing.T, edit func(tree string), packages ...rpmrepo.Package) string {
	t.Helper()
	needRoot(t)
	return rpmrepo.Image(t, edit, packages...)
}

func write(t *testing.T, tree, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// upgradeRPM upgrades an image from a repository, and checks what holds for every upgrade, good or bad.
func upgradeRPM(t *testing.T, repo *rpmrepo.Repository, image string, change func(*upgrade.Request)) *attempt {
	t.Helper()
	was, work := digest.File(t, image), t.TempDir()
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{rpmrepo.Base}, Dir: t.TempDir(), Transport: repo})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	a := &attempt{output: filepath.Join(t.TempDir(), "new.raw")}
	req := upgrade.Request{
		Original: image, OriginalFormat: "raw", WorkDir: work, Output: a.output, OutputFormat: "raw", Log: &a.log,
		Repositories: []upgrade.Repository{{ID: "own-fixes", BaseURL: rpmrepo.Base, Keys: repo.Keys}},
	}
	if change != nil {
		change(&req)
	}
	a.report, a.err = offline.New(offline.Config{Proxy: proxy, Timeout: 2 * time.Minute}).Upgrade(t.Context(), req)
	a.settled(t, image, was, work)
	return a
}

func factsOf(t *testing.T, image string) *catalog.Facts {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), bytes.NewReader(data), int64(len(data)), "raw")
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func packagesOf(t *testing.T, image string) string {
	t.Helper()
	var out []string
	for _, p := range factsOf(t, image).Packages {
		out = append(out, p.Name+" "+p.Version)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

const goodScript = `echo "$1 $(id -u)" >>/var/lib/tool/ran
[ -c /dev/null ] && [ -d /proc/self ] && echo here >/tmp/tool`

// TestUpgradeRPM is an upgrade of packages that depend on each other, run scriptlets and ship configuration.
func TestUpgradeRPM(t *testing.T) {
	t.Parallel()
	image := rpmImage(t, func(tree string) {
		write(t, tree, "etc/tool.conf", "the owner's\n")
		write(t, tree, "etc/plain.conf", "the owner's\n")
		write(t, tree, "etc/machine-id", "")
		if err := os.MkdirAll(filepath.Join(tree, "etc/dnf"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, tree, "etc/dnf/dnf.conf", "[main]\nexclude=oth*\n proxy\n")
	}, rpmrepo.Package{Name: "other", Version: "1"})
	repo := rpmrepo.New(t)
	repo.Add(rpmLib("2").Build(t), rpmrepo.Package{Name: "other", Version: "2"}.Build(t),
		rpmTool("2", map[string]string{"pre": goodScript, "post": goodScript + "\necho id >/etc/machine-id", "posttrans": goodScript}).Build(t))
	repo.Publish()
	var sets []string
	for range 2 {
		a := upgradeRPM(t, repo, image, nil).good(t)
		want := []upgrade.PackageChange{
			{Name: "lib", From: "1:1-1", To: "1:2-1", Source: "lib", CVEs: []string{}},
			{Name: "tool", From: "1-1", To: "2-1", Source: "tool", CVEs: []string{"CVE-2026-4242"}},
		}
		if diff := cmp.Diff(want, a.report.Packages); diff != "" {
			t.Error(diff)
		}
		confs := []upgrade.Conffile{
			{Path: "/etc/plain.conf", Package: "tool", Taken: "owner", Left: "/etc/plain.conf.rpmnew"}, {Path: "/etc/tool.conf", Package: "tool", Taken: "owner", Left: "/etc/tool.conf.rpmnew"},
		}
		if diff := cmp.Diff(confs, a.report.Conffiles); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"other"}, a.report.Held); diff != "" {
			t.Error(diff)
		}
		if len(a.report.Setuid) > 0 || a.report.Changed < 5 || a.report.Downloaded == 0 {
			t.Errorf("%+v", a.report)
		}
		strays := []upgrade.Stray{{Path: "/var/lib/tool/ran"}}
		if diff := cmp.Diff(strays, a.report.Strays); diff != "" {
			t.Error(diff)
		}
		sets = append(sets, packagesOf(t, a.output))
		inside(t, a.output, func(root *os.Root) {
			for name, want := range map[string]string{
				"etc/tool.conf": "the owner's\n", "etc/plain.conf": "the owner's\n", "etc/tool.conf.rpmnew": "shipped 2\n", "etc/plain.conf.rpmnew": "shipped 2\n",
				"etc/calm.conf": "shipped 2\n", "usr/lib/lib.so": "lib 2\n", "usr/share/tool": "tool 2\n", "var/lib/tool/ran": "2 0\n2 0\n2 0\n", "tmp/tool": "", "etc/machine-id": "",
				"etc/plain.conf.rpmsave": "",
			} {
				if got := text(t, root, name); got != want {
					t.Errorf("%s: %q", name, got)
				}
			}
		})
		if len(sets) == 2 {
			continue
		}
		if again := upgradeRPM(t, repo, a.output, nil).good(t); !again.report.Unchanged {
			t.Errorf("a second upgrade: %+v", again.report)
		}
	}
	if want := "base 1-1, lib 1:2-1, other 1-1, tool 2-1"; sets[0] != want || sets[1] != want {
		t.Errorf("packages: %v", sets)
	}
}

// TestConfigsOfRPM: the policy decides about files that owner and package both changed.
func TestConfigsOfRPM(t *testing.T) {
	t.Parallel()
	image := rpmImage(t, func(tree string) {
		write(t, tree, "etc/tool.conf", "the owner's\n")
		write(t, tree, "etc/plain.conf", "the owner's\n")
		if err := os.MkdirAll(filepath.Join(tree, "etc/selinux"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, tree, "etc/selinux/config", "SELINUX=enforcing\n")
	})
	repo, lib := rpmrepo.New(t), rpmLib("2")
	lib.Files["/usr/bin/powerful"], lib.Modes = "#!/bin/sh\n", map[string]string{"/usr/bin/powerful": "4755"}
	repo.Add(lib.Build(t), rpmTool("2", nil).Build(t))
	repo.Publish()
	a := upgradeRPM(t, repo, image, func(r *upgrade.Request) { r.Policy.Conffiles = upgrade.ConffilesNew }).good(t)
	if diff := cmp.Diff([]string{"/usr/bin/powerful (lib)"}, a.report.Setuid); diff != "" || len(a.report.Strays) > 0 {
		t.Errorf("%s %v", diff, a.report.Strays)
	}
	inside(t, a.output, func(root *os.Root) {
		if !exists(root, ".autorelabel") {
			t.Error("nothing will label the new files")
		}
		for _, name := range []string{"etc/tool.conf", "etc/plain.conf"} {
			if text(t, root, name) != "shipped 2\n" || text(t, root, name+".rpmsave") != "the owner's\n" || text(t, root, name+".rpmnew") != "" {
				t.Errorf("%s: %q", name, text(t, root, name))
			}
		}
	})
	b := upgradeRPM(t, repo, image, func(r *upgrade.Request) { r.Policy.Conffiles = upgrade.ConffilesFail })
	if errs.CodeOf(b.err) != offline.CodeConffiles || !strings.Contains(b.err.Error(), "/etc/plain.conf (tool)") || !strings.Contains(b.err.Error(), "/etc/tool.conf (tool)") {
		t.Errorf("%v", b.err)
	}
}

// TestRPMSignatures: nothing comes from a repository that anybody else signed.
func TestRPMSignatures(t *testing.T) {
	t.Parallel()
	image := rpmImage(t, nil)
	fix := rpmLib("2").Build(t)
	for name, spoil := range map[string]func(*rpmrepo.Repository){
		"packages by another key": func(r *rpmrepo.Repository) {
			r.Publish()
			r.NewKey()
			r.Add(fix)
		},
		"everything by another key": func(r *rpmrepo.Repository) { r.NewKey(); r.Add(fix); r.Publish() },
		"metadata by another key":   func(r *rpmrepo.Repository) { r.Add(fix); r.NewKey(); r.Publish() },
		"no signature":              func(r *rpmrepo.Repository) { r.AddUnsigned(fix); r.Publish() },
	} {
		t.Run(name, func(t *testing.T) {
			repo := rpmrepo.New(t)
			spoil(repo)
			unsigned := strings.HasPrefix(name, "packages")
			if unsigned {
				repo.Publish() // the metadata has no good signature either, and needs none
			}
			a := upgradeRPM(t, repo, image, func(r *upgrade.Request) { r.Repositories[0].Unsigned = unsigned })
			if errs.CodeOf(a.err) != offline.CodeSignature {
				t.Errorf("%v\n%s", a.err, a.log.Bytes()[max(0, a.log.Len()-2000):])
			}
		})
	}
}

// escapes are what a scriptlet tries that must not work; what works leaves a file.
const escapes = `worked() { echo "$1" >>/var/lib/tool/worked; }
wget -q -O /dev/null ` + rpmrepo.Base + `/repodata/repomd.xml && worked network
http_proxy=http://127.0.0.1:3142 wget -q -O /dev/null ` + rpmrepo.Base + `/repodata/repomd.xml && worked proxy
mknod /var/lib/tool/disk b 8 0 && worked device
mount -t tmpfs tmpfs /var && worked mount
(echo x >/proc/sys/kernel/hostname) && worked kernel
(echo x >/proc/sysrq-trigger) && worked sysrq
(echo x >MARKER) && worked outside
escape || worked escape
cat /proc/kcore >/dev/null && [ -s /proc/kcore ] && worked memory
exit 0
`

// escapeProgram gets out of a root that was changed by chroot(2), and tries what would be worth it.
const escapeProgram = `#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
int main(void) {
	mkdir("/tmp/x", 0700);
	if (chroot("/tmp/x")) return 0;
	for (int i = 0; i < 64; i++) if (chdir("..")) return 1;
	if (chroot(".")) return 1;
	if (access("/image/var/lib/tool", F_OK)) return 2; /* not out: this test says nothing */
	if (open("/usr/share/marker", O_CREAT | O_WRONLY, 0600) >= 0) return 3;
	if (open("/usr/bin/dnf", O_WRONLY) >= 0) return 4;
	if (!access("/etc/shadow", F_OK) || !access("/home", F_OK) || !access("/root/.ssh", F_OK) || !access("/var/lib/dpkg", F_OK)) return 5;
	if (!mknod("/run/disk", S_IFBLK | 0600, makedev(8, 0)) || !mount("none", "/run", "tmpfs", 0, 0)) return 6;
	if (open("/proc/sys/kernel/hostname", O_WRONLY) >= 0 || open("/image/proc/sys/kernel/hostname", O_WRONLY) >= 0) return 7;
	if (creat("/image/var/lib/tool/was-out", 0600) < 0) return 8;
	return 0;
}
`

func exists(root *os.Root, name string) bool {
	_, err := root.Stat(name)
	return err == nil
}

// TestHostileRPM: what scriptlets must not do ends the upgrade, or has no effect.
func TestHostileRPM(t *testing.T) {
	t.Parallel()
	image := rpmImage(t, func(tree string) {
		source := filepath.Join(t.TempDir(), "escape.c")
		write(t, filepath.Dir(source), filepath.Base(source), escapeProgram)
		if err := run(t.Context(), [][]string{{"gcc", "-static", "-o", filepath.Join(tree, "usr/bin/escape"), source}}, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	marker := filepath.Join(t.TempDir(), "outside")
	for name, c := range map[string]struct {
		script, code, says string
	}{
		"fails":      {"exit 3", offline.CodePackages, "scriptlet"},
		"setuid":     {"cp /usr/bin/busybox /usr/bin/evil; chmod 4755 /usr/bin/evil", offline.CodeGate, "/usr/bin/evil"},
		"other file": {"echo changed >/usr/share/tool", offline.CodeGate, "/usr/share/tool"},
		"escapes":    {strings.Replace(escapes, "MARKER", marker, 1), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			repo := rpmrepo.New(t)
			repo.Add(rpmLib("2").Build(t), rpmTool("2", map[string]string{"post": c.script}).Build(t))
			repo.Publish()
			a := upgradeRPM(t, repo, image, nil)
			if c.code == "" {
				a.good(t)
				inside(t, a.output, func(root *os.Root) {
					if got := text(t, root, "var/lib/tool/worked"); got != "" {
						t.Errorf("worked: %s", got)
					}
					if !exists(root, "var/lib/tool/was-out") {
						t.Error("the program did not get as far as it should have tried")
					}
				})
			} else if errs.CodeOf(a.err) != c.code || !strings.Contains(a.err.Error(), c.says) {
				t.Errorf("%v\n%s", a.err, a.log.Bytes()[max(0, a.log.Len()-2000):])
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("a scriptlet wrote outside of the image")
			}
		})
	}
}

// TestKernelOfRPM: a kernel comes beside the old one, and has to have what it boots with.
func TestKernelOfRPM(t *testing.T) {
	t.Parallel()
	kernel := func(version string, scripts map[string]string) rpmrepo.Package {
		return rpmrepo.Package{Name: "kernel-core", Version: version, Fields: "Provides: installonlypkg(kernel)\n", Files: map[string]string{"/boot/vmlinuz-" + version: "kernel " + version}, Scripts: scripts}
	}
	image := rpmImage(t, func(tree string) { write(t, tree, "boot/initramfs-6.1.img", "ram") }, kernel("6.1", nil))
	repo := rpmrepo.New(t)
	repo.Add(kernel("6.2", nil).Build(t))
	repo.Publish()
	if a := upgradeRPM(t, repo, image, nil); errs.CodeOf(a.err) != offline.CodeGate || !strings.Contains(a.err.Error(), "the kernel 6.2 has no initramfs") {
		t.Errorf("%v", a.err)
	}
	repo.Add(kernel("6.3", map[string]string{"posttrans": "echo ram >/boot/initramfs-6.3.img"}).Build(t))
	repo.Publish()
	a := upgradeRPM(t, repo, image, nil).good(t)
	want := []upgrade.PackageChange{{Name: "kernel-core", To: "6.3-1", Source: "kernel-core", CVEs: []string{}}}
	if diff := cmp.Diff(want, a.report.Packages); diff != "" || a.report.KernelFrom != "6.1" || a.report.KernelTo != "6.3" {
		t.Errorf("%s from %s to %s", diff, a.report.KernelFrom, a.report.KernelTo)
	}
	if got := packagesOf(t, a.output); !strings.Contains(got, "kernel-core 6.1-1, kernel-core 6.3-1") {
		t.Error(got)
	}
}

// TestFullDiskOfRPM: what does not fit is refused with what is missing, or gets a larger disk. A new version that takes the
// place of an old one needs no room of its own but while it comes.
func TestFullDiskOfRPM(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	big := func(name, version string, size int) rpmrepo.Package {
		return rpmrepo.Package{Name: name, Version: version, Files: map[string]string{"/usr/share/" + name: strings.Repeat(version, size)}}
	}
	many := rpmrepo.Package{Name: "many", Version: "2", Files: map[string]string{}}
	for i := range 400 {
		many.Files[fmt.Sprintf("/usr/share/many/%d", i)] = ""
	}
	old := []rpmrepo.Package{big("same", "1", 8*mib), big("more", "1", mib), {Name: "many", Version: "1"}}
	full := rpmImage(t, func(tree string) { write(t, tree, "root/fill", strings.Repeat("x", 30*mib)) }, old...)
	crowded := rpmrepo.ImageWith(t, []string{"-N", "400"}, nil, old...)
	// Half of it is root's own, and less than that is free.
	nothing := rpmrepo.ImageWith(t, []string{"-m", "50"}, func(tree string) { write(t, tree, "root/fill", strings.Repeat("x", 30*mib)) }, old...)
	for name, c := range map[string]struct {
		image   string
		comes   rpmrepo.Package
		missing string // "": it fits
	}{
		"as large":                  {full, big("same", "2", 8*mib), ""},
		"much larger":               {full, big("more", "2", 20*mib), "bytes are missing"},
		"too large while it comes":  {full, big("same", "2", 13*mib), "bytes are missing"},
		"nothing is free":           {nothing, big("same", "2", 8*mib), "bytes are missing"},
		"too many files":            {crowded, many, "inodes are missing"},
		"not too many for its disk": {full, many, ""},
	} {
		t.Run(name, func(t *testing.T) {
			repo := rpmrepo.New(t)
			repo.Add(c.comes.Build(t))
			repo.Publish()
			a := upgradeRPM(t, repo, c.image, nil)
			if c.missing == "" {
				if a.good(t); a.report.GrownTo != 0 || len(a.report.Packages) != 1 {
					t.Errorf("%+v", a.report)
				}
				return
			}
			if errs.CodeOf(a.err) != offline.CodeDiskFull || !errs.Is(a.err, errs.TooLarge) || !strings.Contains(a.err.Error(), c.missing) {
				t.Fatalf("%v\n%s", a.err, a.log.Bytes()[max(0, a.log.Len()-2000):])
			}
			b := upgradeRPM(t, repo, c.image, func(r *upgrade.Request) { r.Policy.GrowGiB = 1 }).good(t)
			if size := factsOf(t, b.output).VirtualSize; len(b.report.Packages) != 1 || b.report.GrownTo != 1<<30 || size != 1<<30 {
				t.Errorf("%d bytes: %+v", size, b.report)
			}
		})
	}
}

// TestManagers: which systems are upgraded, and what the others are told.
func TestManagers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	repo := rpmrepo.New(t)
	disk := func(name, text string) string {
		tree := t.TempDir()
		for file, content := range map[string]string{"etc/os-release": "ID=example\nVERSION_ID=9\nPRETTY_NAME=\"Example 9\"\n", name: text} {
			if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(file)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, tree, file, content)
		}
		image := filepath.Join(t.TempDir(), "disk")
		if err := run(t.Context(), [][]string{{"/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, image, "16m"}}, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		return image
	}
	apk := upgradeRPM(t, repo, disk("lib/apk/db/installed", "P:musl\nV:1.2.5-r0\n\n"), nil)
	if errs.CodeOf(apk.err) != offline.CodeLayout || !strings.Contains(apk.err.Error(), "apk") {
		t.Errorf("%v", apk.err)
	}
	ndb := "RpmP\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00" + strings.Repeat("\x00", 16) + strings.Repeat("Slot"+strings.Repeat("\x00", 12), 254)
	suse := upgradeRPM(t, repo, disk("usr/lib/sysimage/rpm/Packages.db", ndb), nil)
	if !errs.Is(suse.err, errs.Invalid) {
		t.Errorf("%v", suse.err)
	}
	none := upgradeRPM(t, repo, disk("usr/lib/sysimage/rpm/Packages.db", ndb), func(r *upgrade.Request) {
		r.Repositories, r.Suites = nil, []upgrade.Suite{{Mirror: "http://mirror.example.org", Suite: "bookworm", Components: []string{"main"}}}
	})
	if errs.CodeOf(none.err) != offline.CodeRequest || !strings.Contains(none.err.Error(), "rpm repository") {
		t.Errorf("%v", none.err)
	}
}
