package inspect

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// bootDir is a folder that boot files may be in: /boot of the root, or the top of a boot partition.
type bootDir struct {
	fsys fileSystem
	path string
}

// bootDirs lists the root's /boot and, because any of them may be a boot partition, the tops of the other file systems.
func (s *system) bootDirs() []bootDir {
	dirs := []bootDir{{fsys: s.fsys, path: "/boot"}}
	for _, p := range s.places {
		if p.r == s.root.r {
			continue
		}
		// A second file system that cannot be read is no boot partition.
		if fsys, err := openFileSystem(p.kind, p.r, p.size); err == nil {
			dirs = append(dirs, bootDir{fsys: fsys, path: "/"})
		}
	}
	return dirs
}

// readBoot finds kernels, initial RAM disks and the boot loader.
func readBoot(facts *catalog.Facts, dirs []bootDir) error {
	facts.BootLoader = "none"
	for _, d := range dirs {
		names, err := d.fsys.ReadDir(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if version, ok := strings.CutPrefix(name, "vmlinuz-"); ok {
				facts.Kernels = append(facts.Kernels, version)
			}
			if version, ok := strings.CutPrefix(name, "initrd.img-"); ok && !strings.Contains(version, ".dpkg-") && !strings.HasSuffix(version, ".old-dkms") {
				facts.Initrds = append(facts.Initrds, version)
			}
		}
		if _, err := d.fsys.Stat(d.path + "/grub/grub.cfg"); err == nil {
			facts.BootLoader = "grub"
		}
		if facts.CommandLine == "" {
			facts.CommandLine, err = commandLine(d)
			if err != nil {
				return err
			}
		}
	}
	SortVersions(facts.Kernels)
	SortVersions(facts.Initrds)
	return nil
}

// maxBootConfig bounds a boot loader's configuration, in bytes.
const maxBootConfig = 1 << 20

// commandLine is what the boot loader's first entry gives the kernel: GRUB's "linux /boot/vmlinuz root=… ro", or
// extlinux's "append root=… ro".
func commandLine(d bootDir) (string, error) {
	for _, c := range []struct {
		file string
		skip int // words before the arguments
		word string
	}{{"/grub/grub.cfg", 2, "linux"}, {"/extlinux/extlinux.conf", 1, "append"}, {"/syslinux/syslinux.cfg", 1, "append"}} {
		text, err := optional(d.fsys, d.path+c.file, maxBootConfig)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) > c.skip && strings.EqualFold(words[0], c.word) {
				return clean(strings.Join(words[c.skip:], " ")), nil
			}
		}
	}
	return "", nil
}
