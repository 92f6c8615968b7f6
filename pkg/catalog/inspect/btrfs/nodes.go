package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
)

const (
	nodeHead  = 101
	itemSize  = 25 // key, offset and size of what it is about
	childSize = 33 // key, address, generation
	keySize   = 17
	maxLevel  = 7
	keptNodes = 1024
)

// errStop ends a scan without being an error.
var errStop = tree.ErrStop

// key is what all items of all trees are sorted by.
type key struct {
	object uint64
	kind   byte
	offset uint64
}

func decodeKey(b []byte) key {
	le := binary.LittleEndian
	return key{le.Uint64(b), b[8], le.Uint64(b[9:])}
}

func (k key) less(o key) bool {
	switch {
	case k.object != o.object:
		return k.object < o.object
	case k.kind != o.kind:
		return k.kind < o.kind
	}
	return k.offset < o.offset
}

// node reads a block of a tree and verifies it; where it is damaged, from its second copy.
func (v *volume) node(at subtree) ([]byte, error) {
	v.mu.Lock()
	b, ok := v.nodes[at.addr]
	v.mu.Unlock()
	if !ok {
		var err error
		if b, err = v.readNode(at.addr); err != nil {
			return nil, err
		}
		v.mu.Lock()
		if len(v.nodes) >= keptNodes {
			clear(v.nodes)
		}
		v.nodes[at.addr] = b
		v.mu.Unlock()
	}
	if b[100] != at.level || at.level > maxLevel {
		return nil, corrupt("the node at %d is of level %d, not %d", at.addr, b[100], at.level)
	}
	return b, nil
}

func (v *volume) readNode(addr uint64) ([]byte, error) {
	places, err := v.places(addr, v.nodeSize)
	if err != nil {
		return nil, err
	}
	b := make([]byte, v.nodeSize)
	for _, place := range places {
		if _, err := v.r.ReadAt(b, place); err != nil {
			return nil, fmt.Errorf("cannot read the node at %d: %w", addr, err)
		}
		if v.verified(b) && binary.LittleEndian.Uint64(b[48:]) == addr && bytes.Equal(b[32:48], v.fsid) {
			return b, nil
		}
	}
	return nil, corrupt("the checksum of the node at %d is wrong", addr)
}

// scanner is one pass over a tree.
type scanner struct {
	v       *volume
	from    key
	last    key // item told before
	started bool
	fn      func(key, []byte) error
}

// scan calls fn for the items from a key on, in order, until fn gives an error; errStop ends it well. Because keys must
// rise from item to item over the whole tree, no damage can make it endless.
func (v *volume) scan(at subtree, from key, fn func(k key, data []byte) error) error {
	s := &scanner{v: v, from: from, fn: fn}
	err := s.visit(at, true)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

func (s *scanner) visit(at subtree, top bool) error {
	b, err := s.v.node(at)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count, width := int64(le.Uint32(b[96:])), int64(childSize)
	if at.level == 0 {
		width = itemSize
	}
	if count > (int64(len(b))-nodeHead)/width || count == 0 && !top {
		return corrupt("the node at %d has %d entries", at.addr, count)
	}
	entry := func(k int64) []byte { return b[nodeHead+k*width : nodeHead+(k+1)*width] }
	// The first entry that is not before what is asked for; of inner nodes the one before it, which may reach so far.
	low, high := int64(0), count
	for low < high {
		if mid := (low + high) / 2; decodeKey(entry(mid)).less(s.from) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if at.level == 0 {
		return s.items(b, low, count)
	}
	for k := max(0, low-1); k < count; k++ {
		if err := s.visit(subtree{le.Uint64(entry(k)[keySize:]), at.level - 1}, false); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) items(b []byte, low, count int64) error {
	le := binary.LittleEndian
	if count > 0 && low >= count { // nothing here, but a leaf that is met again must not pass for news
		return s.rises(decodeKey(b[nodeHead+(count-1)*itemSize:]))
	}
	for k := low; k < count; k++ {
		e := b[nodeHead+k*itemSize:]
		at := decodeKey(e)
		if err := s.rises(at); err != nil {
			return err
		}
		off, size := int64(le.Uint32(e[keySize:])), int64(le.Uint32(e[keySize+4:]))
		if off > int64(len(b))-nodeHead-size {
			return corrupt("an item of %d bytes at %d", size, off)
		}
		if err := s.fn(at, b[nodeHead+off:nodeHead+off+size]); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) rises(k key) error {
	if s.started && !s.last.less(k) {
		return corrupt("keys that do not rise")
	}
	s.started, s.last = true, k
	return nil
}
