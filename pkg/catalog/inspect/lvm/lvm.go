// Package lvm reads the logical volumes of LVM2 out of disks that nobody trusts: the label and the text metadata of
// each physical volume, and volumes that are linear or striped. It only reads, needs neither root nor a device mapper,
// and verifies the checksums (the format is described in lib/format_text/layout.h and libdm/libdevmapper.h of LVM2
// 2.03, and by lvm.conf(5) for its text).
package lvm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

func corrupt(format string, args ...any) error { return tree.Corrupt("lvm: "+format, args...) }

const (
	sector      = 512
	labelMost   = 4        // sectors at the beginning that may have the label
	maxMetadata = 16 << 20 // bytes of the text
	areasMost   = 16       // areas that a label may name
)

// Physical is one physical volume: a partition or a whole disk.
type Physical struct {
	Disk io.ReaderAt
	Size int64 // bytes
}

// Volume is one logical volume. It reads as the guest's kernel would show it.
type Volume struct {
	Group string
	Name  string
	Size  int64 // bytes

	runs []run
}

// run is a range of a logical volume that lies in one piece on a physical one.
type run struct {
	at, length int64
	disk       io.ReaderAt
	off        int64
}

// String is the volume's name as LVM's tools take it: "group/volume".
func (v *Volume) String() string { return v.Group + "/" + v.Name }

// ReadAt implements io.ReaderAt.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("a negative offset %d", off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		k, found := slices.BinarySearchFunc(v.runs, at, func(r run, at int64) int {
			switch {
			case r.at+r.length <= at:
				return -1
			case r.at > at:
				return 1
			}
			return 0
		})
		if !found {
			return n, io.EOF
		}
		r := v.runs[k]
		part := p[n:min(int64(len(p)), int64(n)+r.at+r.length-at)]
		m, err := r.disk.ReadAt(part, r.off+at-r.at)
		if n += m; m < len(part) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}

// label is what the beginning of a physical volume says.
type label struct {
	id    string // without dashes
	pv    Physical
	areas [][2]int64 // of metadata: offset, bytes
}

// Open reads the logical volumes of some physical volumes, which belong to one group or several. Volumes that are
// neither linear nor striped (thin, RAID, mirrors, caches, snapshots) and those with a part on a physical volume that
// is not there are left out and told by name with the reason. Damaged labels or metadata are an error.
func Open(physical []Physical) (volumes []*Volume, left map[string]string, err error) {
	disks := map[string]Physical{}
	newest := map[string]*group{}
	for _, pv := range physical {
		l, err := readLabel(pv)
		if err != nil {
			return nil, nil, err
		}
		disks[l.id] = pv
		g, err := l.metadata()
		if err != nil {
			return nil, nil, err
		}
		if g != nil && (newest[g.id] == nil || newest[g.id].seq < g.seq) {
			newest[g.id] = g
		}
	}
	left = map[string]string{}
	for _, g := range newest {
		found, err := g.volumes(disks, left)
		if err != nil {
			return nil, nil, err
		}
		volumes = append(volumes, found...)
	}
	slices.SortFunc(volumes, func(a, b *Volume) int { return strings.Compare(a.String(), b.String()) })
	return volumes, left, nil
}

// readLabel finds the label in the first sectors and reads where data and metadata are.
func readLabel(pv Physical) (label, error) {
	head := make([]byte, min(pv.Size, labelMost*sector))
	if err := readAt(pv.Disk, head, 0); err != nil {
		return label{}, err
	}
	le := binary.LittleEndian
	for ; len(head) >= sector; head = head[sector:] {
		s := head[:sector]
		if string(s[:8]) != "LABELONE" || string(s[24:32]) != "LVM2 001" {
			continue
		}
		if sum(s[20:]) != le.Uint32(s[16:]) {
			return label{}, corrupt("the label's checksum is wrong")
		}
		at := int(le.Uint32(s[20:]))
		if at < 32 || at+40 > sector {
			return label{}, corrupt("the label's header begins at byte %d", at)
		}
		l := label{id: string(s[at : at+32]), pv: pv}
		list := s[at+40:]
		for range 2 { // the data areas, then those of metadata; each list ends with zeros
			l.areas = nil
			for {
				if len(list) < 16 || len(l.areas) > areasMost {
					return label{}, corrupt("the label's lists have no end")
				}
				off, length := int64(le.Uint64(list)), int64(le.Uint64(list[8:]))
				if list = list[16:]; off == 0 {
					break
				}
				l.areas = append(l.areas, [2]int64{off, length})
			}
		}
		return l, nil
	}
	return label{}, corrupt("a physical volume without a label")
}

// metadata reads the first good text of the volume's areas; nil where the volume keeps none or is in no group.
func (l label) metadata() (*group, error) {
	var first error
	for _, a := range l.areas {
		text, err := l.text(a[0], a[1])
		if err == nil && text == nil {
			continue
		}
		if err == nil {
			var g *group
			if g, err = parseGroup(text); err == nil {
				return g, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// text reads the text that an area's header points to. The area is a ring: what runs over its end goes on behind the
// header.
func (l label) text(at, length int64) ([]byte, error) {
	if at < 0 || length < 2*sector || at > l.pv.Size-length {
		return nil, corrupt("metadata of %d bytes at %d on a volume of %d", length, at, l.pv.Size)
	}
	h := make([]byte, sector)
	if err := readAt(l.pv.Disk, h, at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(h[4:20]) != "\x20LVM2\x20x[5A%r0N*>" {
		return nil, corrupt("an area of metadata without a header")
	}
	if sum(h[4:]) != le.Uint32(h) {
		return nil, corrupt("the checksum of a metadata header is wrong")
	}
	off, size, want := int64(le.Uint64(h[40:])), int64(le.Uint64(h[48:])), le.Uint32(h[56:])
	if off == 0 || size == 0 || le.Uint32(h[60:])&1 != 0 { // none yet, or ignored
		return nil, nil
	}
	if off < sector || off >= length || size < 0 || size > maxMetadata || size > length-sector {
		return nil, corrupt("a text of %d bytes at %d in an area of %d", size, off, length)
	}
	text := make([]byte, size)
	head := min(size, length-off)
	if err := readAt(l.pv.Disk, text[:head], at+off); err != nil {
		return nil, err
	}
	if err := readAt(l.pv.Disk, text[head:], at+sector); err != nil {
		return nil, err
	}
	if sum(text) != want {
		return nil, corrupt("the checksum of the metadata is wrong")
	}
	return text, nil
}

// sum is LVM's checksum: the CRC of IEEE with another beginning and without the inversion at the end.
func sum(b []byte) uint32 {
	const initial = 0xf597a6cf
	return ^crc32.Update(^uint32(initial), crc32.IEEETable, b)
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := tree.Whole(r).ReadAt(p, off); err != nil {
		return fmt.Errorf("cannot read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}
