package inspect

import (
	"bufio"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// openDisk gives the bytes as the guest sees them, with the parts that were read last kept. The reader hides the file
// behind it, so that a backing file's name could not be resolved even if the header check had missed it.
func openDisk(r io.ReaderAt, header disk.Header) (io.ReaderAt, error) {
	if header.Format == disk.Raw {
		return newPages(r, header.VirtualSize, nil), nil
	}
	withDecompressors()
	img, err := qcow2reader.OpenWithType(r, qcow2.Type)
	if err != nil {
		return nil, err
	}
	if err := img.Readable(); err != nil {
		return nil, err
	}
	if header.ExtendedL2 { // whose table would be read once more for every question
		return newPages(img, header.VirtualSize, nil), nil
	}
	return newPages(img, header.VirtualSize, func(off int64) (start, length int64) {
		start = off / header.ClusterSize * header.ClusterSize
		e, err := img.Extent(start, min(header.ClusterSize, header.VirtualSize-start))
		if err != nil || !e.Compressed {
			return 0, 0 // an error comes back when the bytes are read
		}
		return start, e.Length
	}), nil
}

// packedPiece is how much of a compressed cluster is asked for at once, in bytes: the reader of qcow2 does not know how
// long it is, and each question may be an HTTP request.
const packedPiece = 16 << 10

// withDecompressors gives the qcow2 reader decompressors that are used again: it has none for zstd, and makes a new one
// for each cluster. Its table is global.
var withDecompressors = sync.OnceFunc(func() {
	var zstds, flates sync.Pool
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		d, _ := zstds.Get().(*unpacker[*zstd.Decoder])
		if d == nil {
			z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(64<<20))
			if err != nil {
				return nil, err
			}
			d = &unpacker[*zstd.Decoder]{Reader: z, z: z, in: bufio.NewReaderSize(nil, packedPiece), pool: &zstds}
		}
		d.in.Reset(r)
		return d, d.z.Reset(d.in)
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		d, _ := flates.Get().(*unpacker[flate.Resetter])
		if d == nil {
			z := flate.NewReader(nil)
			d = &unpacker[flate.Resetter]{Reader: z, z: z.(flate.Resetter), in: bufio.NewReaderSize(nil, packedPiece), pool: &flates}
		}
		d.in.Reset(r)
		return d, d.z.Reset(d.in, nil)
	})
})

// unpacker is a decompressor that goes back to where it came from when it is closed.
type unpacker[Z any] struct {
	io.Reader
	z    Z
	in   *bufio.Reader
	pool *sync.Pool
}

// Close implements io.Closer.
func (u *unpacker[Z]) Close() error {
	u.in.Reset(nil)
	u.pool.Put(u)
	return nil
}
