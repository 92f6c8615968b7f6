package cloud

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const (
	mib    = 1 << 20
	gib    = 1 << 30
	sector = 512
)

// parcel is the disk that goes to the cloud: a partition table of our own, the copy's root file system, and the guest's files
// as an ISO 9660 file system. Nova gives a server one disk, and 64 KiB beside it; so all must be on that one. The copy's own table,
// boot loader and other partitions are not on it. A disk that began with a file system would be grown by Nova itself
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/virt/disk/api.py, extend).
type parcel struct {
	start, length int64 // of the root file system
	data, files   int64 // where the ISO begins, and its length
	size          int64
}

// dataDevice is the second partition, as a kernel with virtio names it.
const dataDevice = "/dev/vda2"

func upTo(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// measure says where things will lie.
func measure(g build.Guest, iso string) (parcel, error) {
	st, err := os.Stat(iso)
	if err != nil {
		return parcel{}, local(err)
	}
	p := parcel{start: mib, length: g.Length, files: st.Size()}
	p.data = upTo(p.start+p.length, mib)
	p.size = upTo(p.data+p.files, mib) + mib
	if p.size/sector > 1<<32-1 {
		return p, errs.New(errs.Invalid, testboot.CodeCloud, "A root file system of %d bytes is too large for a quarantine boot on the cloud.", g.Length)
	}
	return p, nil
}

// lay writes the disk. Holes stay holes.
func (p parcel) lay(g build.Guest, iso, path, nonce string) error {
	in, err := os.Open(iso)
	if err != nil {
		return local(err)
	}
	defer in.Close() //nolint:errcheck // only read
	copied, err := os.Open(g.Disk)
	if err != nil {
		return local(err)
	}
	defer copied.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return local(err)
	}
	err = errors.Join(out.Truncate(p.size), p.table(out, nonce), copyRange(out, p.start, copied, g.Start, p.length), copyRange(out, p.data, in, 0, p.files))
	return local(errors.Join(err, out.Close()))
}

// table writes the MBR. The disk's signature is random, like that of any other.
func (p parcel) table(out io.WriterAt, nonce string) error {
	mbr := make([]byte, sector)
	if _, err := hex.Decode(mbr[440:444], []byte(nonce[:8])); err != nil {
		return err
	}
	for i, part := range [][2]int64{{p.start, p.length}, {p.data, p.files}} {
		entry := mbr[446+16*i:]
		entry[4] = 0x83
		binary.LittleEndian.PutUint32(entry[8:], uint32(part[0]/sector))
		binary.LittleEndian.PutUint32(entry[12:], uint32(upTo(part[1], sector)/sector))
	}
	mbr[510], mbr[511] = 0x55, 0xaa
	_, err := out.WriteAt(mbr, 0)
	return err
}

// unpack puts the root file system of a disk that came back into the copy. Nothing else of that disk is taken, so what a guest
// does to its table or beyond it goes nowhere.
func (p parcel) unpack(g build.Guest, path string) (err error) {
	back, err := os.Open(path)
	if err != nil {
		return local(err)
	}
	defer back.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(g.Disk, os.O_RDWR, 0)
	if err != nil {
		return local(err)
	}
	err = unix.Fallocate(int(out.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, g.Start, g.Length)
	if err == nil {
		err = copyRange(out, g.Start, back, p.start, p.length)
	}
	return local(errors.Join(err, out.Close()))
}

// copyRange copies what is stored of length bytes and is not zero; out must be zero there.
func copyRange(out io.WriterAt, to int64, in *os.File, from, length int64) error {
	const block = 64 << 10
	buffer, zero := make([]byte, block), make([]byte, block)
	for at := int64(0); at < length; {
		data, err := in.Seek(from+at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		if at = max(at, data-from); at >= length {
			return nil
		}
		n, err := in.ReadAt(buffer[:min(block, length-at)], from+at)
		if err != nil && (!errors.Is(err, io.EOF) || n == 0) {
			return err
		}
		if !bytes.Equal(buffer[:n], zero[:n]) {
			if _, err := out.WriteAt(buffer[:n], to+at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return nil
}

// local is a failure of the worker's own disk.
func local(err error) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return errs.Wrap(disk.NoSpace(err, "the worker's disk"), errs.Internal, testboot.CodeHost, "The disk for the quarantine boot cannot be written.")
}

// bring writes a disk of at most most bytes to path, and to sum.
func bring(ctx context.Context, from io.Reader, path string, most int64, sum io.Writer) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return local(err)
	}
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(from, most+1))
	err = errors.Join(err, out.Close())
	switch {
	case err != nil && ctx.Err() != nil:
		return errs.Wrap(err, errs.KindOf(ctx.Err()), testboot.CodeCloud, "The disk of the quarantine boot did not come back in time.")
	case err != nil:
		return errs.Wrap(disk.NoSpace(err, "the worker's disk"), errs.Unavailable, testboot.CodeCloud, "The disk of the quarantine boot cannot be downloaded.")
	case n > most:
		return errs.New(errs.Invalid, testboot.CodeGuest, "The disk of the quarantine boot has more than %d bytes.", most)
	}
	return nil
}
