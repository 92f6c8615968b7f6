package daemon

import (
	"slices"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/packer"
	"github.com/kiln-cloud/kiln/pkg/build/pen"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/log"
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
	labels := p.labels([]string{"native"})()
	if !job.Fits([]string{"gpu", "builder=native", "disk_gib>=0"}, labels) || job.Fits([]string{"builder=packer"}, labels) {
		t.Errorf("%v", labels)
	}
}
