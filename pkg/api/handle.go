package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// None is the body of a request that takes none ({} is accepted).
type None struct{}

// mayBeEmpty marks what reads from no body at all like from {}.
func (None) mayBeEmpty() {}

// Request is what a handler is given: an authenticated caller whom policy lets do this kind of thing in its own
// project, and a body and query that were read without a fault.
type Request[In any] struct {
	Body   In
	List   listing.Query // of list routes, restricted to the projects that the caller may see
	Query  url.Values    // all keys are known to the route, each is there at most once
	Header http.Header
	Caller *identity.Caller
	By     job.By
	Rule   string

	enforce func(rule, projectID string) error
	param   func(name string) string
	base    string
	url     *url.URL
}

// Param is a part of the path.
func (r *Request[In]) Param(name string) string { return r.param(name) }

// May reports whether the caller may do this to a thing of the project.
func (r *Request[In]) May(projectID string) bool { return r.enforce(r.Rule, projectID) == nil }

// Response is what a handler answers. Stream takes over the connection where it is set.
type Response struct {
	Status   int
	Location string // path below the base address
	Body     any
	Stream   func(ctx context.Context, w http.ResponseWriter)
}

func ok(body any) Response { return Response{Status: http.StatusOK, Body: body} }

func created(location string, body any) Response {
	return Response{Status: http.StatusCreated, Location: location, Body: body}
}

// accepted says that work has begun; location is where its end will be seen.
func accepted(location string, body any) Response {
	return Response{Status: http.StatusAccepted, Location: location, Body: body}
}

func noContent() Response { return Response{Status: http.StatusNoContent} }

// handler is one call of the API.
type handler[In any] func(ctx context.Context, req *Request[In]) (Response, error)

// route is one line of the table. Rule is "" for what needs no token.
type route struct {
	Method, Path, Rule string

	query []string // keys that the call takes
	sorts []string // keys that a list sorts by; nil for what is no list
	cloud bool     // the things belong to no project
	serve func(a *api, r route) gin.HandlerFunc
}

// on is a route whose handler takes a body of type In.
func on[In any](method, path, rule string, h handler[In]) route {
	return route{Method: method, Path: path, Rule: "provisioning:" + rule, serve: func(a *api, r route) gin.HandlerFunc {
		return func(c *gin.Context) {
			a.answer(c, func(ctx context.Context) (Response, error) { return call(ctx, a, c, r, h) })
		}
	}}
}

// open is a route without a token, a version or a body.
func open(method, path string, h func(ctx context.Context, c *gin.Context) (Response, error)) route {
	return route{Method: method, Path: path, serve: func(a *api, _ route) gin.HandlerFunc {
		return func(c *gin.Context) { a.answer(c, func(ctx context.Context) (Response, error) { return h(ctx, c) }) }
	}}
}

// call is the one way from a request to a handler: version, token, policy, query, body.
func call[In any](ctx context.Context, a *api, c *gin.Context, r route, h handler[In]) (Response, error) {
	tellVersion(c, minVersion)
	v, err := version(c.Request.Header)
	if err != nil {
		return Response{}, err
	}
	tellVersion(c, v)
	token := c.GetHeader("X-Auth-Token")
	if token == "" {
		return Response{}, errs.New(errs.Unauthenticated, "kiln.auth.token_missing", "send a Keystone token in X-Auth-Token")
	}
	caller, err := a.Auth.Authenticate(ctx, token, c.GetHeader("X-Service-Token"))
	if err != nil {
		return Response{}, err
	}
	c.Set(keyCaller, caller)
	req := &Request[In]{
		Header: c.Request.Header, Caller: caller, Rule: r.Rule, param: c.Param, base: a.base(c.Request), url: c.Request.URL,
		By: job.By{ProjectID: caller.ProjectID, UserID: caller.UserID, RequestID: c.GetString(keyRequestID)},
		enforce: func(rule, projectID string) error {
			return a.Policy.Enforce(caller, rule, target(projectID, caller.UserID))
		},
	}
	if err := req.enforce(r.Rule, caller.ProjectID); err != nil {
		return Response{}, err
	}
	if req.Query, err = readQuery(c.Request.URL, r); err != nil {
		return Response{}, err
	}
	if r.sorts != nil {
		if req.List, err = readList(req.Query, r); err != nil {
			return Response{}, err
		}
		if err := restrict(req, r); err != nil {
			return Response{}, err
		}
	}
	if err := readBody(c.Writer, c.Request, &req.Body); err != nil {
		return Response{}, err
	}
	return h(ctx, req)
}

