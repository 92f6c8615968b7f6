package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/dib"
	"github.com/kiln-cloud/kiln/pkg/build/packer"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/store"
)

type named struct{ build.Builder }

func (named) Name() string { return "native" }

func TestBuildersAsConfigured(t *testing.T) {
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	open := func(names ...string) ([]string, error) {
		p := &Parts{Log: log.New(log.Config{Program: "test"}), Config: config.Config{Worker: config.Worker{Builders: names, CacheDir: t.TempDir()}}}
		bs, err := p.builders(named{}, deb.Mirrors{Main: "http://mirror.example.org/debian"}, proxy)
		var out []string
		for name, b := range bs {
			if b.Name() != name {
				t.Errorf("%s is called %s", b.Name(), name)
			}
			out = append(out, name)
		}
		slices.Sort(out)
		return out, err
	}
	if got, err := open(); err != nil || !slices.Equal(got, sorted(Available())) || !slices.Contains(got, "native") {
		t.Errorf("%v, %v", got, err)
	}
	if slices.Contains(Available(), dib.Name) {
		t.Error("recipes become root on the worker without the operator's word")
	}
	if got, err := open("native"); err != nil || !slices.Equal(got, []string{"native"}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := open("native", "mkosi"); errs.CodeOf(err) != "kiln.config.builder" {
		t.Errorf("%v", err)
	}
	if _, err := open("packer"); (err == nil) != (pen.Missing(packer.Tools) == "") {
		t.Errorf("packer: %v", err)
	}
}

func sorted(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return out
}

func TestLabels(t *testing.T) {
	for label, good := range map[string]bool{"gpu": true, "zone=b": true, "": false, "a b": false, "arch=amd64": false, "disk_gib=9": false, "builder": false, "n>=3": false} {
		if err := checkLabels([]string{label}); (err == nil) != good {
			t.Errorf("%q: %v", label, err)
		}
	}
	p := &Parts{Config: config.Config{Worker: config.Worker{WorkDir: t.TempDir(), Labels: []string{"gpu"}}}}
	labels := p.labels([]string{"native"}, p.ownLabels(nil))()
	if !job.Fits([]string{"gpu", "builder=native", "disk_gib>=0"}, labels) || job.Fits([]string{"builder=packer"}, labels) {
		t.Errorf("%v", labels)
	}
}

// A worker is in the register as soon as it runs, with its labels, and those nobody heard of for long are gone.
func TestWorkerRegistersItself(t *testing.T) {
	db, err := store.Open(t.Context(), store.Config{Driver: store.SQLite, DSN: filepath.Join(t.TempDir(), "kiln.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * build.WorkerForget)
	if err := db.PutWorker(t.Context(), build.Worker{Name: "long-gone", Builders: []string{}, Labels: []string{}, StartedAt: long, SeenAt: long}); err != nil {
		t.Fatal(err)
	}
	p := &Parts{DB: db, Log: log.New(log.Config{Program: "test"}), Config: config.Config{
		Default: config.Default{Host: "w1"}, Worker: config.Worker{WorkDir: t.TempDir(), Labels: []string{"gpu"}, Parallel: 3}}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.register(ctx, []string{"native", "packer"}, p.ownLabels(nil)) }()
	var ws []build.Worker
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && (len(ws) != 1 || ws[0].Name != "w1"); time.Sleep(20 * time.Millisecond) {
		if ws, err = db.ListWorkers(t.Context(), listing.All()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(ws) != 1 || !ws[0].Up(time.Now()) || ws[0].Parallel != 3 || ws[0].FreeDisk == 0 || !job.Fits([]string{"gpu", "builder=packer"}, ws[0].Labels) {
		t.Errorf("%+v", ws)
	}
}
