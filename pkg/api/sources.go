package api

import (
	"context"
	"net/url"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

func sourceProject(s build.Source) string { return s.ProjectID }

// source is a source as the API shows it.
type source struct {
	build.Source

	WebhookURL string `json:"webhook_url"`      // "" for a hosted one: it is pushed to
	Secret     string `json:"secret,omitempty"` // for its webhooks; only in the answer that makes it
}

// shown gives a source its addresses; a hosted one has the address to clone from and push to as its URL.
func shown(base string, s build.Source) source {
	out := source{Source: s}
	if s.Hosted {
		out.URL = base + gitPath + url.PathEscape(s.ProjectID) + "/" + url.PathEscape(s.Name)
		return out
	}
	out.WebhookURL = base + "/v1/webhooks/" + s.ID
	return out
}

func withSecret(s source) source {
	if !s.Hosted {
		s.Secret = s.Source.Secret
	}
	return s
}

func (a *api) listSources(ctx context.Context, req *Request[None]) (Response, error) {
	find := func(ctx context.Context, q listing.Query) ([]source, error) {
		rows, err := a.Store.ListSources(ctx, q)
		out := make([]source, len(rows))
		for i, s := range rows {
			out[i] = shown(req.base, s)
		}
		return out, err
	}
	return page(ctx, req, "sources", find, func(s source) string { return s.ID })
}

// createSource answers 201 for a hosted source, which waits for its first push, and 202 for one that is read now.
func (a *api) createSource(ctx context.Context, req *Request[build.NewSource]) (Response, error) {
	s, err := a.builds.CreateSource(ctx, req.By, req.Body)
	body := withSecret(shown(req.base, s))
	if s.Hosted {
		return created("/v1/sources/"+s.ID, body), err
	}
	return accepted("/v1/sources/"+s.ID, body), err
}

func (a *api) showSource(ctx context.Context, req *Request[None]) (Response, error) {
	s, err := owned(ctx, req, "source", req.Param("id"), a.Store.FindSource, sourceProject)
	return ok(shown(req.base, s)), err
}

func (a *api) deleteSource(ctx context.Context, req *Request[None]) (Response, error) {
	s, err := owned(ctx, req, "source", req.Param("id"), a.Store.FindSource, sourceProject)
	if err != nil {
		return Response{}, err
	}
	return noContent(), a.builds.DeleteSource(ctx, req.By, s.ID)
}

func (a *api) syncSource(ctx context.Context, req *Request[None]) (Response, error) {
	s, err := owned(ctx, req, "source", req.Param("id"), a.Store.FindSource, sourceProject)
	if err != nil {
		return Response{}, err
	}
	s, err = a.builds.SyncSource(ctx, req.By, s.ID)
	return accepted("/v1/sources/"+s.ID, shown(req.base, s)), err
}

// newSecretOf is the body of renewSecret; "" lets Kiln make one.
type newSecretOf struct {
	Secret string `json:"secret"`
}

func (a *api) renewSecret(ctx context.Context, req *Request[newSecretOf]) (Response, error) {
	s, err := owned(ctx, req, "source", req.Param("id"), a.Store.FindSource, sourceProject)
	if err != nil {
		return Response{}, err
	}
	s, err = a.builds.RenewSecret(ctx, req.By, s.ID, req.Body.Secret)
	return ok(withSecret(shown(req.base, s))), err
}
