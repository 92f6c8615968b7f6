package output

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// layerName is the one layer's place in the archive.
const layerName = "layer.tar"

const tarBlock = 512

// dockerArchive writes what `docker save` writes and `docker load`, Zun and podman read
// (https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md, "Combined Image JSON + Filesystem Changeset Format"). The layer is written
// once, straight into the archive: its header comes when its size is known.
func dockerArchive(ctx context.Context, j *job) error {
	tmp := filepath.Join(j.work, "archive.tar")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The archive cannot be made.")
	}
	defer f.Close() //nolint:errcheck // publish syncs by name, and writing reported what matters
	err = j.withTree(ctx, func(_ *disk.Session, _, host string) error {
		return j.archive(ctx, f, host)
	})
	if err != nil {
		return err
	}
	return j.publish(tmp)
}

func (j *job) archive(ctx context.Context, f *os.File, root string) error {
	out := bufio.NewWriterSize(f, 1<<20)
	if _, err := out.Write(make([]byte, tarBlock)); err != nil {
		return hostError(err)
	}
	digest := sha256.New()
	count := &counter{w: io.MultiWriter(out, digest)}
	l, err := writeLayer(ctx, count, root, j.limits, 2*j.size)
	if err != nil {
		return err
	}
	diffID := hex.EncodeToString(digest.Sum(nil))
	if _, err := out.Write(make([]byte, (tarBlock-count.n%tarBlock)%tarBlock)); err != nil {
		return hostError(err)
	}
	config, err := json.Marshal(j.config(l, diffID, architecture(root)))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	id := hex.EncodeToString(sum[:])
	// Zun starts what the tag names, on hosts that may hold several versions: so it names this one alone.
	tag := fmt.Sprintf("kiln/%s:%s", j.family(), id[:12])
	manifest, err := json.Marshal([]map[string]any{{"Config": id + ".json", "RepoTags": []string{tag}, "Layers": []string{layerName}}})
	if err != nil {
		return err
	}
	rest := tar.NewWriter(out)
	for _, m := range []struct {
		name string
		data []byte
	}{{id + ".json", config}, {"manifest.json", manifest}} {
		if err := rest.WriteHeader(memberHeader(m.name, int64(len(m.data)))); err != nil {
			return hostError(err)
		}
		if _, err := rest.Write(m.data); err != nil {
			return hostError(err)
		}
	}
	if err := rest.Close(); err != nil {
		return hostError(err)
	}
	if err := out.Flush(); err != nil {
		return hostError(err)
	}
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(memberHeader(layerName, count.n)); err != nil {
		return hostError(err)
	}
	if header.Len() != tarBlock {
		return errs.New(errs.Internal, CodeHost, "The layer's header has %d bytes.", header.Len())
	}
	if _, err := f.WriteAt(header.Bytes(), 0); err != nil {
		return hostError(err)
	}
	fmt.Fprintf(j.log, "docker archive: %s, %d files, %d bytes, %d device nodes and sockets left out\n", tag, l.files, count.n, l.left) //nolint:errcheck // a log
	return nil
}

// memberHeader has one form for any size: GNU's, which counts beyond 8 GiB in place.
func memberHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
}

func hostError(err error) error {
	return errs.Wrap(err, errs.Internal, CodeHost, "The archive cannot be written.")
}

// config is the image's (https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md). Created is the time of the youngest file, so
// that the same disk gives the same image.
func (j *job) config(l *layer, diffID, arch string) map[string]any {
	created := l.newest.Format(time.RFC3339)
	labels := map[string]string{
		"org.opencontainers.image.title": j.family(), "org.opencontainers.image.created": created, "org.opencontainers.image.vendor": "Kiln",
	}
	if j.recipe.Description != "" {
		labels["org.opencontainers.image.description"] = j.recipe.Description
	}
	return map[string]any{
		"architecture": arch, "os": "linux", "created": created,
		"config": map[string]any{
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "Cmd": []string{"/bin/bash"}, "Labels": labels,
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}},
		"history": []map[string]any{{"created": created, "created_by": "kiln: recipe " + j.recipe.Name}},
	}
}

// architecture reads it off the tree's own programs.
func architecture(root string) string {
	tree, err := os.OpenRoot(root)
	if err != nil {
		return runtime.GOARCH
	}
	defer tree.Close() //nolint:errcheck // only read
	for _, name := range []string{"usr/bin/dpkg", "usr/bin/bash", "bin/bash", "bin/busybox"} {
		f, err := tree.Open(name)
		if err != nil {
			continue
		}
		program, err := elf.NewFile(f)
		f.Close() //nolint:errcheck // only read
		if err != nil {
			continue
		}
		switch program.Machine {
		case elf.EM_X86_64:
			return "amd64"
		case elf.EM_AARCH64:
			return "arm64"
		}
	}
	return runtime.GOARCH
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
