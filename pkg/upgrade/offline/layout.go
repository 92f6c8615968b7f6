package offline

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Partition types that systemd mounts without a line of fstab (Discoverable Partitions Specification).
var discovered = map[string]string{
	"BC13C2FF-59E6-4262-A352-B275FD6F7172": "/boot",
	"8484680C-9521-48C6-9C11-B0720656F69E": "/usr", // of amd64
	"B0E01050-EE5F-4390-949A-9101B17104E9": "/usr", // of arm64
	"4D21B016-B534-45C2-A9FB-5C16E091FD2D": "/var",
}

var (
	packaged = []string{"/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/var"}
	local    = []string{"/usr/local", "/var/log", "/var/tmp"} // packages have nothing there but empty folders
	efi      = []string{"/boot/efi", "/efi"}
	// fleeting file systems are empty at every boot: nothing can be upgraded in them.
	fleeting = []string{"tmpfs", "ramfs", "proc", "sysfs", "devpts", "swap", "efivarfs"}
)

// folders are those that Kiln reads and writes by name. As a link one of them would lead somewhere else than the package
// manager inside means, or out of the image.
var folders = []string{"etc", "etc/apt", "usr", "usr/sbin", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info", "boot", "root", "home"}

// checkFolders refuses an image in which one of those is no folder; it may be missing.
func checkFolders(root *os.Root) error {
	for _, name := range folders {
		info, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return cannotRead(err, name)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := root.Readlink(name)
			if err != nil {
				return cannotRead(err, name)
			}
			return errs.New(errs.Invalid, CodeLayout, "/%s is a symbolic link to %.200q: an image like that cannot be upgraded offline", name, target)
		case !info.IsDir():
			return errs.New(errs.Invalid, CodeLayout, "/%s is no folder", name)
		}
	}
	return nil
}

// checkInterrupted refuses an image in which dpkg was cut off: it leaves what it did not bring into its status. Names of
// anything else than digits are dpkg's own leftovers.
func checkInterrupted(root *os.Root) error {
	names, err := fs.ReadDir(root.FS(), "var/lib/dpkg/updates")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cannotRead(err, "var/lib/dpkg/updates")
	}
	for _, e := range names {
		if strings.Trim(e.Name(), "0123456789") == "" {
			return errs.New(errs.Invalid, CodePackages, "an earlier run of dpkg in the image was interrupted: finish it there first (dpkg --configure -a)")
		}
	}
	return nil
}

// checkLayout refuses an image whose packages have files on another file system than the root, which alone is
// mounted here: they would be upgraded below the mount point, and the image would boot with the old ones.
func (r *run) checkLayout(root *os.Root) error {
	mounts, err := r.otherMounts(root)
	if err != nil {
		return err
	}
	loader := r.efiLoader()
	for _, at := range mounts {
		switch {
		case slices.Contains(efi, at) && loader != "":
			return errs.New(errs.Invalid, CodeLayout,
				"the image boots by EFI: the package %s keeps its files on the EFI system partition at %s, which cannot be upgraded offline yet", loader, at)
		case slices.Contains(efi, at) || below(at, local) || !below(at, packaged):
			continue
		}
		return errs.New(errs.Invalid, CodeLayout,
			"%s of the image is on another file system than its root: only images whose packages are all on one file system can be upgraded offline", at)
	}
	return nil
}

// otherMounts names where the image mounts something when it boots, by /etc/fstab and by its partitions' types.
func (r *run) otherMounts(root *os.Root) ([]string, error) {
	text, err := readFile(root, "etc/fstab", 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, unreadable(err, "etc/fstab")
	}
	mounts := fstabMounts(string(text))
	for _, p := range r.parts {
		switch at := discovered[p.Type]; {
		case p.Start == r.root.Start:
		case at != "":
			mounts = append(mounts, at)
		case p.Type == disk.TypeEFI || p.Type == "0xef":
			mounts = append(mounts, efi[0])
		}
	}
	return mounts, nil
}

// fstabMounts gives the mount points of fstab(5) other than the root and those of file systems that keep nothing.
func fstabMounts(text string) []string {
	var mounts []string
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || strings.HasPrefix(words[0], "#") || !strings.HasPrefix(words[1], "/") || slices.Contains(fleeting, words[2]) {
			continue
		}
		if at := path.Clean(words[1]); at != "/" {
			mounts = append(mounts, at)
		}
	}
	return mounts
}

// efiLoader names an installed package that writes boot loaders to an EFI system partition when it is upgraded.
func (r *run) efiLoader() string {
	for _, p := range r.before {
		switch {
		case strings.HasSuffix(p.Name, "-bin"), strings.HasSuffix(p.Name, "-dbg"):
		case strings.HasPrefix(p.Name, "grub-efi-"), strings.HasPrefix(p.Name, "grub-cloud-"), p.Name == "shim-signed", p.Name == "systemd-boot":
			return p.Name
		}
	}
	return ""
}

// below reports whether a path is one of the folders or is in one.
func below(at string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return at == f || strings.HasPrefix(at, f+"/") })
}
