package forge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// GitLab is what is set up there.
type GitLab struct {
	URL       string // "https://gitlab.example.org"
	Token     string // personal or group access token with the scope api
	Project   string // "group/name"; "kiln-recipes" of the token's user where it is empty
	Source    string // Kiln's name of the source; the project's name where it is empty
	DeployKey string // public SSH key of the workers: the project is private then and read by SSH; public where it is empty
	Starter   fs.FS  // the recipes of a new project
	Kiln      Kiln
	HTTP      *http.Client // with a time-out; one of a minute where it is nil
}

// branch is the one that a new project has.
const branch = "main"

// gitlabRun is one run with what its steps found.
type gitlabRun struct {
	GitLab
	api     *gitlab.Client
	project *gitlab.Project
	done    Done
}

// Bootstrap makes what is missing: the project, its first commit, the deploy key, Kiln's source, the webhook. What is
// there is left as it is, so it is safe to repeat.
func (g GitLab) Bootstrap(ctx context.Context) (Done, error) {
	if g.HTTP == nil {
		g.HTTP = &http.Client{Timeout: time.Minute}
	}
	api, err := gitlab.NewClient(g.Token, gitlab.WithBaseURL(g.URL), gitlab.WithHTTPClient(g.HTTP), gitlab.WithCustomRetryMax(2))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "kiln.gitlab.url", "%q is not GitLab's address", g.URL)
	}
	r := &gitlabRun{GitLab: g, api: api}
	for _, step := range []func(context.Context) error{r.ensureProject, r.ensureCommit, r.ensureKey, r.ensureSource} {
		if err := step(ctx); err != nil {
			return r.done, gitlabFault(err)
		}
	}
	return r.done, nil
}

func gitlabFault(err error) error {
	if own, ok := errors.AsType[*errs.Error](err); ok {
		return own
	}
	if answer, ok := errors.AsType[*gitlab.ErrorResponse](err); ok && answer.Response != nil {
		kind := errs.Unavailable
		if status := answer.Response.StatusCode; status < http.StatusInternalServerError {
			kind = errs.Invalid
		}
		return errs.Wrap(err, kind, "kiln.gitlab.refused", "GitLab refused %s %s", answer.Response.Request.Method, answer.Response.Request.URL.Path)
	}
	return errs.Wrap(err, errs.Unavailable, "kiln.gitlab.away", "GitLab did not answer")
}

func (r *gitlabRun) say(format string, args ...any) {
	r.done = append(r.done, fmt.Sprintf(format, args...))
}

// ensureProject follows https://docs.gitlab.com/api/projects/#get-a-single-project and #create-a-project.
func (r *gitlabRun) ensureProject(ctx context.Context) error {
	if r.Project == "" {
		user, _, err := r.api.Users.CurrentUser(gitlab.WithContext(ctx))
		if err != nil {
			return err
		}
		r.Project = user.Username + "/kiln-recipes"
	}
	var err error
	r.project, _, err = r.api.Projects.GetProject(r.Project, nil, gitlab.WithContext(ctx))
	if err == nil || !errors.Is(err, gitlab.ErrNotFound) {
		return err
	}
	slash := strings.LastIndexByte(r.Project, '/')
	if slash < 1 || slash == len(r.Project)-1 {
		return errs.New(errs.Invalid, "kiln.gitlab.project", "%q is not a project: write group/name", r.Project)
	}
	group, _, err := r.api.Namespaces.GetNamespace(r.Project[:slash], gitlab.WithContext(ctx))
	if err != nil {
		return err
	}
	name, visibility := r.Project[slash+1:], gitlab.PublicVisibility
	if r.DeployKey != "" {
		visibility = gitlab.PrivateVisibility
	}
	r.project, _, err = r.api.Projects.CreateProject(&gitlab.CreateProjectOptions{
		Name: &name, Path: &name, NamespaceID: &group.ID, Visibility: &visibility, DefaultBranch: new(branch),
		Description: new("Image recipes that Kiln builds"),
	}, gitlab.WithContext(ctx))
	if err == nil {
		r.say("made the %s project %s", visibility, r.Project)
	}
	return err
}

