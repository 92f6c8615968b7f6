package lvm

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

const sample = `system { id = "a" seqno = 1 extent_size = 8 max_lv = 0
physical_volumes { pv0 { id = "abcd-efgh" pe_start = 8 pe_count = 4 } }
logical_volumes { root { status = ["READ", "VISIBLE"] segment_count = 2
segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 1] }
segment2 { start_extent = 1 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } } } } # end
version = 1`

// FuzzMetadata reads texts whose checksums would be right.
func FuzzMetadata(f *testing.F) {
	f.Add(sample)
	f.Fuzz(func(t *testing.T, text string) {
		g, err := parseGroup([]byte(text))
		if err != nil {
			return
		}
		disk := bytes.Repeat([]byte{1}, 64<<10)
		volumes, err := g.volumes(map[string]Physical{"abcdefgh": {bytes.NewReader(disk), int64(len(disk))}}, map[string]string{})
		if err != nil {
			return
		}
		for _, v := range volumes {
			if _, err := v.ReadAt(make([]byte, 1), v.Size); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v at its end", v, err)
			}
			if n, err := v.ReadAt(make([]byte, 2), max(0, v.Size-1)); n > 1 || err == nil {
				t.Errorf("%s: %d bytes at the last", v, n)
			}
		}
	})
}

func TestSegmentsInOrder(t *testing.T) {
	g, err := parseGroup([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, 64<<10)
	disk[4096], disk[8192] = 'b', 'a'
	volumes, err := g.volumes(map[string]Physical{"abcdefgh": {bytes.NewReader(disk), int64(len(disk))}}, nil)
	if err != nil || len(volumes) != 1 || volumes[0].Size != 8192 || volumes[0].String() != "system/root" {
		t.Fatalf("%+v %v", volumes, err)
	}
	got := make([]byte, 4097)
	if _, err := volumes[0].ReadAt(got, 0); err != nil || got[0] != 'a' || got[4096] != 'b' {
		t.Errorf("%c %c %v", got[0], got[4096], err)
	}
}

// TestOtherKinds: what is neither linear nor striped is told by name, and what is no volume of its own is not.
func TestOtherKinds(t *testing.T) {
	g, err := parseGroup([]byte(`system { id = "a" seqno = 1 extent_size = 8 physical_volumes { pv0 { id = "ab" pe_start = 8 } }
logical_volumes {
	root { status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = "raid1" device_count = 2 } }
	root_rimage_0 { status = ["READ"] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }
	lost { status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } } } }`))
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]string{}
	volumes, err := g.volumes(nil, left)
	if err != nil || len(volumes) != 0 || len(left) != 2 || left["system/root"] != "raid1" || left["system/lost"] == "" {
		t.Errorf("%v %v %v", volumes, left, err)
	}
}
