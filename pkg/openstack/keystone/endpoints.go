package keystone

import (
	"context"
	"net/http"
	"net/url"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

func (b *bootstrap) ensureRegion(ctx context.Context) error {
	err := b.service.Get(ctx, "region", "regions/"+openstack.Segment(b.r.Region), nil, nil)
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	_, err = b.create(ctx, "region", doc{"id": b.r.Region}, b.r.Region)
	return err
}

func (b *bootstrap) ensureService(ctx context.Context) (err error) {
	b.serviceID, err = b.find(ctx, "services", url.Values{"type": {ServiceType}})
	if err != nil || b.serviceID != "" {
		return err
	}
	b.serviceID, err = b.create(ctx, "service", doc{
		"type": ServiceType, "name": ServiceName, "description": "Builds, upgrades, caches and places images",
	}, ServiceType)
	return err
}

type endpoint struct {
	ID        string `json:"id"`
	Interface string `json:"interface"`
	Region    string `json:"region_id"`
	URL       string `json:"url"`
}

func (b *bootstrap) ensureEndpoints(ctx context.Context) error {
	var answer struct {
		Endpoints []endpoint `json:"endpoints"`
	}
	if err := b.service.Get(ctx, "endpoints", "endpoints", url.Values{"service_id": {b.serviceID}}, &answer); err != nil {
		return err
	}
	have := map[string]endpoint{}
	for _, e := range answer.Endpoints {
		if e.Region == b.r.Region {
			have[e.Interface] = e
		}
	}
	for _, want := range []endpoint{
		{Interface: "public", URL: b.r.Public}, {Interface: "internal", URL: b.r.Internal}, {Interface: "admin", URL: b.r.Admin},
	} {
		if err := b.ensureEndpoint(ctx, have[want.Interface], want); err != nil {
			return err
		}
	}
	return nil
}

func (b *bootstrap) ensureEndpoint(ctx context.Context, have, want endpoint) error {
	switch {
	case have.URL == want.URL:
		return nil
	case have.ID == "":
		_, err := b.create(ctx, "endpoint", doc{
			"service_id": b.serviceID, "interface": want.Interface, "region_id": b.r.Region, "url": want.URL,
		}, want.Interface+" "+want.URL)
		return err
	}
	err := b.service.Do(ctx, openstack.Call{
		Operation: "update_endpoint", Method: http.MethodPatch, Path: "endpoints/" + openstack.Segment(have.ID),
		Body: doc{"endpoint": doc{"url": want.URL}},
	})
	if err == nil {
		b.say("moved the endpoint " + want.Interface + " to " + want.URL)
	}
	return err
}
