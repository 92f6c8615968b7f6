package btrfs

import (
	"cmp"
	"encoding/binary"
	"slices"
)

const (
	chunkTree = 256 // object of the map from logical addresses
	chunkType = 228

	chunkHead   = 48
	stripeSize  = 32
	profileRAID = 1<<3 | 1<<4 | 1<<6 | 1<<7 | 1<<8 | 1<<9 | 1<<10
	maxChunks   = 100_000
)

// chunk is a range of logical addresses and where its copies lie on the device: one, or two where the profile is DUP.
type chunk struct {
	logical uint64
	length  uint64
	copies  []int64
}

// readChunks reads the map: first the chunks that the superblock lists, which hold the tree of all.
func (v *volume) readChunks(sb []byte) error {
	le := binary.LittleEndian
	size := le.Uint32(sb[160:])
	if size > 2048 {
		return corrupt("a list of system chunks of %d bytes", size)
	}
	for list := sb[811 : 811+size]; len(list) > 0; {
		if len(list) < keySize+chunkHead {
			return corrupt("a list of system chunks that ends early")
		}
		k := decodeKey(list)
		length := chunkHead + int(le.Uint16(list[keySize+44:]))*stripeSize
		if length > len(list)-keySize {
			return corrupt("a list of system chunks that ends early")
		}
		if err := v.addChunk(k, list[keySize:keySize+length]); err != nil {
			return err
		}
		list = list[keySize+length:]
	}
	first := v.chunks
	v.chunks = slices.Clone(first)
	var all []chunk
	err := v.scan(subtree{le.Uint64(sb[88:]), sb[199]}, key{chunkTree, chunkType, 0}, func(k key, data []byte) error {
		if k.object != chunkTree || k.kind != chunkType {
			return errStop
		}
		c, err := v.decodeChunk(k, data)
		if all = append(all, c); err == nil && len(all) > maxChunks {
			err = corrupt("more than %d chunks", maxChunks)
		}
		return err
	})
	if err != nil {
		return err
	}
	v.chunks = all
	slices.SortFunc(v.chunks, func(a, b chunk) int { return cmp.Compare(a.logical, b.logical) })
	return nil
}

func (v *volume) addChunk(k key, data []byte) error {
	c, err := v.decodeChunk(k, data)
	if err != nil {
		return err
	}
	v.chunks = append(v.chunks, c)
	slices.SortFunc(v.chunks, func(a, b chunk) int { return cmp.Compare(a.logical, b.logical) })
	return nil
}

func (v *volume) decodeChunk(k key, data []byte) (chunk, error) {
	le := binary.LittleEndian
	if len(data) < chunkHead+stripeSize {
		return chunk{}, corrupt("a chunk of %d bytes", len(data))
	}
	c := chunk{logical: k.offset, length: le.Uint64(data)}
	copies := int(le.Uint16(data[44:]))
	if le.Uint64(data[24:])&profileRAID != 0 || copies < 1 || copies > 2 || len(data) < chunkHead+copies*stripeSize {
		return chunk{}, corrupt("a chunk of %d stripes on one device", copies)
	}
	for n := range copies {
		off := le.Uint64(data[chunkHead+n*stripeSize+8:])
		if c.length > uint64(v.size) || off > uint64(v.size)-c.length || c.logical > 1<<62 {
			return chunk{}, corrupt("a chunk of %d bytes at %d", c.length, off)
		}
		c.copies = append(c.copies, int64(off))
	}
	return c, nil
}

// places gives the bytes on the device where each copy of a range of logical addresses lies.
func (v *volume) places(logical uint64, length int64) ([]int64, error) {
	k, _ := slices.BinarySearchFunc(v.chunks, logical, func(c chunk, at uint64) int {
		if c.logical > at {
			return 1
		}
		return -1
	})
	if k == 0 || length <= 0 {
		return nil, corrupt("no chunk for %d bytes at %d", length, logical)
	}
	c := v.chunks[k-1]
	in := logical - c.logical
	if in >= c.length || uint64(length) > c.length-in {
		return nil, corrupt("no chunk for %d bytes at %d", length, logical)
	}
	out := make([]int64, len(c.copies))
	for n := range c.copies {
		out[n] = c.copies[n] + int64(in)
	}
	return out, nil
}
