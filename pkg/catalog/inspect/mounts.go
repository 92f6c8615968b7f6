package inspect

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/btrfs"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/xfs"
)

// mountsMost is how many lines of /etc/fstab are followed.
const mountsMost = 64

// ofSystem are the folders that may be file systems of their own and hold what facts are read from.
var ofSystem = []string{"/usr", "/usr/lib", "/usr/share", "/var", "/var/lib", "/var/lib/dpkg"}

// mountLine is one file system of /etc/fstab (https://manpages.debian.org/fstab.5).
type mountLine struct {
	spec, point, options string
}

// mount lays those file systems of /etc/fstab over the root that belong to the system and lie on the same disk, as the
// system does it when it starts. What is not found is left out: an image may name disks that it gets later.
func (s *system) mount() error {
	text, err := optional(s.fsys, "/etc/fstab", maxText)
	if err != nil {
		return err
	}
	var lines []mountLine
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || !slices.Contains(ofSystem, path.Clean(f[1])) || len(lines) >= mountsMost {
			continue
		}
		lines = append(lines, mountLine{f[0], path.Clean(f[1]), f[3]})
	}
	slices.SortStableFunc(lines, func(a, b mountLine) int { return len(a.point) - len(b.point) })
	for _, l := range lines {
		other, err := s.find(l)
		if err != nil {
			return err
		}
		if other == nil {
			continue
		}
		switch err := s.fsys.Mount(l.point, other); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			s.mounts = append(s.mounts, l.point)
		}
	}
	return nil
}

// find gives the tree that a line means; nil where none of the disk's file systems is it.
func (s *system) find(l mountLine) (*tree.Tree, error) {
	for _, p := range s.places {
		uuid, byUUID := strings.CutPrefix(l.spec, "UUID=")
		if !byUUID && !p.named(l.spec) {
			continue
		}
		fsys, err := openFileSystem(p.kind, p.r, p.size)
		if err != nil {
			if byUUID {
				continue // it may well be another
			}
			return nil, err
		}
		if byUUID && !strings.EqualFold(strings.Trim(uuid, `"`), fsys.UUID()) {
			continue
		}
		switch f := fsys.(type) {
		case *ext4.FS:
			return f.Tree, nil
		case *xfs.FS:
			return f.Tree, nil
		case *btrfs.FS:
			return subvolumeOf(f, l.options)
		}
	}
	return nil, nil
}

// subvolumeOf opens the subvolume that mount options name.
func subvolumeOf(b *btrfs.FS, options string) (*tree.Tree, error) {
	for option := range strings.SplitSeq(options, ",") {
		name, ok := strings.CutPrefix(option, "subvol=")
		if !ok {
			continue
		}
		all, err := b.Subvolumes()
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			if v.Path == strings.Trim(name, "/") {
				other, err := b.Subvolume(v.ID)
				if err != nil {
					return nil, err
				}
				return other.Tree, nil
			}
		}
		return nil, nil
	}
	return b.Tree, nil
}

// named reports whether a name of /etc/fstab other than a UUID means this place: names of device mapper, in which LVM
// doubles dashes, of volumes, of partitions by GUID or name, and of disks with a partition's number at their end.
func (p place) named(spec string) bool {
	if p.volume != "" {
		group, volume, _ := strings.Cut(p.volume, "/")
		mapper := strings.ReplaceAll(group, "-", "--") + "-" + strings.ReplaceAll(volume, "-", "--")
		return spec == "/dev/mapper/"+mapper || spec == "/dev/"+p.volume
	}
	if guid, ok := strings.CutPrefix(spec, "PARTUUID="); ok {
		return p.part.UUID != "" && strings.EqualFold(guid, p.part.UUID)
	}
	if name, ok := strings.CutPrefix(spec, "PARTLABEL="); ok {
		return p.part.Name != "" && name == p.part.Name
	}
	for _, disk := range []string{"/dev/sda", "/dev/vda", "/dev/xvda", "/dev/nvme0n1p"} {
		if number, ok := strings.CutPrefix(spec, disk); ok && number == strconv.Itoa(p.part.Index) {
			return true
		}
	}
	return false
}
