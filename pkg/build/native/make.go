package native

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// making is one build.
type making struct {
	builder *Builder
	req     build.Request
	recipe  recipe.Recipe
	in      input
	proxy   *mirror.View // the builder's, with this build's own counters
	repo    *repository  // nil where no packages are taken
	work    string
	log     io.Writer
	session *disk.Session
	root    *disk.Mount  // nil where the disk is not mounted
	state   *layer.State // of the disk, as layers have it
	note    note
	stages  []stage
	steps   []build.Step
}

// note is what a layer keeps beside its disk.
type note struct {
	Root  rootPlace `json:"root"`
	Parts []place   `json:"parts"` // beside the root; none of a disk that was adopted
	Size  int64     `json:"size"`  // of the disk, bytes
}

// Build makes the image. It needs root. req.Recipe must be resolved.
func (b *Builder) Build(ctx context.Context, req build.Request) (res build.Result, err error) {
	req = pinned(req)
	work, err := disk.NewWork(req.WorkDir)
	if err != nil {
		return res, err
	}
	m := &making{builder: b, req: req, recipe: withDefaults(req.Recipe), in: inputOf(req), proxy: b.cfg.Proxy.View(), work: work.Path, log: req.Log}
	if m.log == nil {
		m.log = io.Discard
	}
	err = m.run(ctx)
	if closeErr := m.close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = m.step(ctx, "convert", m.convert)
	}
	m.state.Release()
	if closeErr := work.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeCancelled, "The build was stopped.")
		}
		return build.Result{}, err
	}
	b.sweep()
	return build.Result{Path: req.Output, Format: m.recipe.Output.Format, VirtualSize: m.note.Size, Steps: m.steps,
		Downloaded: m.proxy.Stats().BytesUpstream, Materials: m.materials()}, nil
}

// sweep keeps layers and lists in their bounds. That it fails does not concern the build that ended.
func (b *Builder) sweep() {
	swept, err := b.layers.Sweep()
	if err == nil {
		err = b.SweepLists()
	}
	if err != nil {
		b.cfg.Log.WithError(err).Warn("old layers cannot be removed")
	}
	if swept.Layers > 0 {
		b.cfg.Log.Infof("%d layers with %d MiB were removed", swept.Layers, swept.Bytes>>20)
	}
}

func (m *making) close() error {
	if m.session == nil {
		return nil
	}
	return m.session.Close()
}

func (m *making) run(ctx context.Context) (err error) {
	if m.repo, err = m.builder.packages(ctx, m.req, m.proxy); err != nil {
		return err
	}
	if m.stages, err = m.builder.stages(m.req, m.repo); err != nil {
		return err
	}
	if m.session, err = disk.OpenSession(ctx, m.work); err != nil {
		return err
	}
	done, err := m.resume(ctx)
	if err != nil {
		return err
	}
	for i := done; i < len(m.stages); i++ {
		if err := m.stage(ctx, m.stages[i]); err != nil {
			return err
		}
	}
	if !m.req.Epoch.IsZero() && m.req.Base == nil {
		return m.step(ctx, "assemble", m.assemble)
	}
	return nil
}

// resume takes the newest layer that is there, and says how many stages it saves.
func (m *making) resume(ctx context.Context) (int, error) {
	for i := len(m.stages) - 1; i >= 0 && !m.req.Fresh; i-- {
		if !m.builder.layers.Has(m.stages[i].key) {
			continue
		}
		start := time.Now()
		err := m.take(ctx, m.stages[i])
		if errs.Is(err, errs.NotFound) {
			continue // it went away, or is damaged: the one below may do
		}
		if err != nil {
			return 0, err
		}
		for k, s := range m.stages[:i+1] {
			seconds := 0.0
			if k == i {
				seconds = time.Since(start).Seconds()
			}
			m.reused(s, seconds)
		}
		return i + 1, nil
	}
	return 0, nil
}

