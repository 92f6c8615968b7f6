package worker

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// boot starts the image where nobody sees it and runs the recipe's tests.
func (h *buildHandler) boot(ctx context.Context, r *job.Run, b build.Build, in *inputs, g catalog.GlanceImage, pub *publication) error {
	if h.Booter == nil {
		if len(in.recipe.Tests) > 0 {
			r.Warnf("the recipe's %d tests are not run: test boots are off on this worker", len(in.recipe.Tests))
		}
		return nil
	}
	tests, err := testboot.Tests(in.recipe, in.checkout.Files)
	if err != nil {
		return err
	}
	return h.publisher.boot(ctx, r, build.BootTest{Key: b.ID, Firmware: in.recipe.Disk.Firmware, Tests: tests}, g, pub)
}

// boot starts an uploaded image where nobody sees it and keeps how that went. The caller gives the key, the firmware and
// the tests.
func (p *publisher) boot(ctx context.Context, r *job.Run, t build.BootTest, g catalog.GlanceImage, pub *publication) error {
	r.Progress("test boot", 0, 0, "steps")
	t.Disk = build.Artifact{Format: pub.format, Path: pub.path, VirtualSize: pub.facts.VirtualSize}
	t.ImageID, t.Facts, t.Log = g.ID, pub.facts, r
	t.Progress = func(text string, done, total int64) { r.Progress(text, done, total, "steps") }
	report, err := p.Booter.Boot(ctx, t)
	if err != nil {
		return err
	}
	pub.boot = &report
	r.Logf("booted in %.0f s (%s)", report.Seconds, report.Method)
	for _, t := range report.Tests {
		r.Logf("test %s passed in %.1f s", t.Name, t.Seconds)
	}
	return nil
}

// makeArtifacts makes and uploads the further forms of a disk.
func (p *publisher) makeArtifacts(ctx context.Context, r *job.Run, formats []string, rec *recipe.Recipe, g catalog.GlanceImage, pub *publication, dir string) error {
	if len(formats) == 0 {
		return nil
	}
	if p.Outputs == nil {
		return errs.New(errs.Unavailable, "kiln.build.outputs", "worker %s makes no further artifacts", p.Name)
	}
	there, err := p.leftoverArtifacts(ctx, g.ID)
	if err != nil {
		return err
	}
	for _, format := range formats {
		image, ok := there[format]
		if !ok {
			if image, err = p.artifact(ctx, r, format, rec, g, pub, dir); err != nil {
				return err
			}
		}
		a := catalog.Artifact{Format: format, ImageID: image.ID, Size: image.Size}
		if image.HashValue != "" {
			a.Digest = image.HashAlgo + ":" + image.HashValue
		}
		pub.artifacts = append(pub.artifacts, a)
		r.Logf("artifact %s is image %s", format, image.ID)
	}
	return nil
}

func (p *publisher) artifact(ctx context.Context, r *job.Run, format string, rec *recipe.Recipe, g catalog.GlanceImage, pub *publication, dir string) (catalog.GlanceImage, error) {
	r.Progress("artifact "+format, 0, 0, "steps")
	dir = filepath.Join(dir, "artifact-"+format)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return catalog.GlanceImage{}, disk.NoSpace(err, "the worker's disk")
	}
	finished := build.Artifact{Format: pub.format, Path: pub.path, VirtualSize: pub.facts.VirtualSize}
	made, err := p.Outputs.Make(ctx, finished, format, dir, rec, r)
	if err != nil {
		return catalog.GlanceImage{}, disk.NoSpace(err, "the worker's disk")
	}
	image, err := p.uploadArtifact(ctx, r, g, made, *pub)
	if err == nil {
		err = os.RemoveAll(dir) // several artifacts need not fit beside each other
	}
	return image, err
}

// glanceFormats are the disk and container formats that Glance calls an artifact by.
func glanceFormats(format string) (diskFormat, container string) {
	switch format {
	case "docker":
		return "raw", "docker"
	case "system":
		return "raw", "bare"
	}
	return strings.ToLower(format), "bare"
}
