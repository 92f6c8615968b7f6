// Package output makes the further artifacts of a finished disk: other disk formats by qemu-img, a docker archive, and
// a read-only system tree. The disk is only read, and nobody trusts it: its root file system is mounted read-only, nosuid, nodev and
// noexec in a mount namespace that ends with the process.
package output

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors of outputs. They never change.
const (
	CodeFormat  = "kiln.output.format"  // no format that can be made
	CodeConvert = "kiln.output.convert" // a tool failed
	CodeTree    = "kiln.output.tree"    // the disk's tree cannot be put into the format
	CodeHost    = "kiln.output.host"    // this host lacks something
)

// The formats of Make.
const (
	Raw    = "raw"
	Qcow2  = "qcow2"
	VMDK   = "vmdk"
	VHD    = "vhd"
	Docker = "docker"
	System = "system"
)

// Limits bound what a tree may hold. Zero means the default.
type Limits struct {
	Files int // default 2,000,000
	Depth int // of folders; default 200
}

func (l Limits) orDefault() Limits {
	if l.Files <= 0 {
		l.Files = 2_000_000
	}
	if l.Depth <= 0 {
		l.Depth = 200
	}
	return l
}

// Maker implements build.Outputs. It is safe for several artifacts at the same time.
type Maker struct {
	Limits Limits
}

var _ build.Outputs = Maker{}

// Make implements build.Outputs; of r it takes the family and the description, and r may be nil. Making a docker archive or a system needs root. The same disk gives the same bytes, but for vmdk and
// vhd, into which qemu-img writes numbers of its own. A failure or a cancel leaves nothing in dir.
func (m Maker) Make(ctx context.Context, from build.Artifact, format, dir string, r *recipe.Recipe, log io.Writer) (out build.Artifact, err error) {
	if log == nil {
		log = io.Discard
	}
	if r == nil {
		r = &recipe.Recipe{Name: "image"}
	}
	header, err := disk.CheckFile(disk.Image{Path: from.Path, Format: from.Format}, disk.Limits{})
	if err != nil {
		return out, err
	}
	write, known := map[string]func(context.Context, *job) error{
		Raw: plain, Qcow2: plain, VMDK: convert, VHD: convert, Docker: dockerArchive, System: systemTree,
	}[format]
	if !known {
		return out, errs.New(errs.Invalid, CodeFormat, "%q is no output; use docker, system, raw, qcow2, vmdk or vhd.", format).At(errs.Where{File: r.Path, Field: "output.also"})
	}
	work, err := disk.NewWork(dir)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	j := &job{
		from: disk.Image{Path: from.Path, Format: from.Format}, size: header.VirtualSize, format: format, work: work.Path,
		to: filepath.Join(dir, "artifact."+format), recipe: r, log: log, limits: m.Limits.orDefault(),
	}
	if err := write(ctx, j); err != nil {
		return out, disk.OrFull(dir, err)
	}
	out = build.Artifact{Format: format, Path: j.to}
	if format != Docker && format != System {
		out.VirtualSize = header.VirtualSize
	}
	return out, nil
}

// job is one artifact on its way.
type job struct {
	from   disk.Image
	size   int64 // of the virtual disk
	format string
	work   string // folder that is gone afterwards
	to     string
	recipe *recipe.Recipe
	log    io.Writer
	limits Limits
}

// family names the artifact for people.
func (j *job) family() string {
	if j.recipe.Family != "" {
		return string(j.recipe.Family)
	}
	return j.recipe.Name
}