// reused tells of a stage whose result was there.
func (m *making) reused(s stage, seconds float64) {
	if m.req.Progress != nil {
		m.req.Progress(s.name, int64(len(m.steps)), int64(len(m.stages)+1), "steps")
	}
	m.logf("== %s: as in an earlier build %s\n", s.name, strings.Join(s.packages, " "))
	m.steps = append(m.steps, build.Step{Name: s.name, Seconds: seconds, Cached: true})
}

// take makes the disk what a layer says it is.
func (m *making) take(ctx context.Context, s stage) error {
	if err := os.Remove(m.rawPath()); err != nil && !os.IsNotExist(err) {
		return errs.Wrap(err, errs.Internal, CodeHost, "The disk file cannot be replaced.")
	}
	state, err := m.builder.layers.Get(ctx, s.key, m.rawPath())
	if err != nil {
		return disk.OrFull(m.work, err)
	}
	m.state.Release()
	m.state = state
	if err := json.Unmarshal(state.Note, &m.note); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The layer's note cannot be read.")
	}
	return nil
}

// stage runs one stage and keeps its result, or takes the result of another build that was at it meanwhile.
func (m *making) stage(ctx context.Context, s stage) error {
	release, err := m.builder.layers.Claim(ctx, s.key)
	if err != nil {
		return err
	}
	defer release()
	if !m.req.Fresh && m.builder.layers.Has(s.key) {
		start := time.Now()
		if err := m.take(ctx, s); !errs.Is(err, errs.NotFound) {
			m.reused(s, time.Since(start).Seconds())
			return err
		}
	}
	return m.step(ctx, s.name, func(ctx context.Context) error {
		if !s.first {
			if err := m.mount(ctx, working); err != nil {
				return err
			}
		}
		if err := s.do(m, ctx); err != nil {
			return err
		}
		if err := m.unmount(ctx); err != nil {
			return err
		}
		return m.keep(ctx, s)
	})
}

// keep makes a layer of the disk. A cache that cannot be written does not stop the build.
func (m *making) keep(ctx context.Context, s stage) error {
	m.note.Size = int64(m.recipe.Disk.Size)
	if info, err := os.Stat(m.rawPath()); err == nil {
		m.note.Size = info.Size()
	}
	state, err := m.builder.layers.Put(ctx, s.key, m.state, m.rawPath(), m.note)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.builder.cfg.Log.WithError(err).Warnf("the result of the step %q is not kept", s.name)
		m.logf("the result of this step is not kept: %v\n", err)
		state = layer.Detached()
	}
	if state != m.state {
		m.state.Release()
	}
	m.state = state
	return nil
}

// step runs one step, times it and tells the caller about it.
func (m *making) step(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.req.Progress != nil {
		m.req.Progress(name, int64(len(m.steps)), int64(len(m.stages)+1), "steps")
	}
	m.logf("== %s\n", name)
	start := time.Now()
	err := do(ctx)
	m.steps = append(m.steps, build.Step{Name: name, Seconds: time.Since(start).Seconds()})
	return m.explain(name, err)
}

// explain finds faults that the user can put right behind any step's error.
func (m *making) explain(name string, err error) error {
	if err == nil {
		return nil
	}
	err = disk.OrFull(m.work, err)
	for _, text := range []string{"No space left on device", "You don't have enough free space"} {
		if strings.Contains(err.Error(), text) && errs.CodeOf(err) != disk.CodeFull {
			return errs.Wrap(err, errs.Invalid, CodeDiskSize, "The disk of %s is too small for what the step %q puts on it; raise disk.size.", m.recipe.Disk.Size, name).
				At(errs.Where{File: m.recipe.Path, Field: "disk.size"})
		}
	}
	return err
}

// materials are what went in beside the repository's files.
func (m *making) materials() []build.Material {
	var out []build.Material
	if b := m.req.Base; b != nil {
		out = append(out, build.Material{URI: "kiln:" + string(b.Family) + "/" + b.Version, Digest: b.Digest})
	}
	switch {
	case m.repo == nil:
	case m.repo.materials != nil:
		out = append(out, m.repo.materials...)
	default:
		out = append(out, build.Material{URI: m.repo.uri, Digest: m.repo.state})
	}
	return out
}

func (m *making) rawPath() string { return filepath.Join(m.work, "disk.raw") }
