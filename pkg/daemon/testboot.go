package daemon

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// booter is what [build] test_boot names; nil for none. auto without the programs is none, with a warning.
func (p *Parts) booter() (build.Booter, error) {
	c := p.Config.Build
	limits := testboot.Timeouts{Boot: c.BootTimeout}
	switch c.TestBoot {
	case "off":
		return nil, nil
	case "nova":
		b, err := cloud.New(cloud.Config{
			Nova: p.Nova, Images: p.Glance, Projects: p.Keystone, Project: c.Quarantine, Flavor: c.QuarFlavor, Network: c.QuarNetwork,
			Zone: c.QuarZone, Timeouts: limits, Log: p.Log,
		})
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	b, err := testboot.New(testboot.Config{
		Dir: p.Config.Worker.WorkDir, Accelerator: c.Accelerator, MemoryMiB: c.BootMemory, CPUs: c.BootCPUs, Timeouts: limits, Log: p.Log,
	})
	if errs.Is(err, errs.NotFound) && c.TestBoot != "qemu" {
		p.Log.WithError(err).Warning("images are published without a test boot: install qemu-system-x86 and genisoimage, or set [build] test_boot")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// sweepTime bounds one look for servers that nobody waits for.
const sweepTime = 2 * time.Minute

// sweepQuarantine deletes the test servers that killed workers left and that nobody waits for any more. What fails is
// done by the next boot or the next start.
func (p *Parts) sweepQuarantine(ctx context.Context, b build.Booter) {
	q, ok := b.(*cloud.Booter)
	if !ok {
		return
	}
	ctx, stop := context.WithTimeout(ctx, sweepTime)
	defer stop()
	n, err := q.Sweep(ctx)
	if err != nil {
		p.Log.WithError(err).Warning("the quarantine project cannot be swept now")
		return
	}
	if n > 0 {
		p.Log.WithField("servers", n).Info("deleted test servers that a killed worker left")
	}
}
