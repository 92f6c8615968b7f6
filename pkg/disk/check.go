package disk

import (
	"errors"
	"io"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// The formats that Kiln works on; all others are refused by name.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// Codes of the errors that Check gives. They never change.
const (
	CodeFormat         = "kiln.disk.format"          // not the format that was announced
	CodeUnsupported    = "kiln.disk.unsupported"     // a format or version that Kiln does not work on
	CodeBackingFile    = "kiln.disk.backing_file"    // the header names another file
	CodeDataFile       = "kiln.disk.data_file"       // the data is in another file
	CodeEncrypted      = "kiln.disk.encrypted"       // LUKS or AES inside qcow2
	CodeUnknownFeature = "kiln.disk.unknown_feature" // an incompatible feature bit that nobody knows
	CodeCorrupt        = "kiln.disk.corrupt"         // the header contradicts itself, or says so
	CodeSize           = "kiln.disk.size"            // larger than the limits allow
	CodeTruncated      = "kiln.disk.truncated"       // the file ends before what the header promises
	CodeRead           = "kiln.disk.read"            // the file could not be read
)

// Limits bound what an image may ask of the host. A zero field takes the default.
type Limits struct {
	VirtualBytes int64 // size that the guest sees; default 2 TiB
	FileBytes    int64 // size of the file; default 2 TiB
	Snapshots    int   // internal qcow2 snapshots; default 64
}

func (l Limits) orDefault() Limits {
	const twoTiB = 2 << 40
	if l.VirtualBytes <= 0 {
		l.VirtualBytes = twoTiB
	}
	if l.FileBytes <= 0 {
		l.FileBytes = twoTiB
	}
	if l.Snapshots <= 0 {
		l.Snapshots = 64
	}
	return l
}

// Header is what the first bytes of an image promise.
type Header struct {
	Format      string
	VirtualSize int64 // bytes that the guest sees
	Version     int   // qcow2: 2 or 3
	ClusterSize int64 // qcow2: bytes
	Snapshots   int   // qcow2: internal snapshots
	Zstd        bool  // qcow2: compressed clusters are zstd, not deflate
	ExtendedL2  bool  // qcow2: subclusters
	Dirty       bool  // qcow2: reference counts may be stale (lazy refcounts); harmless to readers
}

// Check reads the header of an image of the announced format and refuses what could reach outside the file
// (backing and data files), what Kiln cannot read, and what would exhaust the host. It opens nothing else and
// reads a few hundred bytes. size is the length of r in bytes. A raw image that begins like another format is
// refused too: a tool that probes would take it for that one.
func Check(r io.ReaderAt, size int64, format string, limits Limits) (Header, error) {
	l := limits.orDefault()
	if size > l.FileBytes {
		return Header{}, errs.New(errs.TooLarge, CodeSize, "The image file has %d bytes; the limit is %d.", size, l.FileBytes)
	}
	format = strings.ToLower(strings.TrimSpace(format))
	if format != Raw && format != Qcow2 {
		return Header{}, errs.New(errs.Invalid, CodeUnsupported, "The disk format %q is not supported; use qcow2 or raw.", format)
	}
	found, err := sniff(r, size)
	if err != nil {
		return Header{}, err
	}
	if found != format {
		return Header{}, errs.New(errs.Invalid, CodeFormat, "The image is announced as %s, but its first bytes are those of %s.", format, found)
	}
	if format == Qcow2 {
		return checkQcow2(r, size, l)
	}
	if size > l.VirtualBytes {
		return Header{}, errs.New(errs.TooLarge, CodeSize, "The disk has %d bytes; the limit is %d.", size, l.VirtualBytes)
	}
	if size < sectorSize {
		return Header{}, errs.New(errs.Invalid, CodeTruncated, "The raw image has only %d bytes.", size)
	}
	return Header{Format: Raw, VirtualSize: size}, nil
}

// sniff names the format by magic: those that qemu's block drivers probe for, so that nothing which qemu would
// open as a container passes as raw.
func sniff(r io.ReaderAt, size int64) (string, error) {
	head := make([]byte, 1024)
	if err := readAt(r, head[:min(int64(len(head)), size)], 0); err != nil {
		return "", err
	}
	text := string(head)
	for _, m := range []struct{ magic, name string }{
		{"QFI\xfb", Qcow2}, {"KDMV", "vmdk"}, {"COWD", "vmdk"}, {"# Disk DescriptorFile", "vmdk"}, {"vhdxfile", "vhdx"},
		{"conectix", "vpc"}, {"QED\x00", "qed"}, {"WithoutFreeSpace", "parallels"}, {"WithouFreSpacExt", "parallels"},
		{"LUKS\xba\xbe", "luks"}, {"OOOM", "cow"}, {"MSWIM\x00\x00\x00", "wim"},
	} {
		if strings.HasPrefix(text, m.magic) {
			return m.name, nil
		}
	}
	if text[0x40:0x44] == "\x7f\x10\xda\xbe" {
		return "vdi", nil
	}
	return Raw, nil
}

// readAt fills b from off; an early end of the file is a truncated image.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Invalid, CodeTruncated, "The image ends at byte %d, inside what it promises.", off+int64(n))
	}
	return errs.Wrap(err, errs.Internal, CodeRead, "The image cannot be read at byte %d.", off)
}
