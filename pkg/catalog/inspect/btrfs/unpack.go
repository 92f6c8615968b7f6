package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// The compressions of an extent.
const (
	methodZlib = 1
	methodLZO  = 2
	methodZstd = 3
)

// unpack gives the size bytes of a compressed extent. What comes short is zeros, as the kernel does it.
func (v *volume) unpack(method byte, packed []byte, size int64) ([]byte, error) {
	out := make([]byte, size)
	switch method {
	case methodZlib:
		z, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, corrupt("zlib: %v", err)
		}
		return out, short(io.ReadFull(z, out))
	case methodLZO:
		return out, v.unpackLZO(packed, out)
	case methodZstd:
		z, _ := v.zstds.Get().(*zstd.Decoder)
		if z == nil {
			var err error
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(1<<20)); err != nil {
				return nil, err
			}
		}
		defer v.zstds.Put(z)
		if err := z.Reset(bytes.NewReader(packed)); err != nil {
			return nil, corrupt("zstd: %v", err)
		}
		return out, short(io.ReadFull(z, out))
	}
	return nil, corrupt("a compression of kind %d", method)
}

// short forgives an early end; the zeros that fill the last sector are no further zstd frame.
func short(_ int, err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, zstd.ErrMagicMismatch) {
		return nil
	}
	return corrupt("a compressed extent: %v", err)
}

// unpackLZO reads the frame: the length of all, then pieces of a sector each with their lengths, of which none crosses
// the end of a sector.
func (v *volume) unpackLZO(packed, out []byte) error {
	le := binary.LittleEndian
	if len(packed) < 4 {
		return corrupt("lzo: %d bytes", len(packed))
	}
	total := int(min(int64(le.Uint32(packed)), int64(len(packed))))
	for at := 4; at+4 <= total && len(out) > 0; {
		if left := int(v.sectorSize) - at%int(v.sectorSize); left < 4 {
			at += left
			continue
		}
		size := int64(le.Uint32(packed[at:]))
		if at += 4; size > int64(total-at) {
			return corrupt("lzo: a piece of %d bytes", size)
		}
		n, err := lzo1x(out[:min(len(out), int(v.sectorSize))], packed[at:at+int(size)])
		if err != nil {
			return err
		}
		at, out = at+int(size), out[n:]
	}
	return nil
}

var errLZO = corrupt("lzo: damaged data")

// lzoReader is compressed data on its way through lzo1x.
type lzoReader struct {
	in  []byte
	at  int
	out []byte
	n   int
	bad bool
}

func (r *lzoReader) next() int {
	if r.at >= len(r.in) {
		r.bad = true
		return 0
	}
	r.at++
	return int(r.in[r.at-1])
}

func (r *lzoReader) pair() int { return r.next() | r.next()<<8 }

// long reads a length that did not fit into its instruction: 255 for each zero byte.
func (r *lzoReader) long(base int) int {
	for n := base; ; n += 255 {
		if b := r.next(); b != 0 || r.bad || n > 1<<20 {
			return n + b
		}
	}
}

func (r *lzoReader) literals(count int) {
	if count > len(r.in)-r.at || count > len(r.out)-r.n {
		r.bad = true
		return
	}
	copy(r.out[r.n:], r.in[r.at:r.at+count])
	r.at, r.n = r.at+count, r.n+count
}

func (r *lzoReader) match(distance, count int) {
	if distance <= 0 || distance > r.n || count > len(r.out)-r.n {
		r.bad = true
		return
	}
	for range count { // byte by byte: a match may reach into what it makes
		r.out[r.n] = r.out[r.n-distance]
		r.n++
	}
}

// lzo1x unpacks one piece into out and gives the number of bytes (Documentation/staging/lzo.rst of Linux).
func lzo1x(out, in []byte) (int, error) {
	const afterRun = 4 // state: the last instruction copied a run of literals
	r := &lzoReader{in: in, out: out}
	state := 0
	if len(in) > 0 && in[0] > 17 {
		count := r.next() - 17
		r.literals(count)
		state = min(count, afterRun)
	}
	for !r.bad {
		t := r.next()
		trailing := t & 3
		switch {
		case t < 16 && state == 0:
			if t == 0 {
				t = r.long(15)
			}
			r.literals(t + 3)
			state = afterRun
			continue
		case t < 16 && state == afterRun:
			r.match(0x801+t>>2+r.next()<<2, 3)
		case t < 16:
			r.match(1+t>>2+r.next()<<2, 2)
		case t >= 64:
			r.match(1+t>>2&7+r.next()<<3, t>>5+1)
		case t >= 32:
			count := t&31 + 2
			if count == 2 {
				count += r.long(31)
			}
			word := r.pair()
			r.match(1+word>>2, count)
			trailing = word & 3
		default:
			count := t&7 + 2
			if count == 2 {
				count += r.long(7)
			}
			word := r.pair()
			distance := t&8<<11 + word>>2
			if distance == 0 {
				if r.bad {
					return 0, errLZO
				}
				return r.n, nil // the end mark
			}
			r.match(distance+0x4000, count)
			trailing = word & 3
		}
		if r.literals(trailing); trailing == 0 {
			state = 0
		} else {
			state = trailing
		}
	}
	return 0, errLZO
}
