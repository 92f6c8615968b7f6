package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/githost"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

const gitPath = "/v1/git/"

// gitTimeout bounds a clone or push: it has a whole repository to move.
const gitTimeout = 10 * time.Minute

// gitCall is one request of a git program that may be made.
type gitCall struct {
	source build.Source
	caller *identity.Caller
	by     job.By
	gin    *gin.Context
}

// gits is a route for git programs: credentials come by HTTP's own means, and answers are git's.
// Errors are text where git asks: it shows that, and no JSON.
func gits(method, path, rule string, h func(ctx context.Context, c *gitCall) error) route {
	return route{Method: method, Path: path, Rule: "provisioning:" + rule, serve: func(a *api, r route) gin.HandlerFunc {
		return func(c *gin.Context) {
			call, err := a.gitCall(c.Request.Context(), c, r)
			if err == nil {
				err = h(c.Request.Context(), call)
			}
			if err != nil {
				a.failGit(c, err)
			}
		}
	}}
}

func (a *api) gitCall(ctx context.Context, c *gin.Context, r route) (*gitCall, error) {
	caller, err := a.gitCaller(ctx, c)
	if err != nil {
		return nil, err
	}
	c.Set(keyCaller, caller)
	if _, err := readQuery(c.Request.URL, r); err != nil {
		return nil, err
	}
	rule := r.Rule
	if c.Query("service") == githost.ReceivePack {
		rule = "provisioning:sources:push"
	}
	enforce := func(project string) error { return a.Policy.Enforce(caller, rule, target(project, caller.UserID)) }
	if err := enforce(caller.ProjectID); err != nil {
		return nil, err
	}
	project, name := c.Param("project_id"), c.Param("name")
	src, err := a.hostedSource(ctx, project, name)
	if err != nil {
		return nil, err
	}
	if src == nil || enforce(src.ProjectID) != nil {
		return nil, errs.New(errs.NotFound, "kiln.source.not_found", "project %s has no repository %s", project, name)
	}
	by := job.By{ProjectID: src.ProjectID, UserID: caller.UserID, RequestID: c.GetString(keyRequestID)}
	return &gitCall{source: *src, caller: caller, by: by, gin: c}, nil
}

// hostedSource finds the source of an address, which may end in .git as people are used to.
func (a *api) hostedSource(ctx context.Context, project, name string) (*build.Source, error) {
	for _, n := range []string{name, strings.TrimSuffix(name, ".git")} {
		q := listing.Query{ProjectID: project, Limit: 1}
		found, err := a.Store.ListSources(ctx, q.Where("name", n))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 && found[0].Hosted && project != "" {
			return &found[0], nil
		}
	}
	return nil, nil
}

// credentialID is how Keystone names application credentials.
var credentialID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// gitCaller takes X-Auth-Token, or HTTP's basic credentials: an application credential's id with its secret, or any
// user name with a token as the password.
func (a *api) gitCaller(ctx context.Context, c *gin.Context) (*identity.Caller, error) {
	token := c.GetHeader("X-Auth-Token")
	if user, password, ok := c.Request.BasicAuth(); token == "" && ok {
		token = password
		if credentialID.MatchString(user) && a.Logins != nil {
			var err error
			if token, err = a.Logins.Login(ctx, user, password); err != nil {
				return nil, err
			}
		}
	}
	if token == "" {
		return nil, errs.New(errs.Unauthenticated, "kiln.auth.token_missing",
			"log in with an application credential (its id as user name, its secret as password) or with a Keystone token as password")
	}
	return a.Auth.Authenticate(ctx, token, "")
}

// failGit answers as fail does, with a text where git is the client.
func (a *api) failGit(c *gin.Context, err error) {
	if errs.Is(err, errs.Unauthenticated) {
		c.Header("WWW-Authenticate", `Basic realm="Kiln"`)
	}
	status := statuses[errs.KindOf(err)]
	if !strings.HasPrefix(c.GetHeader("User-Agent"), "git/") || status >= http.StatusInternalServerError || c.Request.Context().Err() != nil {
		a.fail(c, err)
		return
	}
	c.Abort()
	c.Data(status, "text/plain; charset=utf-8", []byte(err.Error()+"\n"))
}

// showRefs is git's first question: what is there, and what can be done.
func (a *api) showRefs(ctx context.Context, c *gitCall) error {
	service := c.gin.Query("service")
	if service != githost.UploadPack && service != githost.ReceivePack {
		return errs.New(errs.Invalid, "kiln.git.service", "ask for ?service=git-upload-pack or git-receive-pack: git of version 1.6.6 or later does")
	}
	var out bytes.Buffer
	if err := a.git.Advertise(ctx, c.source, service, &out); err != nil {
		return err
	}
	c.gin.Header("Cache-Control", "no-cache")
	c.gin.Data(http.StatusOK, "application/x-"+service+"-advertisement", out.Bytes())
	return nil
}

func (a *api) uploadPack(ctx context.Context, c *gitCall) error {
	return a.gitAnswer(c, githost.UploadPack, func(r io.Reader, w io.Writer) error { return a.git.Upload(ctx, c.source, r, w) })
}

func (a *api) receivePack(ctx context.Context, c *gitCall) error {
	base := a.base(c.gin.Request)
	who := githost.Pusher{By: c.by, Name: c.caller.UserName, Link: func(b build.Build) string { return base + "/v1/builds/" + b.ID }}
	if who.Name == "" {
		who.Name = c.caller.UserID
	}
	return a.gitAnswer(c, githost.ReceivePack, func(r io.Reader, w io.Writer) error { return a.git.Receive(ctx, c.source, who, r, w) })
}

// gitAnswer reads the request, packed or not, and writes the header of the answer with its first byte.
func (a *api) gitAnswer(c *gitCall, service string, serve func(r io.Reader, w io.Writer) error) error {
	request := c.gin.Request
	if kind := request.Header.Get("Content-Type"); kind != "application/x-"+service+"-request" {
		return errs.New(errs.Invalid, "kiln.git.request", "git sends application/x-%s-request, not %.60q", service, kind)
	}
	body := io.Reader(http.MaxBytesReader(c.gin.Writer, request.Body, a.git.MaxRequest()))
	if request.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return errs.New(errs.Invalid, "kiln.git.request", "the body is not what its Content-Encoding says")
		}
		defer unpacked.Close() //nolint:errcheck // only read
		body = io.LimitReader(unpacked, a.git.MaxRequest())
	}
	w := &lateHeader{gin: c.gin, kind: "application/x-" + service + "-result"}
	err := serve(body, w)
	switch {
	case err == nil:
		w.begin()
	case w.begun: // too late for a status: git sees that the answer ends early
		a.log(c.gin).WithError(err).Warning("an answer to git was broken off")
		return nil
	}
	return err
}

// lateHeader leaves the status open until something is written.
type lateHeader struct {
	gin   *gin.Context
	kind  string
	begun bool
}

func (w *lateHeader) begin() {
	if !w.begun {
		w.begun = true
		w.gin.Header("Content-Type", w.kind)
		w.gin.Header("Cache-Control", "no-cache")
		w.gin.Status(http.StatusOK)
		w.gin.Writer.WriteHeaderNow()
	}
}

func (w *lateHeader) Write(p []byte) (int, error) {
	w.begin()
	return w.gin.Writer.Write(p)
}
