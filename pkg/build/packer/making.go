package packer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/build/steps"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// making is one build.
type making struct {
	builder     *Builder
	req         build.Request
	recipe      recipe.Recipe
	work        string
	proxy       *mirror.View
	token       string // of the lines that tell of steps
	id          string // of the guest's instance
	key         string // line for authorized_keys
	materials   []build.Material
	set         *steps.Set
	phase       string // of the builder's own steps, the one that runs
	began       time.Time
	took        []build.Step
	done        int
	virtualSize int64
}

func (m *making) run(ctx context.Context) error {
	m.enter(stepPrepare)
	if err := m.prepare(ctx); err != nil {
		return err
	}
	m.enter(stepBoot)
	if err := m.boot(ctx); err != nil {
		return err
	}
	m.enter(stepConvert)
	if err := m.convert(ctx); err != nil {
		return err
	}
	m.leave()
	return nil
}

// enter ends the phase before and begins one.
func (m *making) enter(phase string) {
	m.leave()
	m.phase, m.began = phase, time.Now()
	m.tell(phase)
}

func (m *making) leave() {
	if m.phase != "" {
		m.took = append(m.took, build.Step{Name: m.phase, Seconds: time.Since(m.began).Seconds()})
	}
	m.phase = ""
}

// tell says that a step begins.
func (m *making) tell(name string) {
	if m.req.Progress != nil {
		m.req.Progress(name, int64(m.done), int64(2+len(m.recipe.Plan)+len(after(&m.recipe))), "steps")
	}
	m.done++
	if m.req.Log == nil {
		return
	}
	if _, err := fmt.Fprintf(m.req.Log, "== %s\n", name); err != nil {
		m.builder.cfg.Log.WithError(err).Warn("the build's log cannot be written")
	}
}

// prepare lays everything that packer reads.
func (m *making) prepare(ctx context.Context) error {
	variables, others, err := m.repositoryTemplate()
	if err != nil {
		return err
	}
	if _, m.materials, err = m.builder.inputs(ctx, m.req); err != nil {
		return err
	}
	if m.set, err = steps.Lay(m.at("steps"), m.token, &m.recipe, m.req.Files); err != nil {
		return err
	}
	if err := pack(m.at("steps"), m.at("steps.tar")); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The steps cannot be packed.")
	}
	if err := m.makeKey(ctx); err != nil {
		return err
	}
	if err := m.makeSeeds(ctx); err != nil {
		return err
	}
	return m.makeTemplate(variables, others)
}

// pack makes one file of the steps: a copy of each by itself would cost a round through SSH.
func pack(dir, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = w.AddFS(os.DirFS(dir))
	return errors.Join(err, w.Close(), f.Close())
}

// boot runs packer, from the guest's start to its power-off.
func (m *making) boot(ctx context.Context) error {
	watch := m.set.Watch()
	watch.Begun = func(_ int, s recipe.Step) {
		m.leave()
		m.tell(s.Name)
	}
	seen := 0
	limits := m.builder.cfg.Limits
	if limits.MemoryBytes == 0 {
		limits.MemoryBytes = int64(m.builder.cfg.MemoryMiB)<<20 + 3<<30 // QEMU, packer's five processes, and the page cache
	}
	spec := pen.Spec{
		Dir: m.work, Args: []string{"packer", "build", "-color=false", "-on-error=abort", "-var-file=" + pen.Work + "/variables.json", pen.Work + "/template.json"},
		Env:   []string{"PACKER_CACHE_DIR=" + pen.Work + "/cache", "CHECKPOINT_DISABLE=1", "PACKER_NO_COLOR=1"},
		Binds: []pen.Bind{{Source: m.req.Base.Path, Target: "base.img"}},
		Proxy: m.proxy, Log: m.req.Log, Limits: limits,
		Line: func(text string) {
			text = strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(text, "==>")), "qemu: ")
			watch.Line(text)
			m.took = append(m.took, watch.Took[seen:]...)
			seen = len(watch.Took)
			m.follow(text)
		},
	}
	if m.builder.accelerator() == KVM {
		spec.Nodes = []pen.Node{{Name: "kvm", Mode: unix.S_IFCHR, Dev: unix.Mkdev(10, 232)}}
	}
	return watch.Explain(pen.Run(ctx, spec))
}

// follow takes the marks between the recipe's steps and our own.
func (m *making) follow(text string) {
	phase, found := strings.CutPrefix(text, m.token+" phase ")
	if found && (phase == stepOthers || phase == stepClean) {
		m.enter(phase)
	}
}

// convert writes the guest's disk in the asked format, without what was deleted on it.
func (m *making) convert(ctx context.Context) error {
	made := disk.Image{Path: m.at("out/disk"), Format: disk.Qcow2}
	header, err := disk.CheckFile(made, disk.Limits{})
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeTool, "packer left no image.")
	}
	m.virtualSize = header.VirtualSize
	return disk.Convert(ctx, made, disk.Image{Path: m.req.Output, Format: m.recipe.Output.Format}, func(done, total int64) {
		if m.req.Progress != nil {
			m.req.Progress(stepConvert, done, total, "bytes")
		}
	})
}

func inPen(name string) string { return filepath.Join(pen.Work, name) }
