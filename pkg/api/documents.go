package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/diff"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// listProofKeys needs no token: a signature is worth something where everybody can check it.
func (a *api) listProofKeys(context.Context, *gin.Context) (Response, error) {
	return ok(map[string]any{"keys": a.ProofKeys}), nil
}

func (a *api) listDocuments(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	docs, err := a.Store.ListDocuments(ctx, i.ID)
	return ok(map[string]any{"documents": docs}), err
}

func (a *api) showDocument(ctx context.Context, req *Request[None]) (Response, error) {
	i, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	d, err := a.Store.FindDocument(ctx, i.ID, req.Param("kind"))
	if err != nil {
		return Response{}, err
	}
	packed := acceptsGzip(req.Header.Get("Accept-Encoding"))
	body := io.Reader(bytes.NewReader(d.Packed))
	if !packed {
		if body, err = d.Open(); err != nil {
			return Response{}, err
		}
	}
	known := strings.Contains(req.Header.Get("If-None-Match"), etag(d))
	return Response{Stream: func(_ context.Context, w http.ResponseWriter) { sendDocument(w, d, body, packed, known) }}, nil
}

func etag(d proof.Document) string { return strconv.Quote(d.SHA256) }

// acceptsGzip follows RFC 9110, 12.5.3, for the one coding that is served.
func acceptsGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, quality, _ := strings.Cut(coding, ";")
		if name = strings.TrimSpace(name); name == "gzip" || name == "*" {
			q := strings.ReplaceAll(quality, " ", "")
			return q != "q=0" && !strings.HasPrefix(q, "q=0.000")
		}
	}
	return false
}

func sendDocument(w http.ResponseWriter, d proof.Document, body io.Reader, packed, known bool) {
	h := w.Header()
	h.Set("ETag", etag(d))
	h.Add("Vary", "Accept-Encoding")
	h.Set("Cache-Control", "private, no-cache")
	if known {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", d.MediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	if packed {
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", strconv.Itoa(len(d.Packed)))
	} else {
		h.Set("Content-Length", strconv.FormatInt(d.Size, 10))
	}
	w.WriteHeader(http.StatusOK)
	io.Copy(w, body) //nolint:errcheck // the reader went away
}

func (a *api) differ() *diff.Service { return &diff.Service{Advisories: a.Store, Documents: a.Store} }

// diffImages compares two images; those that are versions are named so.
func (a *api) diffImages(ctx context.Context, req *Request[None]) (Response, error) {
	from, err := owned(ctx, req, "image", req.Param("id"), a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, err
	}
	id := req.Query.Get("to")
	if id == "" {
		return Response{}, errs.New(errs.Invalid, "kiln.request.query", "name the image to compare with").At(errs.Where{Field: "to"})
	}
	to, err := owned(ctx, req, "image", id, a.catalog.FindImage, imageProject)
	if err != nil {
		return Response{}, inBody(err, "to")
	}
	sides := [2]diff.Input{}
	for n, i := range []catalog.Image{from, to} {
		if sides[n], err = a.side(ctx, i); err != nil {
			return Response{}, err
		}
	}
	r, err := a.differ().Compare(ctx, sides[0], sides[1])
	return ok(r), err
}

func (a *api) side(ctx context.Context, i catalog.Image) (diff.Input, error) {
	v, err := a.Store.VersionByImage(ctx, i.ID)
	if errs.Is(err, errs.NotFound) {
		return diff.InputOf(i, nil), nil
	}
	return diff.InputOf(i, &v), err
}

// diffVersions compares two versions of a family, by name or by channel: without from the parent of the other, without to
// the candidate.
func (a *api) diffVersions(ctx context.Context, req *Request[None]) (Response, error) {
	f, err := familyOf(ctx, a, req)
	if err != nil {
		return Response{}, err
	}
	which := req.Query.Get("to")
	if which == "" {
		which = catalog.Candidate
	}
	to, err := a.versionNamed(ctx, f, which, "to")
	if err != nil {
		return Response{}, err
	}
	if which = req.Query.Get("from"); which == "" {
		if which = to.ParentVersion; which == "" {
			return Response{}, errs.New(errs.Invalid, "kiln.request.query", "version %s has no parent: name the version to compare with", to.Name).At(errs.Where{Field: "from"})
		}
	}
	from, err := a.versionNamed(ctx, f, which, "from")
	if err != nil {
		return Response{}, err
	}
	sides := [2]diff.Input{}
	for n, v := range []catalog.Version{from, to} {
		i, err := a.Store.FindImage(ctx, v.ImageID)
		if err != nil {
			return Response{}, err
		}
		sides[n] = diff.InputOf(i, &v)
	}
	r, err := a.differ().Compare(ctx, sides[0], sides[1])
	return ok(r), err
}

// versionNamed finds a version by a channel's name or its own. A revoked one may be compared, too.
func (a *api) versionNamed(ctx context.Context, f catalog.Family, which, field string) (catalog.Version, error) {
	name, isChannel := f.Channels[which]
	if !isChannel {
		name = which
	}
	v, err := a.Store.FindVersion(ctx, f.ID, name)
	if errs.Is(err, errs.NotFound) {
		return v, errs.New(errs.Invalid, "kiln.version.not_found", "family %s has no version and no channel %q", f.Name, which).At(errs.Where{Field: field})
	}
	return v, err
}
