package manage

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/forge"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// forges is what bootstrap sets up outside of OpenStack.
type forges struct {
	endpoint string

	gitlab       forge.GitLab
	gitlabToken  string // file
	gitlabKey    string // file
	starter      string // folder
	jenkins      forge.Jenkins
	jenkinsToken string // file
}

func (f *forges) flags(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.endpoint, "endpoint", "", "address of Kiln's API for --gitlab and --jenkins; the catalog's where left out")
	s.StringVar(&f.gitlab.URL, "gitlab", "", "address of a GitLab: makes a project with the starter recipes, Kiln's source of it, and the webhook")
	s.StringVar(&f.gitlabToken, "gitlab-token-file", "", "file with an access token of GitLab with the scope api")
	s.StringVar(&f.gitlab.Project, "gitlab-project", "", "group/name; kiln-recipes of the token's user where left out")
	s.StringVar(&f.gitlab.Source, "gitlab-source", "", "name of the source; the project's where left out")
	s.StringVar(&f.gitlabKey, "gitlab-deploy-key", "", "file with the public SSH key of the workers: the project is private and read by SSH; public where left out")
	s.StringVar(&f.starter, "starter", "/etc/kiln/recipes", "folder with the recipes that a new project begins with")
	s.StringVar(&f.jenkins.URL, "jenkins", "", "address of a Jenkins: makes a pipeline job that builds with Kiln and reports back")
	s.StringVar(&f.jenkins.User, "jenkins-user", "", "its user")
	s.StringVar(&f.jenkinsToken, "jenkins-token-file", "", "file with the user's API token")
	s.StringVar(&f.jenkins.Job, "jenkins-job", "kiln-images", "name of the job")
}

func (f *forges) asked() bool { return f.gitlab.URL != "" || f.jenkins.URL != "" }

// run sets up what was asked for; cloud is the login whose project gets the source.
func (f *forges) run(ctx context.Context, t *tool, cloud *openstack.Cloud) error {
	endpoint := f.endpoint
	if endpoint == "" {
		var err error
		if endpoint, err = cloud.Service(openstack.Description{Name: "kiln", Types: []string{"provisioning"}}).Endpoint(ctx); err != nil {
			return err
		}
	}
	endpoint = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(endpoint, "/"), "/v1"), "/")
	if f.gitlab.URL != "" {
		if err := f.runGitLab(ctx, t, sources{&client.Client{Endpoint: endpoint, Token: cloud.ForProject("").Token}}); err != nil {
			return err
		}
	}
	if f.jenkins.URL == "" {
		return nil
	}
	var err error
	if f.jenkins.Token, err = secretFile("jenkins-token-file", f.jenkinsToken); err != nil {
		return err
	}
	f.jenkins.Kiln, f.jenkins.Auth, f.jenkins.Source = endpoint, os.Getenv("OS_AUTH_URL"), f.gitlab.Source
	done, err := f.jenkins.Bootstrap(ctx)
	t.report(done, err)
	return err
}

func (f *forges) runGitLab(ctx context.Context, t *tool, k forge.Kiln) (err error) {
	if f.gitlab.Token, err = secretFile("gitlab-token-file", f.gitlabToken); err != nil {
		return err
	}
	if f.gitlabKey != "" {
		if f.gitlab.DeployKey, err = secretFile("gitlab-deploy-key", f.gitlabKey); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(f.starter)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read
	if f.gitlab.Starter, err = fs.Sub(root.FS(), "."); err != nil {
		return err
	}
	f.gitlab.Kiln = k
	done, err := f.gitlab.Bootstrap(ctx)
	t.report(done, err)
	return err
}

func (t *tool) report(done []string, err error) {
	for _, d := range done {
		t.say("%s", d)
	}
	if err == nil && len(done) == 0 {
		t.say("nothing to do")
	}
}

// secretFile reads what shall not stand on a command line, where every user of the machine sees it.
func secretFile(flag, path string) (string, error) {
	if path == "" {
		return "", errors.New("--" + flag + " is needed")
	}
	data, err := os.ReadFile(path)
	text := strings.TrimSpace(string(data))
	if err == nil && text == "" {
		err = errors.New("--" + flag + ": the file is empty")
	}
	return text, err
}

// sources is Kiln's API as forge asks it.
type sources struct{ api *client.Client }

// FindSource implements forge.Kiln.
func (s sources) FindSource(ctx context.Context, name string) (*forge.Source, error) {
	found, err := client.List[forge.Source](ctx, s.api, "sources", url.Values{"name": {name}})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// CreateSource implements forge.Kiln.
func (s sources) CreateSource(ctx context.Context, n build.NewSource) (made forge.Source, err error) {
	return made, s.api.Post(ctx, "/v1/sources", n, &made)
}

// RenewSecret implements forge.Kiln.
func (s sources) RenewSecret(ctx context.Context, id string) (out forge.Source, err error) {
	return out, s.api.Post(ctx, "/v1/sources/"+url.PathEscape(id)+"/secret", map[string]string{}, &out)
}
