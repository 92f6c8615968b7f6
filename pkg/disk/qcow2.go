package disk

import (
	"encoding/binary"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Layout and bits of the qcow2 header, as qemu's docs/interop/qcow2.txt (8.2) defines them.
const (
	qcow2HeaderV2 = 72
	qcow2HeaderV3 = 104

	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
	featuresKnown      = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2

	extensionEnd       = 0x00000000
	extensionBacking   = 0xE2792ACA
	extensionDataFile  = 0x44415441
	extensionEncrypted = 0x0537be77
	extensionsMost     = 64 // header extensions that are read before the header counts as corrupt

	compressionZstd = 1

	l1BytesMost = 32 << 20 // qemu's QCOW_MAX_L1_SIZE
	refTabMost  = 8 << 20  // qemu's QCOW_MAX_REFTABLE_SIZE
)

type qcow2Header struct {
	version, backingLen, clusterBits, crypt, l1Size, refTabClusters, snapshots uint32
	backingOff, size, l1Off, refTabOff, snapshotsOff, incompatible             uint64
	refcountOrder, length                                                      uint32
	compression                                                                byte
}

func readQcow2(r io.ReaderAt, size int64) (qcow2Header, error) {
	raw := make([]byte, qcow2HeaderV3+8)
	if size < qcow2HeaderV2 {
		return qcow2Header{}, errs.New(errs.Invalid, CodeTruncated, "The qcow2 header is cut off after %d bytes.", size)
	}
	if err := readAt(r, raw[:min(int64(len(raw)), size)], 0); err != nil {
		return qcow2Header{}, err
	}
	be := binary.BigEndian
	h := qcow2Header{
		version: be.Uint32(raw[4:]), backingOff: be.Uint64(raw[8:]), backingLen: be.Uint32(raw[16:]),
		clusterBits: be.Uint32(raw[20:]), size: be.Uint64(raw[24:]), crypt: be.Uint32(raw[32:]),
		l1Size: be.Uint32(raw[36:]), l1Off: be.Uint64(raw[40:]), refTabOff: be.Uint64(raw[48:]),
		refTabClusters: be.Uint32(raw[56:]), snapshots: be.Uint32(raw[60:]), snapshotsOff: be.Uint64(raw[64:]),
		length: qcow2HeaderV2, refcountOrder: 4,
	}
	switch h.version {
	case 2:
	case 3:
		if size < qcow2HeaderV3 {
			return h, errs.New(errs.Invalid, CodeTruncated, "The qcow2 header is cut off after %d bytes.", size)
		}
		h.incompatible, h.refcountOrder, h.length = be.Uint64(raw[72:]), be.Uint32(raw[96:]), be.Uint32(raw[100:])
		if h.length > qcow2HeaderV3 {
			h.compression = raw[104]
		}
	default:
		return h, errs.New(errs.Invalid, CodeUnsupported, "qcow2 version %d is not supported.", h.version)
	}
	return h, nil
}

func checkQcow2(r io.ReaderAt, size int64, l Limits) (Header, error) {
	h, err := readQcow2(r, size)
	if err != nil {
		return Header{}, err
	}
	for _, check := range []func(qcow2Header) error{checkReach, checkFeatures} {
		if err := check(h); err != nil {
			return Header{}, err
		}
	}
	if err := checkSizes(h, size, l); err != nil {
		return Header{}, err
	}
	if err := checkExtensions(r, h, size); err != nil {
		return Header{}, err
	}
	return Header{
		Format: Qcow2, VirtualSize: int64(h.size), Version: int(h.version), ClusterSize: 1 << h.clusterBits,
		Snapshots: int(h.snapshots), Zstd: h.compression == compressionZstd,
		ExtendedL2: h.incompatible&featureExtendedL2 != 0, Dirty: h.incompatible&featureDirty != 0,
	}, nil
}

// checkReach refuses everything by which the image reaches another file or needs a key.
func checkReach(h qcow2Header) error {
	switch {
	case h.backingOff != 0 || h.backingLen != 0:
		return errs.New(errs.Invalid, CodeBackingFile, "The image names a backing file; flatten it first (qemu-img convert).")
	case h.incompatible&featureDataFile != 0:
		return errs.New(errs.Invalid, CodeDataFile, "The image keeps its data in another file; flatten it first (qemu-img convert).")
	case h.crypt != 0:
		return errs.New(errs.Invalid, CodeEncrypted, "The image is encrypted (method %d); Kiln has no key for it.", h.crypt)
	}
	return nil
}

func checkFeatures(h qcow2Header) error {
	switch unknown := h.incompatible &^ featuresKnown; {
	case unknown != 0:
		return errs.New(errs.Invalid, CodeUnknownFeature, "The image uses features that Kiln does not know (incompatible bits %#x).", unknown)
	case h.incompatible&featureCorrupt != 0:
		return errs.New(errs.Invalid, CodeCorrupt, "The image is marked corrupt; repair it first (qemu-img check -r all).")
	case h.compression > compressionZstd:
		return errs.New(errs.Invalid, CodeUnknownFeature, "The image uses compression type %d, which Kiln does not know.", h.compression)
	case (h.compression != 0) != (h.incompatible&featureCompression != 0):
		return errs.New(errs.Invalid, CodeCorrupt, "The header's compression type contradicts its feature bits.")
	case h.version == 3 && (h.length < qcow2HeaderV3 || h.length%8 != 0 || h.length > 1<<h.clusterBits):
		return errs.New(errs.Invalid, CodeCorrupt, "The header says that it is %d bytes long.", h.length)
	case h.refcountOrder > 6:
		return errs.New(errs.Invalid, CodeCorrupt, "The reference counts are 2^%d bits wide; at most 64 are allowed.", h.refcountOrder)
	}
	return nil
}

func checkSizes(h qcow2Header, size int64, l Limits) error {
	if h.clusterBits < 9 || h.clusterBits > 21 {
		return errs.New(errs.Invalid, CodeCorrupt, "The clusters are 2^%d bytes; 2^9 to 2^21 are allowed.", h.clusterBits)
	}
	if h.incompatible&featureExtendedL2 != 0 && h.clusterBits < 14 {
		return errs.New(errs.Invalid, CodeCorrupt, "Subclusters need clusters of at least 16 KiB.")
	}
	if h.size > uint64(l.VirtualBytes) {
		return errs.New(errs.TooLarge, CodeSize, "The disk would have %d bytes; the limit is %d.", h.size, l.VirtualBytes)
	}
	if uint64(h.snapshots) > uint64(l.Snapshots) {
		return errs.New(errs.TooLarge, CodeSize, "The image holds %d internal snapshots; the limit is %d.", h.snapshots, l.Snapshots)
	}
	cluster := uint64(1) << h.clusterBits
	entry := uint64(8)
	if h.incompatible&featureExtendedL2 != 0 {
		entry = 16
	}
	needed := (h.size + cluster*(cluster/entry) - 1) / (cluster * (cluster / entry))
	refTab := uint64(h.refTabClusters) * cluster
	switch {
	case uint64(h.l1Size)*8 > l1BytesMost:
		return errs.New(errs.TooLarge, CodeSize, "The first-level table has %d entries; qemu allows %d.", h.l1Size, l1BytesMost/8)
	case uint64(h.l1Size) < needed:
		return errs.New(errs.Invalid, CodeCorrupt, "The first-level table has %d entries; the disk needs %d.", h.l1Size, needed)
	case refTab > refTabMost:
		return errs.New(errs.TooLarge, CodeSize, "The reference count table has %d bytes; qemu allows %d.", refTab, refTabMost)
	case h.refTabClusters == 0:
		return errs.New(errs.Invalid, CodeCorrupt, "The image has no reference counts.")
	}
	for _, t := range []struct {
		name        string
		off, length uint64
	}{{"first-level table", h.l1Off, uint64(h.l1Size) * 8}, {"reference count table", h.refTabOff, refTab}, {"snapshot table", h.snapshotsOff, uint64(h.snapshots) * 40}} {
		if t.length == 0 {
			continue
		}
		if t.off == 0 || t.off%cluster != 0 {
			return errs.New(errs.Invalid, CodeCorrupt, "The %s begins at byte %d, which is not on a cluster.", t.name, t.off)
		}
		if t.off > uint64(size) || t.length > uint64(size)-t.off {
			return errs.New(errs.Invalid, CodeTruncated, "The file has %d bytes, but the %s ends at %d.", size, t.name, t.off+t.length)
		}
	}
	return nil
}

// checkExtensions looks for a backing format, a data file name or an encryption header that the flags do not own up to.
func checkExtensions(r io.ReaderAt, h qcow2Header, size int64) error {
	off, end := int64(h.length), min(int64(1)<<h.clusterBits, size)
	b := make([]byte, 8)
	for range extensionsMost {
		if off+8 > end {
			return nil // version 2 writers may leave no end mark
		}
		if err := readAt(r, b, off); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint32(b[4:]))
		switch kind {
		case extensionEnd:
			return nil
		case extensionBacking:
			return errs.New(errs.Invalid, CodeBackingFile, "The image names the format of a backing file; flatten it first (qemu-img convert).")
		case extensionDataFile:
			return errs.New(errs.Invalid, CodeDataFile, "The image names a data file; flatten it first (qemu-img convert).")
		case extensionEncrypted:
			return errs.New(errs.Invalid, CodeEncrypted, "The image has an encryption header; Kiln has no key for it.")
		}
		if length > end-off-8 {
			return errs.New(errs.Invalid, CodeCorrupt, "A header extension of %d bytes does not fit in the first cluster.", length)
		}
		off += 8 + (length+7)&^7
	}
	return errs.New(errs.Invalid, CodeCorrupt, "The header has more than %d extensions.", extensionsMost)
}
