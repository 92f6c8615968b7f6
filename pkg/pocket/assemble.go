package pocket

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/kiln-cloud/kiln/pkg/pocket/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket/keystone"
	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
	"github.com/kiln-cloud/kiln/pkg/pocket/placement"
	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/kiln-cloud/kiln/pkg/pocket/zun"
)

// assemble makes the services and puts each below its prefix.
func (c *Cloud) assemble(cfg Config) (http.Handler, error) {
	mux := http.NewServeMux()
	identityKit, err := c.kit(cfg, Identity)
	if err != nil {
		return nil, err
	}
	c.identity = keystone.New(identityKit, keystone.Options{
		Password: cfg.Password, TokenLife: cfg.TokenLife, Catalog: c.catalog(cfg),
	})
	c.mount(mux, identityKit, c.identity.Handler())

	imageKit, err := c.kit(cfg, Image)
	if err != nil {
		return nil, err
	}
	c.images, err = glance.New(imageKit, glance.Options{Stores: cfg.Stores, Quota: cfg.ImageQuota, Keep: cfg.Keep, Record: c.recorder.Add})
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, c.images.Close)
	c.mount(mux, imageKit, c.images.Handler())

	placementKit, err := c.kit(cfg, Placement)
	if err != nil {
		return nil, err
	}
	c.placement = placement.New(placementKit)
	c.mount(mux, placementKit, c.placement.Handler())
	return mux, c.assembleCompute(mux, cfg)
}

// assembleCompute makes Nova and Zun, in this order: Zun finds the providers that Nova made.
func (c *Cloud) assembleCompute(mux *http.ServeMux, cfg Config) error {
	var err error
	if cfg.Compute.Kit, err = c.kit(cfg, Compute); err != nil {
		return err
	}
	if c.compute, err = nova.New(cfg.Compute); err != nil {
		return err
	}
	c.closers = append(c.closers, c.compute.Close)
	c.mount(mux, cfg.Compute.Kit, c.compute)
	if !cfg.Zun {
		return nil
	}
	if cfg.Container.Kit, err = c.kit(cfg, Container); err != nil {
		return err
	}
	if c.container, err = zun.New(cfg.Container); err != nil {
		return err
	}
	c.closers = append(c.closers, c.container.Close)
	c.mount(mux, cfg.Container.Kit, c.container)
	return nil
}

func (c *Cloud) catalog(cfg Config) []keystone.Endpoint {
	list := []keystone.Endpoint{
		{Type: "identity", Name: "keystone", URL: c.AuthURL()},
		{Type: "image", Name: "glance", URL: c.url + "/" + Image},
		{Type: "placement", Name: "placement", URL: c.url + "/" + Placement},
		{Type: "compute", Name: "nova", URL: c.url + "/" + Compute + "/v2.1"},
	}
	if cfg.Zun {
		list = append(list, keystone.Endpoint{Type: "container", Name: "zun", URL: c.url + "/" + Container + "/v1"})
	}
	if cfg.KilnURL != "" {
		list = append(list, keystone.Endpoint{Type: "provisioning", Name: "kiln", URL: cfg.KilnURL})
	}
	return list
}

// kit makes a service's kit with a folder of its own.
func (c *Cloud) kit(cfg Config, service string) (wire.Kit, error) {
	dir := filepath.Join(cfg.Dir, service)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return wire.Kit{}, fmt.Errorf("pocket: %w", err)
	}
	kit := wire.Kit{
		Service: service, URL: c.url + "/" + service, IdentityURL: c.AuthURL(), Dir: dir,
		Clock: cfg.Clock, NewID: cfg.NewID, Notify: cfg.Notify, Nodes: cfg.Nodes,
		Log: cfg.Log.WithField("pocket", service), Tokens: c.identity,
	}
	if c.images != nil { // a nil *Service in an interface would not be nil
		kit.Images = c.images
	}
	if c.placement != nil {
		kit.Placement = c.placement
	}
	return kit, nil
}

func (c *Cloud) mount(mux *http.ServeMux, kit wire.Kit, service http.Handler) {
	handler := http.StripPrefix("/"+kit.Service, kit.Edge(&c.recorder, &c.faults, rooted(service)))
	mux.Handle("/"+kit.Service, handler)
	mux.Handle("/"+kit.Service+"/", handler)
}

// rooted lets /identity mean /identity/.
func rooted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" {
			r.URL.Path = "/"
		}
		next.ServeHTTP(w, r)
	})
}
