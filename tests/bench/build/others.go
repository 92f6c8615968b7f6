package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/dib"
	"github.com/kiln-cloud/kiln/pkg/build/packer"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
)

func (b *bench) dibCache() string { return filepath.Join(b.dir, "dib") }

func (b *bench) dib(ctx context.Context, recipeText, file string) (outcome, error) {
	m, p, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	if err := os.MkdirAll(b.dibCache(), 0o755); err != nil {
		return outcome{}, err
	}
	builder, err := dib.New(dib.Config{Mirrors: m, Proxy: p, CacheDir: b.dibCache()})
	if err != nil {
		return outcome{}, err
	}
	out, _, err := b.image(ctx, builder, recipeText, file, nil)
	out.Kept = b.dibCache()
	return out, err
}

// dibStock takes the kernel that the tool's own debian-minimal always takes.
func dibStock(ctx context.Context, b *bench) (outcome, error) {
	if err := os.RemoveAll(b.dibCache()); err != nil {
		return outcome{}, err
	}
	return b.dib(ctx, text("bench", packages, "")+"kernel: {package: linux-image-amd64}\n", "dib-stock.qcow2")
}

func dibCold(ctx context.Context, b *bench) (outcome, error) {
	if err := os.RemoveAll(b.dibCache()); err != nil {
		return outcome{}, err
	}
	return b.dib(ctx, text("bench", packages, ""), "dib.qcow2")
}

func dibAdd(ctx context.Context, b *bench) (outcome, error) {
	return b.dib(ctx, text("bench", packages, added), "dib-added.qcow2")
}

// packer boots an image and installs packages in it.
func (b *bench) packer(ctx context.Context, base, recipeText, file string) (outcome, error) {
	m, p, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	builder, err := packer.New(packer.Config{Mirrors: m, Proxy: p})
	if err != nil {
		return outcome{}, err
	}
	path := filepath.Join(b.dir, base)
	facts, err := factsOf(ctx, path)
	if err != nil {
		return outcome{}, err
	}
	recipeText = strings.Replace(recipeText, "from: {release: "+release+"}", "from: {family: base}", 1)
	out, _, err := b.image(ctx, builder, recipeText, file,
		&build.Base{Path: path, Format: disk.Qcow2, Digest: "sha256:" + base, Family: "base", Version: "1", Facts: facts})
	return out, err
}

func factsOf(ctx context.Context, path string) (*catalog.Facts, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect.Read(ctx, f, st.Size(), disk.Qcow2)
}

func packerCold(ctx context.Context, b *bench) (outcome, error) {
	return b.packer(ctx, "base.qcow2", text("bench", packages, ""), "packer.qcow2")
}

// packerAdd stands on what packerCold made, as its users would do it: packer itself keeps nothing of its steps.
func packerAdd(ctx context.Context, b *bench) (outcome, error) {
	return b.packer(ctx, "packer.qcow2", text("bench", []string{added}, ""), "packer-added.qcow2")
}

// mkosiScript makes a disk with mkosi's own means. Its boot loader is systemd-boot, which needs the kernel's vfat;
// without it the disk has no boot loader. The cache of an unchanged build is its incremental mode.
const mkosiScript = `mkdir -p "$1/cache" "$1/packages"
cd "$1"
mkosi --force --incremental --cache "$1/packages" --distribution debian --release ` + release + ` --mirror "$3" --format gpt_ext4 --root-size 3G \
	--bootable no --nspawn-keep-unit yes --package "$4" --output "$1/disk.raw" build
qemu-img convert -f raw -O qcow2 "$1/disk.raw" "$2"
`

func (b *bench) mkosi(ctx context.Context, file string, packages []string) (outcome, error) {
	work := filepath.Join(b.dir, "mkosi")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return outcome{}, err
	}
	m, p, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	out := filepath.Join(b.dir, file)
	_, err = debian.Shell(ctx, p, b.dir, mkosiScript, work, out, m.Main, strings.Join(slices.Concat(base, packages), ","))
	return outcome{Image: out, Kept: work}, err
}

func mkosiCold(ctx context.Context, b *bench) (outcome, error) {
	if err := os.RemoveAll(filepath.Join(b.dir, "mkosi")); err != nil {
		return outcome{}, err
	}
	return b.mkosi(ctx, "mkosi.qcow2", packages)
}

func mkosiAdd(ctx context.Context, b *bench) (outcome, error) {
	return b.mkosi(ctx, "mkosi-added.qcow2", append(slices.Clone(packages), added))
}
