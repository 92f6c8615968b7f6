package catalog

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// FactsVersion is that of the facts which Kiln reads now. Raise it when the reader finds more or reads more kinds of
// disks: images that an older one read are then read again, in the pace of the sweep.
const FactsVersion = 1

// ImageOf is what Kiln keeps of an image that Glance tells of, before its disk was read.
func ImageOf(g GlanceImage, now time.Time) Image {
	i := Image{ID: g.ID, State: Waiting, Size: g.Size, CreatedAt: g.CreatedAt.UTC(), UpdatedAt: now.UTC()}
	if g.HashAlgo != "" && g.HashValue != "" {
		i.Digest = g.HashAlgo + ":" + g.HashValue
	}
	i.take(g)
	return i
}

func (i *Image) take(g GlanceImage) {
	i.ProjectID, i.Name, i.Status, i.Visibility, i.Tags = g.Owner, g.Name, g.Status, g.Visibility, slices.Sorted(slices.Values(g.Tags))
}

// InStep gives the image as Glance tells it, and whether that is a change: name, owner, visibility, tags, status. One
// that was thought gone is back, to be read again. What reading its disk found stays.
func (i Image) InStep(g GlanceImage, now time.Time) (Image, bool) {
	was := i
	i.take(g)
	if i.State == Gone {
		i.State, i.Reason = Waiting, ""
	}
	changed := was.ProjectID != i.ProjectID || was.Name != i.Name || was.Status != i.Status || was.Visibility != i.Visibility ||
		!slices.Equal(was.Tags, i.Tags) || was.State != i.State
	if changed {
		i.UpdatedAt = now.UTC()
	}
	return i, changed
}

const otherBytes = "other bytes"

// Due tells why the disk of an image has to be read: it was never read, its bytes are others than those that were
// read, or the reader is better by now. "" where it has not.
func (i Image) Due(g GlanceImage) string {
	switch {
	case g.Status != statusActive:
		return ""
	case i.State == Waiting:
		return "never read"
	case g.HashValue != "" && i.Digest != "" && i.Digest != g.HashAlgo+":"+g.HashValue:
		return otherBytes
	case i.FactsVersion < FactsVersion:
		return "older facts"
	}
	return ""
}

// InspectJob is the id of the job that reads an image's disk after the job before, "" for the first. The same bytes, read
// by the same reader, give the same job, so whoever asks a second time starts nothing.
func InspectJob(imageID, why, before string) string {
	text := "inspect " + imageID + " facts " + strconv.Itoa(FactsVersion) + " after " + before
	if why == otherBytes {
		text += " other bytes"
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(text)).String()
}

// Selection is which images of the cloud are read. One that any part names is.
type Selection struct {
	All        bool
	Visibility []string // public, community, shared, private
	Owners     []string // project ids
	SharedWith []string // project ids: images of visibility shared that have one of them as a member
	Tags       []string
}

// Takes reports whether the image is read. members is asked where only that can tell.
func (s Selection) Takes(g GlanceImage, members func() ([]string, error)) (bool, error) {
	if s.All || slices.Contains(s.Visibility, g.Visibility) || slices.Contains(s.Owners, g.Owner) ||
		slices.ContainsFunc(g.Tags, func(t string) bool { return slices.Contains(s.Tags, t) }) {
		return true, nil
	}
	if len(s.SharedWith) == 0 || g.Visibility != "shared" {
		return false, nil
	}
	all, err := members()
	return slices.ContainsFunc(all, func(p string) bool { return slices.Contains(s.SharedWith, p) }), err
}

// Reading is how the disk of an image is read.
type Reading struct {
	Format  string // as which its bytes are read: qcow2, raw; "" where they have to be converted
	Convert string // the format that they are converted from, in qemu's words
	Refused string // why there is nothing to read
}

// ReadingOf tells how an image is read, by the formats that Glance knows
// (https://docs.openstack.org/glance/zed/user/formats.html).
func ReadingOf(g GlanceImage) Reading {
	switch g.ContainerFormat {
	case "", "bare", "ami":
	case "docker":
		return Reading{Refused: "it is a container image, not a disk"}
	case "aki", "ari":
		return Reading{Refused: "it is a kernel or an initrd, not a disk"}
	default:
		return Reading{Refused: "its container format is " + g.ContainerFormat + ": the disk is inside an archive, which Kiln does not open"}
	}
	switch g.DiskFormat {
	case "qcow2", "raw":
		return Reading{Format: g.DiskFormat}
	case "ami": // the bytes of a file system without a partition table
		return Reading{Format: "raw"}
	case "vmdk", "vdi", "vhdx":
		return Reading{Convert: g.DiskFormat}
	case "vhd":
		return Reading{Convert: "vpc"}
	case "iso":
		return Reading{Refused: "it is an installation medium (iso), not the disk of a system"}
	case "aki", "ari":
		return Reading{Refused: "it is a kernel or an initrd, not a disk"}
	}
	return Reading{Refused: "Kiln does not read the disk format " + cmp.Or(g.DiskFormat, "(none)")}
}