// ensureCommit gives an empty project the starter recipes
// (https://docs.gitlab.com/api/commits/#create-a-commit-with-multiple-files-and-actions).
func (r *gitlabRun) ensureCommit(ctx context.Context) error {
	tree, _, err := r.api.Repositories.ListTree(r.project.ID, nil, gitlab.WithContext(ctx))
	if err == nil && len(tree) > 0 {
		return nil
	}
	if err != nil && !errors.Is(err, gitlab.ErrNotFound) {
		return err
	}
	var actions []*gitlab.CommitActionOptions
	err = fs.WalkDir(r.Starter, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := fs.ReadFile(r.Starter, path)
		if err != nil {
			return err
		}
		actions = append(actions, &gitlab.CommitActionOptions{
			Action: new(gitlab.FileCreate), FilePath: new(path), Encoding: new("base64"), Content: new(base64.StdEncoding.EncodeToString(data)),
		})
		return nil
	})
	if err != nil {
		return errs.Wrap(err, errs.Internal, "kiln.gitlab.starter", "the starter recipes cannot be read")
	}
	if len(actions) == 0 {
		return errs.New(errs.Invalid, "kiln.gitlab.starter", "there are no starter recipes for the empty project %s", r.Project)
	}
	_, _, err = r.api.Commits.CreateCommit(r.project.ID, &gitlab.CreateCommitOptions{
		Branch: new(r.ref()), CommitMessage: new("Starter recipes of Kiln"), Actions: actions,
	}, gitlab.WithContext(ctx))
	if err == nil {
		r.say("committed %d starter files to %s", len(actions), r.ref())
	}
	return err
}

func (r *gitlabRun) ref() string {
	if r.project.DefaultBranch != "" {
		return r.project.DefaultBranch
	}
	return branch
}

// ensureKey lets the workers read a private project (https://docs.gitlab.com/api/deploy_keys/).
func (r *gitlabRun) ensureKey(ctx context.Context) error {
	if r.DeployKey == "" {
		return nil
	}
	keys, _, err := r.api.DeployKeys.ListProjectDeployKeys(r.project.ID, nil, gitlab.WithContext(ctx))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if sameKey(k.Key, r.DeployKey) {
			return nil
		}
	}
	_, _, err = r.api.DeployKeys.AddDeployKey(r.project.ID, &gitlab.AddDeployKeyOptions{
		Title: new("Kiln's workers"), Key: new(strings.TrimSpace(r.DeployKey)), CanPush: new(false),
	}, gitlab.WithContext(ctx))
	if err == nil {
		r.say("added the deploy key")
	}
	return err
}

// sameKey compares type and key; what stands behind them is a comment.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) >= 2 && len(y) >= 2 && x[0] == y[0] && x[1] == y[1]
}

// ensureSource makes Kiln's source and the webhook that tells it of pushes. The secret of a source that was there is
// renewed where the webhook is missing: Kiln shows it once.
func (r *gitlabRun) ensureSource(ctx context.Context) error {
	name := r.Source
	if name == "" {
		name = r.project.Path
	}
	src, err := r.Kiln.FindSource(ctx, name)
	if err != nil {
		return err
	}
	address := r.project.HTTPURLToRepo
	if r.DeployKey != "" {
		address = r.project.SSHURLToRepo
	}
	if src != nil && src.URL != address {
		return errs.New(errs.Conflict, "kiln.gitlab.source", "Kiln's source %s is of %s, not of %s: choose another name", name, src.URL, address)
	}
	if src == nil {
		made, err := r.Kiln.CreateSource(ctx, build.NewSource{Name: name, URL: address, Ref: r.ref()})
		if err != nil {
			return err
		}
		r.say("made the source %s", name)
		src = &made
	}
	return r.ensureHook(ctx, *src)
}

// ensureHook follows https://docs.gitlab.com/api/project_webhooks/.
func (r *gitlabRun) ensureHook(ctx context.Context, src Source) error {
	hooks, _, err := r.api.Projects.ListProjectHooks(r.project.ID, nil, gitlab.WithContext(ctx))
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if h.URL == src.WebhookURL {
			return nil
		}
	}
	if src.Secret == "" {
		if src, err = r.Kiln.RenewSecret(ctx, src.ID); err != nil {
			return err
		}
		r.say("renewed the secret of the source %s", src.Name)
	}
	_, _, err = r.api.Projects.AddProjectHook(r.project.ID, &gitlab.AddProjectHookOptions{
		URL: new(src.WebhookURL), Token: new(src.Secret), PushEvents: new(true), TagPushEvents: new(true),
		EnableSSLVerification: new(true),
	}, gitlab.WithContext(ctx))
	if err == nil {
		r.say("made the webhook to %s", src.WebhookURL)
	}
	return err
}
