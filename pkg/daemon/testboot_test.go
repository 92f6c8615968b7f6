package daemon

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

func TestWhereImagesAreBooted(t *testing.T) {
	parts := func(b config.Build) *Parts {
		p := &Parts{Log: log.Discard()}
		p.Config.Build, p.Config.Worker.WorkDir = b, t.TempDir()
		return p
	}
	if b, err := parts(config.Build{TestBoot: "off"}).booter(); b != nil || err != nil {
		t.Errorf("off: %v, %v", b, err)
	}
	b, err := parts(config.Build{TestBoot: "nova", Quarantine: "q", QuarFlavor: "f"}).booter()
	if _, ok := b.(*cloud.Booter); !ok || err != nil {
		t.Errorf("nova: %T, %v", b, err)
	}
	if b, err := parts(config.Build{TestBoot: "nova"}).booter(); b != nil || !errs.Is(err, errs.Invalid) {
		t.Errorf("nova without a project: %T, %v", b, err)
	}
	// Quarantine boots are where test boots are.
	if g, err := parts(config.Build{TestBoot: "off"}).guests(); g != nil || err != nil {
		t.Errorf("guests, off: %v, %v", g, err)
	}
	g, err := parts(config.Build{TestBoot: "nova", Quarantine: "q", QuarFlavor: "f"}).guests()
	if _, ok := g.(*cloud.Booter); !ok || err != nil {
		t.Errorf("guests, nova: %T, %v", g, err)
	}
	if g, err := parts(config.Build{TestBoot: "nova"}).guests(); g != nil || !errs.Is(err, errs.Invalid) {
		t.Errorf("guests, nova without a project: %T, %v", g, err)
	}
	t.Setenv("PATH", t.TempDir())
	if g, err := parts(config.Build{TestBoot: "auto"}).guests(); g != nil || err != nil {
		t.Errorf("guests, auto without QEMU: %T, %v", g, err)
	}
	if b, err := parts(config.Build{TestBoot: "auto"}).booter(); b != nil || err != nil {
		t.Errorf("auto without QEMU: %T, %v", b, err)
	}
	if b, err := parts(config.Build{TestBoot: "qemu"}).booter(); b != nil || !errs.Is(err, errs.NotFound) || errs.CodeOf(err) != testboot.CodeHost {
		t.Errorf("qemu without QEMU: %T, %v", b, err)
	}
}
