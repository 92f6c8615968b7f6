package daemon

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/ceph"
	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/engine"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// remotes are the ways in which the worker reads images without fetching them, the cheapest first.
func (p *Parts) remotes() []worker.Remote {
	c := p.Config.Collect
	if !c.Remote {
		return nil
	}
	ways := []worker.Remote{rangeWay{p.Glance}}
	if c.CephUser != "" {
		ways = append([]worker.Remote{&rbdWay{glance: p.Glance, cfg: ceph.Config{Conf: c.CephConf, User: c.CephUser}}}, ways...)
	}
	return ways
}

// collect says what the sweep and the notifications of Glance are about.
func (p *Parts) collect() engine.Collect {
	c := p.Config.Collect
	return engine.Collect{
		Selection: catalog.Selection{All: c.All, Visibility: c.Visibility, Owners: c.Owners, SharedWith: c.SharedWith, Tags: c.Tags}, Open: c.Open,
	}
}

// remoteDisk is an image that is read in parts.
type remoteDisk struct {
	*remote.Reader
	fault func(error) error
}

// BytesRead implements worker.RemoteImage.
func (d remoteDisk) BytesRead() int64 { return d.Stats().Bytes }

// Err implements worker.RemoteImage.
func (d remoteDisk) Err() error {
	err := d.Reader.Err()
	if err != nil && d.fault != nil {
		return d.fault(err)
	}
	return err
}

// whole is how many bytes are read of an image before fetching all of it costs less.
func whole(size int64) int64 { return max(64<<20, size/2) }

// rangeWay reads by HTTP.
type rangeWay struct{ glance *glance.Client }

// Method implements worker.Remote.
func (rangeWay) Method() string { return "range" }

// Open implements worker.Remote.
func (w rangeWay) Open(ctx context.Context, g catalog.GlanceImage) (worker.RemoteImage, error) {
	return remoteDisk{Reader: remote.New(ctx, w.glance.Ranges(g.ID, g.Size), g.Size, remote.Options{Budget: whole(g.Size)})}, nil
}

// rbdWay reads the snapshot that Glance keeps in Ceph. Its connection is made when it is first used.
type rbdWay struct {
	glance *glance.Client
	cfg    ceph.Config
	mu     sync.Mutex
	open   ceph.Locations
}

// Method implements worker.Remote.
func (*rbdWay) Method() string { return "rbd" }

// Open implements worker.Remote.
func (w *rbdWay) Open(ctx context.Context, g catalog.GlanceImage) (worker.RemoteImage, error) {
	known, err := w.glance.Locations(ctx, g.ID)
	if err != nil {
		return nil, err
	}
	var fault error = errs.New(errs.NotFound, ceph.CodeElsewhere, "Glance shows no location of the image in Ceph")
	for _, l := range known {
		if !strings.HasPrefix(l.URL, "rbd://") {
			continue
		}
		all, err := w.locations(ctx)
		if err != nil {
			return nil, err
		}
		d, err := all.Open(ctx, l.URL)
		if err != nil {
			fault = err
			continue
		}
		if d.Size() < g.Size {
			return nil, errors.Join(errs.New(errs.Conflict, "kiln.image.no_rbd", "the snapshot has %d bytes, the image %d", d.Size(), g.Size), d.Close())
		}
		return remoteDisk{
			Reader: remote.New(ctx, d, g.Size, remote.Options{Budget: whole(g.Size)}),
			fault: func(err error) error { // Glance may still have it where this Ceph has not
				return errs.Wrap(err, errs.Conflict, "kiln.image.no_rbd", "the image cannot be read from Ceph")
			},
		}, nil
	}
	return nil, fault
}

func (w *rbdWay) locations(ctx context.Context) (ceph.Locations, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open != nil {
		return w.open, nil
	}
	all, err := ceph.OpenLocations(ctx, w.cfg)
	if err == nil {
		w.open = all
	}
	return all, err
}
