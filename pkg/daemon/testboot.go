package daemon

import (
	"context"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// booter is what [build] test_boot names; nil for none. auto without the programs is none, with a warning.
func (p *Parts) booter() (build.Booter, error) {
	c := p.Config.Build
	switch c.TestBoot {
	case "off":
		return nil, nil
	case "nova":
		b, err := p.cloudBooter()
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	b, err := p.qemu()
	if errs.Is(err, errs.NotFound) && c.TestBoot != "qemu" {
		p.Log.WithError(err).Warning("images are published without a test boot: install qemu-system-x86 and genisoimage, or set [build] test_boot")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// qemu boots on this worker; errs.NotFound where its programs are not installed.
func (p *Parts) qemu() (*testboot.QEMU, error) {
	c := p.Config.Build
	return testboot.New(testboot.Config{
		Dir: p.Config.Worker.WorkDir, Accelerator: c.Accelerator, MemoryMiB: c.BootMemory, CPUs: c.BootCPUs, Timeouts: testboot.Timeouts{Boot: c.BootTimeout}, Log: p.Log,
	})
}

// cloudBooter boots in the quarantine project.
func (p *Parts) cloudBooter() (*cloud.Booter, error) {
	c := p.Config.Build
	return cloud.New(cloud.Config{
		Nova: p.Nova, Images: p.Glance, Store: func(projectID string) cloud.Store { return p.Glance.ForProject(projectID) }, Projects: p.Keystone,
		Project: c.Quarantine, Flavor: c.QuarFlavor, Network: c.QuarNetwork, Zone: c.QuarZone, Timeouts: testboot.Timeouts{Boot: c.BootTimeout}, Log: p.Log,
	})
}

// guests boot copies of images for packages whose scripts need a running system, where test boots are made too; nil where
// those are off or QEMU is not installed.
func (p *Parts) guests() (offline.Guests, error) {
	switch p.Config.Build.TestBoot {
	case "off":
		return nil, nil
	case "nova":
		b, err := p.cloudBooter()
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	g, err := p.qemu()
	if errs.Is(err, errs.NotFound) {
		p.Log.WithError(err).Info("this worker has no quarantine boots: packages that need a running system can only be held")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Between two looks for servers that nobody waits for, and the bound of one.
const (
	sweepPause = 10 * time.Minute
	sweepTime  = 2 * time.Minute
)

// quarantine is the loop that deletes the servers and images which killed workers left and nobody waits for any more. What
// fails is done by the next boot or the next round.
func (p *Parts) quarantine(b build.Booter) Loop {
	q, ok := b.(*cloud.Booter)
	if !ok {
		return func(context.Context) error { return nil }
	}
	sweep := func(ctx context.Context) {
		ctx, stop := context.WithTimeout(ctx, sweepTime)
		defer stop()
		n, err := q.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			p.Log.WithError(err).Warning("the quarantine project cannot be swept now")
		}
		if n > 0 {
			p.Log.WithField("found", n).Info("deleted servers and images of the quarantine project that a killed worker left")
		}
	}
	return func(ctx context.Context) error {
		for {
			sweep(ctx)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(sweepPause):
			}
		}
	}
}
