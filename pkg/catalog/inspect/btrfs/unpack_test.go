package btrfs

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// frame lays pieces of lzo as btrfs does.
func frame(pieces ...[]byte) []byte {
	out := make([]byte, 4)
	for _, p := range pieces {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(p))), p...)
	}
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	return out
}

// The instructions of lzo by hand: five literals, a match that reaches into itself, the end mark.
var byHand = []byte{17 + 5, 'h', 'e', 'l', 'l', 'o', 32 + 8, 4 << 2 & 0xff, 0, 0x11, 0, 0}

func TestLZO(t *testing.T) {
	v := &volume{sectorSize: 4096}
	got, err := v.unpack(methodLZO, frame(byHand, byHand), 4096)
	if err != nil || string(bytes.TrimRight(got, "\x00")) != "hellohellohellohellohellohello" {
		t.Errorf("%q %v", bytes.TrimRight(got, "\x00"), err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "no end": frame(byHand[:9]), "a match before the beginning": frame([]byte{17 + 1, 'x', 32 + 8, 0xff, 0xff, 0x11, 0, 0}),
		"more literals than there are": frame([]byte{0xff, 1}), "a piece longer than the frame": {8, 0, 0, 0, 9, 0, 0, 0}, "an endless length": frame(make([]byte, 3000)),
	} {
		if _, err := v.unpack(methodLZO, bad, 4096); err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
}

// FuzzUnpack: whatever an extent holds, unpacking it gives its size or an error.
func FuzzUnpack(f *testing.F) {
	f.Add(byte(methodLZO), frame(byHand))
	f.Add(byte(methodZlib), []byte("\x78\x9c\xcb\x48\xcd\xc9\xc9\x07\x00\x06\x2c\x02\x15"))
	f.Add(byte(methodZstd), []byte("\x28\xb5\x2f\xfd\x04\x00\x29\x00\x00hello\x00\x00"))
	f.Fuzz(func(t *testing.T, method byte, packed []byte) {
		if len(packed) > 2*maxUnpacked {
			return
		}
		v := &volume{sectorSize: 4096}
		if out, err := v.unpack(method, packed, maxUnpacked); err == nil && len(out) != maxUnpacked {
			t.Errorf("%d bytes", len(out))
		}
	})
}