// target is what policy compares the caller with; what the thing does not have is left out.
func target(projectID, userID string) map[string]string {
	t := map[string]string{"user_id": userID}
	if projectID != "" {
		t["project_id"] = projectID
	}
	return t
}

// restrict sets which projects a list shows: the caller's own, or all where it asks for them (or has no project)
// and policy lets it.
func restrict[In any](req *Request[In], r route) error {
	if r.cloud {
		return nil
	}
	all := req.Query.Get("all_projects")
	switch all {
	case "", "true", "false":
	default:
		return errs.New(errs.Invalid, "kiln.request.query", "all_projects is true or false").At(errs.Where{Field: "all_projects"})
	}
	if req.Caller.ProjectID == "" || all == "true" {
		return req.enforce(policy.AllProjects, "")
	}
	req.List.ProjectID = req.Caller.ProjectID
	return nil
}

// owned finds a thing of a project. A thing that the caller may not act on and a thing that does not exist give
// the same answer: nobody learns what other projects have.
func owned[T, In any](ctx context.Context, req *Request[In], noun, id string, find func(context.Context, string) (T, error), project func(T) string) (T, error) {
	v, err := find(ctx, id)
	if err == nil && req.May(project(v)) {
		return v, nil
	}
	var none T
	if err == nil || errs.Is(err, errs.NotFound) {
		err = errs.New(errs.NotFound, "kiln."+noun+".not_found", "there is no %s %s", noun, id)
	}
	return none, err
}

// page answers a list, with a link to the next page where there is one: one row more than asked for tells.
func page[T, In any](ctx context.Context, req *Request[In], plural string, find func(context.Context, listing.Query) ([]T, error), id func(T) string) (Response, error) {
	limit := req.List.Limit
	req.List.Limit++
	rows, err := find(ctx, req.List)
	if err != nil {
		return Response{}, err
	}
	links := []link{}
	if len(rows) > limit {
		rows = rows[:limit]
		next := *req.url
		q := next.Query()
		q.Set("marker", id(rows[limit-1]))
		next.RawQuery = q.Encode()
		links = append(links, link{Rel: "next", Href: req.base + next.RequestURI()})
	}
	return ok(map[string]any{plural: rows, plural + "_links": links}), nil
}

// answer runs the call and writes what came of it.
func (a *api) answer(c *gin.Context, run func(ctx context.Context) (Response, error)) {
	res, err := run(c.Request.Context())
	if err != nil {
		a.fail(c, err)
		return
	}
	if res.Location != "" {
		c.Header("Location", a.base(c.Request)+res.Location)
	}
	switch body := res.Body.(type) {
	case nil:
		if res.Stream != nil {
			res.Stream(c.Request.Context(), c.Writer)
			return
		}
		c.Status(res.Status)
		c.Writer.WriteHeaderNow()
	case text:
		c.Data(res.Status, body.kind, body.data)
	default:
		data, err := json.Marshal(filled(body))
		if err != nil {
			a.fail(c, errs.Wrap(err, errs.Internal, "kiln.internal", "the answer cannot be written"))
			return
		}
		c.Data(res.Status, "application/json", data)
	}
}

// text is a body that is no JSON.
type text struct {
	kind string
	data []byte
}
