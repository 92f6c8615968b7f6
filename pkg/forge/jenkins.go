package forge

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the pipeline
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Jenkins is what is set up there.
type Jenkins struct {
	URL    string // "https://jenkins.example.org"
	User   string
	Token  string       // API token of the user
	Job    string       // name of the pipeline; "kiln-images" where it is empty
	Kiln   string       // address of Kiln's API, told to the pipeline; "" leaves it to the catalog
	Auth   string       // Keystone's address, told to the pipeline
	Source string       // the default of the job's parameter
	HTTP   *http.Client // with a time-out; one of a minute where it is nil
}

// pipeline is the job's script.
//
//go:embed pipeline.groovy
var pipeline string

// maxConfig bounds an answer.
const maxConfig = 4 << 20

// Bootstrap makes the pipeline job, or brings it up to date where it is an older one of Kiln's; a job of that name
// that is not Kiln's is errs.Conflict. It is safe to repeat. It follows
// https://www.jenkins.io/doc/book/using/remote-access-api/ and https://www.jenkins.io/doc/book/security/csrf-protection/.
func (j Jenkins) Bootstrap(ctx context.Context) (Done, error) {
	if j.Job == "" {
		j.Job = "kiln-images"
	}
	if strings.ContainsAny(j.Job, "/\\?*%!@#$^&|<>[]:;\"'") {
		return nil, errs.New(errs.Invalid, "kiln.jenkins.job", "%q is not the name of a job", j.Job)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: time.Minute}
	if j.HTTP != nil {
		client = *j.HTTP
	}
	client.Jar = jar // a crumb is good for the session that it was given in
	j.HTTP = &client
	config, mark := j.config()
	status, have, err := j.call(ctx, http.MethodGet, j.jobPath()+"/config.xml", nil, nil)
	if err != nil {
		return nil, err
	}
	path, what := j.jobPath()+"/config.xml", "brought the pipeline job %s up to date"
	switch {
	case status == http.StatusNotFound:
		path, what = "/createItem?name="+url.QueryEscape(j.Job), "made the pipeline job %s"
	case status != http.StatusOK:
		return nil, j.refused(status, "show the job")
	case bytes.Contains(have, []byte(mark)):
		return nil, nil
	case !bytes.Contains(have, []byte(marked)):
		return nil, errs.New(errs.Conflict, "kiln.jenkins.job", "Jenkins has a job %s that is not Kiln's: choose another name", j.Job)
	}
	header, err := j.crumb(ctx)
	if err != nil {
		return nil, err
	}
	header["Content-Type"] = "application/xml"
	if status, _, err = j.call(ctx, http.MethodPost, path, header, config); err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, j.refused(status, "write the job")
	}
	return Done{fmt.Sprintf(what, j.Job)}, nil
}

func (j Jenkins) jobPath() string { return "/job/" + url.PathEscape(j.Job) }

func (j Jenkins) refused(status int, what string) error {
	kind := errs.Invalid
	if status >= http.StatusInternalServerError {
		kind = errs.Unavailable
	}
	return errs.New(kind, "kiln.jenkins.refused", "Jenkins refused to %s: %d %s; the user needs the rights Overall/Read, Job/Create, Job/Configure and Job/ExtendedRead", what, status, http.StatusText(status))
}

// crumb is what Jenkins asks of writes; none where it does not use them.
func (j Jenkins) crumb(ctx context.Context) (map[string]string, error) {
	status, body, err := j.call(ctx, http.MethodGet, "/crumbIssuer/api/json", nil, nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound:
		return map[string]string{}, nil
	case status != http.StatusOK:
		return nil, j.refused(status, "give a crumb")
	}
	var c struct {
		Crumb string `json:"crumb"`
		Field string `json:"crumbRequestField"`
	}
	if err := json.Unmarshal(body, &c); err != nil || c.Field == "" {
		return nil, errs.New(errs.Unavailable, "kiln.jenkins.answer", "Jenkins' crumb cannot be read")
	}
	return map[string]string{c.Field: c.Crumb}, nil
}

func (j Jenkins) call(ctx context.Context, method, path string, header map[string]string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(j.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, errs.New(errs.Invalid, "kiln.jenkins.url", "%q is not Jenkins' address", j.URL)
	}
	req.SetBasicAuth(j.User, j.Token)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := j.HTTP.Do(req)
	if err != nil {
		return 0, nil, errs.Wrap(err, errs.Unavailable, "kiln.jenkins.away", "Jenkins did not answer")
	}
	defer res.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(res.Body, maxConfig))
	if err != nil {
		return 0, nil, errs.Wrap(err, errs.Unavailable, "kiln.jenkins.away", "Jenkins' answer did not arrive whole")
	}
	return res.StatusCode, data, nil
}

// marked begins the mark of every job of Kiln's.
const marked = "Made by kiln-manage: sha256:"

// config is the job as Jenkins keeps it, and the mark in it that names this very text.
func (j Jenkins) config() (config []byte, mark string) {
	source := j.Source
	if source == "" {
		source = "images"
	}
	script := strings.NewReplacer("@KILN_ENDPOINT@", groovy(j.Kiln), "@OS_AUTH_URL@", groovy(j.Auth)).Replace(pipeline)
	sum := sha256.Sum256([]byte(script + "\x00" + source))
	mark = marked + hex.EncodeToString(sum[:])
	parameter := func(name, value, about string) string {
		return "<hudson.model.StringParameterDefinition><name>" + name + "</name><description>" + text(about) + "</description><defaultValue>" + text(value) +
			"</defaultValue><trim>true</trim></hudson.model.StringParameterDefinition>"
	}
	return []byte(xml.Header + "<flow-definition plugin=\"workflow-job\">" +
		"<description>" + text("Builds images with Kiln. "+mark) + "</description><keepDependencies>false</keepDependencies>" +
		"<properties><hudson.model.ParametersDefinitionProperty><parameterDefinitions>" +
		parameter("SOURCE", source, "Kiln's name of the source") + parameter("RECIPE", "", "the recipe to build") +
		"</parameterDefinitions></hudson.model.ParametersDefinitionProperty></properties>" +
		"<definition class=\"org.jenkinsci.plugins.workflow.cps.CpsFlowDefinition\" plugin=\"workflow-cps\"><script>" + text(script) +
		"</script><sandbox>true</sandbox></definition><triggers/><disabled>false</disabled></flow-definition>\n"), mark
}

// groovy is a text between single quotes of Groovy.
func groovy(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", "").Replace(s) }

func text(s string) string {
	var out strings.Builder
	if err := xml.EscapeText(&out, []byte(s)); err != nil { // a Builder takes all
		return ""
	}
	return out.String()
}
