package lvm

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const (
	maxVolumes  = 10_000
	maxSegments = 100_000
	maxRuns     = 4 << 20 // ranges of all volumes: a striped one has one for every stripe
	maxBytes    = 1 << 60
)

// group is one volume group as its metadata tells.
type group struct {
	name   string
	id     string
	seq    int64
	extent int64 // bytes
	pvs    section
	lvs    section

	runs int
}

// parseGroup finds the one section of the text that describes a group.
func parseGroup(text []byte) (*group, error) {
	all, err := parse(string(text))
	if err != nil {
		return nil, err
	}
	for name := range all {
		s := all.section(name)
		if s == nil || s.number("extent_size") == 0 {
			continue
		}
		g := &group{name: name, id: s.text("id"), seq: s.number("seqno"), extent: s.number("extent_size"), pvs: s.section("physical_volumes"), lvs: s.section("logical_volumes")}
		if g.extent <= 0 || g.extent > 1<<31 || len(g.lvs) > maxVolumes {
			return nil, corrupt("extents of %d sectors, %d volumes", g.extent, len(g.lvs))
		}
		g.extent *= sector
		return g, nil
	}
	return nil, corrupt("the metadata describes no volume group")
}

// volumes maps the logical volumes that can be read, and tells the others by name.
func (g *group) volumes(disks map[string]Physical, left map[string]string) ([]*Volume, error) {
	var out []*Volume
	for _, name := range slices.Sorted(maps.Keys(g.lvs)) {
		lv := g.lvs.section(name)
		if lv == nil || !slices.Contains(lv.list("status"), any("VISIBLE")) {
			continue // parts of others, as the halves of a mirror
		}
		v := &Volume{Group: g.name, Name: name}
		reason, err := g.fill(v, lv, disks)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v, err)
		}
		if reason != "" {
			left[v.String()] = reason
			continue
		}
		out = append(out, v)
	}
	return out, nil
}

// fill lays a volume's segments behind each other; a reason where it is of a kind that cannot be read.
func (g *group) fill(v *Volume, lv section, disks map[string]Physical) (reason string, err error) {
	count := lv.number("segment_count")
	if count <= 0 || count > maxSegments {
		return "", corrupt("%d segments", count)
	}
	for k := range count {
		s := lv.section(fmt.Sprintf("segment%d", k+1))
		if s == nil {
			return "", corrupt("segment %d is missing", k+1)
		}
		if kind := s.text("type"); kind != "striped" && kind != "linear" {
			return kind, nil
		}
		if from := s.number("start_extent"); from < 0 || from > maxBytes/g.extent || from*g.extent != v.Size {
			return "", corrupt("segment %d begins at extent %d", k+1, from)
		}
		if reason, err := g.segment(v, s, disks); err != nil || reason != "" {
			return reason, err
		}
	}
	return "", nil
}

// stripe is one column of a segment.
type stripe struct {
	disk Physical
	off  int64
}

func (g *group) segment(v *Volume, s section, disks map[string]Physical) (reason string, err error) {
	extents, width, list := s.number("extent_count"), s.number("stripe_count"), s.list("stripes")
	if extents <= 0 || extents > maxBytes/g.extent || width <= 0 || width > 256 || int64(len(list)) != 2*width || extents%width != 0 {
		return "", corrupt("a segment of %d extents in %d stripes", extents, width)
	}
	length := extents * g.extent
	var columns []stripe
	for k := range width {
		name, _ := list[2*k].(string)
		from, _ := list[2*k+1].(int64)
		pv := g.pvs.section(name)
		if pv == nil {
			return "a part of another volume", nil
		}
		disk, ok := disks[strings.ReplaceAll(pv.text("id"), "-", "")]
		if !ok {
			return "a part on a disk that is not in the image", nil
		}
		start := pv.number("pe_start")
		if start < 0 || start > maxBytes/sector || from < 0 || from > maxBytes/g.extent {
			return "", corrupt("a stripe at extent %d", from)
		}
		off := start*sector + from*g.extent
		if off > disk.Size || length/width > disk.Size-off {
			return "", corrupt("a stripe of %d bytes at %d on a physical volume of %d", length/width, off, disk.Size)
		}
		columns = append(columns, stripe{disk, off})
	}
	if width == 1 {
		return "", g.add(v, length, columns[0].disk.Disk, columns[0].off)
	}
	return "", g.striped(v, length, s.number("stripe_size")*sector, columns)
}

// striped deals a segment out in turns.
func (g *group) striped(v *Volume, length, size int64, columns []stripe) error {
	if size <= 0 || size > g.extent || g.extent%size != 0 || length/size > maxRuns {
		return corrupt("stripes of %d bytes", size)
	}
	for at := int64(0); at < length; at += size {
		turn := at / size
		c := columns[turn%int64(len(columns))]
		if err := g.add(v, size, c.disk.Disk, c.off+turn/int64(len(columns))*size); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) add(v *Volume, length int64, disk io.ReaderAt, off int64) error {
	if g.runs++; g.runs > maxRuns || v.Size > maxBytes-length {
		return corrupt("volumes in too many pieces")
	}
	v.runs = append(v.runs, run{at: v.Size, length: length, disk: disk, off: off})
	v.Size += length
	return nil
}
