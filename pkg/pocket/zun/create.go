package zun

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

var boolWords = []string{"True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes"}

func truth(text string) bool { return slices.Contains(boolWords, text) }

// createContainer is POST /v1/containers?run=. The claim in Placement exists when the 202 goes out, but its body
// still says host null; where nothing fits it is a 202 with the status Error.
func (s *Server) createContainer(c *call) (answer, error) {
	if err := queryOnly(c, "run"); err != nil {
		return answer{}, err
	}
	body, err := readBody(c, createSchema(c.version), "image")
	if err != nil {
		return answer{}, err
	}
	row := s.newRow(c, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkQuota(c.caller.ProjectID, row); err != nil {
		return answer{}, err
	}
	if err := createRules(c, body); err != nil {
		return answer{}, err
	}
	wanted := str(body, "host")
	if wanted != "" && !slices.ContainsFunc(s.hosts, func(h *host) bool { return h.Name == wanted }) {
		return answer{}, fail(http.StatusNotFound, "requested-host-not-found", "Requested host %s could not be found.", wanted)
	}
	s.containers = append(s.containers, row)
	node, err := s.schedule(row, wanted)
	if err != nil {
		row.failIt(errors.New("Unexpected exception occurred."), false) //nolint:staticcheck // Zun's sentence
		s.deps.Log.WithError(err).WithField("container", row.ID).Warning("a claim was overtaken")
		return answer{}, s.broken()
	}
	if node == "" {
		row.failIt(errors.New("There are not enough hosts available."), false) //nolint:staticcheck // Zun's sentence
	}
	result := answer{
		status: http.StatusAccepted, body: s.view(c, row, true, true),
		header: http.Header{"Location": {s.deps.URL + "/v1/containers/" + row.ID}},
	}
	row.Updated = row.Created
	if node != "" {
		s.cast(c, row, node, truth(c.URL.Query().Get("run")))
	}
	return result, nil
}

// cast hands a scheduled container to its node.
func (s *Server) cast(c *call, row *container, node string, start bool) {
	a := s.begin(c, row, "create")
	if row.CPUPolicy == "dedicated" { // no host pins CPUs: the claim on the node fails and nobody says so
		s.finish(a, "create", errors.New("TypeError"))
		return
	}
	row.Host, row.Task = node, "container_creating"
	s.later(row, func() {
		if row.Status == creating {
			s.run(row, a, "create", start)
		}
	})
}

// createRules are the fields that a policy keeps from members.
func createRules(c *call, body map[string]any) error {
	for _, rule := range []struct {
		field string
		since int
		name  string
		never bool // nobody may (zun's default rule is '!')
	}{
		{"auto_remove", 3, "", false},
		{"runtime", 5, "container:create:runtime", false},
		{"hostname", 9, "", false},
		{"privileged", 21, "container:create:privileged", true},
		{"image_pull_policy", 1, "container:create:image_pull_policy", false},
		{"host", 1, "container:create:requested_destination", false},
	} {
		if body[rule.field] == nil {
			continue
		}
		if err := c.needs(rule.field, rule.since); err != nil {
			return err
		}
		if rule.name != "" && (rule.never || !c.caller.Admin()) {
			return forbidden(rule.name)
		}
	}
	return nil
}

func (s *Server) newRow(c *call, body map[string]any) *container {
	id := s.deps.NewID()
	row := &container{
		ID: id, Name: str(body, "name"), ProjectID: c.caller.ProjectID, UserID: c.caller.UserID, Image: str(body, "image"),
		ImageDriver: str(body, "image_driver"), CPUPolicy: str(body, "cpu_policy"), Status: creating, Created: s.deps.Clock(), CPU: 1,
		MemoryMB: 512, Command: words(body["command"]), Entrypoint: words(body["entrypoint"]), Environment: object(body["environment"]),
		Labels: object(body["labels"]), RestartPolicy: object(body["restart_policy"]), Healthcheck: object(body["healthcheck"]),
		Workdir: optional(body, "workdir"), Hostname: optional(body, "hostname"), PullPolicy: optional(body, "image_pull_policy"),
		AutoRemove: flag(body["auto_remove"]), AutoHeal: flag(body["auto_heal"]), Interactive: flag(body["interactive"]),
		TTY: flag(body["tty"]), caller: c.caller,
	}
	if row.Name == "" {
		row.Name = "pocket-" + id[:8] + "-container"
	}
	if row.ImageDriver == "" || row.ImageDriver == "None" {
		row.ImageDriver = "docker"
	}
	if row.CPUPolicy == "" {
		row.CPUPolicy = "shared"
	}
	if cpu, given := numberOf(body["cpu"]); given {
		row.CPU = cpu
	}
	if memory, given := numberOf(body["memory"]); given {
		row.MemoryMB = int64(memory)
	}
	if disk, given := numberOf(body["disk"]); given {
		row.DiskGB = int64(disk)
	}
	return row
}

// checkQuota counts the rows of a project. Under the lock.
func (s *Server) checkQuota(project string, row *container) error {
	var used Quota
	cpu := row.CPU
	for _, other := range s.containers {
		if other.ProjectID == project {
			used.Containers++
			used.Memory += other.MemoryMB
			used.Disk += other.DiskGB
			cpu += other.CPU
		}
	}
	quota := s.quotaOf(project)
	var over []string
	for _, check := range []struct {
		name        string
		used, limit float64
	}{
		{"containers", float64(used.Containers + 1), float64(quota.Containers)}, {"cpu", cpu, float64(quota.CPU)},
		{"disk", float64(used.Disk + row.DiskGB), float64(quota.Disk)}, {"memory", float64(used.Memory + row.MemoryMB), float64(quota.Memory)},
	} {
		if check.limit >= 0 && check.used > check.limit {
			over = append(over, "'"+check.name+"'")
		}
	}
	if over != nil {
		return fail(http.StatusForbidden, "over-quota", "Quota exceeded for resources: [%s]", strings.Join(over, ", "))
	}
	return nil
}

func str(body map[string]any, key string) string {
	switch v := body[key].(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

func optional(body map[string]any, key string) *string {
	if value, given := body[key].(string); given {
		return &value
	}
	return nil
}

func flag(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return truth(v)
	}
	return false
}

func object(value any) map[string]any {
	dict, _ := value.(map[string]any)
	return dict
}

// words reads a command: a list, or below 1.20 a line in a shell's manner.
func words(value any) []string {
	switch v := value.(type) {
	case []any:
		out := make([]string, 0, len(v))
		for _, item := range v {
			if text, isText := item.(string); isText {
				out = append(out, text)
			}
		}
		return out
	case string:
		return shellWords(v)
	}
	return nil
}

// shellWords splits like Python's shlex.split: blanks part, single and double quotes hold together, a backslash
// takes the next character as it is.
func shellWords(line string) []string {
	var (
		out   []string
		word  strings.Builder
		quote rune
		open  bool
		taken bool
	)
	for _, r := range line {
		switch {
		case taken:
			word.WriteRune(r)
			taken = false
		case r == '\\' && quote != '\'':
			taken, open = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if open {
				out = append(out, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		out = append(out, word.String())
	}
	return out
}

// pull makes the container's image present on its node, as the image drivers do. Under the lock.
func (s *Server) pull(row *container) error {
	if row.ImageDriver == "glance" {
		_, err := s.glanceImage(row.caller, row.Image)
		return err
	}
	policy := "always"
	if row.PullPolicy != nil {
		policy = strings.ToLower(*row.PullPolicy)
	}
	repo, tag := splitImage(row.Image)
	return s.deps.Docker.Pull(row.Host, repo+":"+tag, policy)
}

func splitImage(ref string) (repo, tag string) {
	slash := strings.LastIndex(ref, "/")
	if colon := strings.LastIndex(ref, ":"); colon > slash {
		return ref[:colon], ref[colon+1:]
	}
	return ref, "latest"
}

var errNotDocker = errors.New("not an image of container_format docker")

// glanceImage finds an image of Glance by id. Zun also takes a name; wire.Images knows only ids, and so does Kiln.
func (s *Server) glanceImage(caller wire.Caller, ref string) (wire.Image, error) {
	image, err := s.deps.Images.Get(caller, ref)
	if err != nil || image.Status != "active" {
		return image, errors.New("Image " + ref + " could not be found.")
	}
	if image.ContainerFormat != "docker" {
		return image, errNotDocker
	}
	return image, nil
}
