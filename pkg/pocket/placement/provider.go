package placement

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// provider is one resource provider with all that hangs on it.
type provider struct {
	uuid, name, parent string
	generation         int64
	inventories        map[string]wire.Inventory
	used               map[string]int64 // the sum of all allocations, by class
	aggregates         []string
	traits             map[string]bool
	updated            time.Time
}

// free is what is left of a class, by (total-reserved)*ratio-used.
func (p *provider) free(class string) int64 { return capacity(p.inventories[class]) - p.used[class] }

func capacity(i wire.Inventory) int64 { return int64(float64(i.Total-i.Reserved) * i.AllocationRatio) }

// bump is what every change of a provider's inventory, traits, aggregates or allocations does.
func (s *Service) bump(p *provider) {
	p.generation++
	p.updated = s.kit.Clock()
}

func (s *Service) root(p *provider) *provider {
	for p.parent != "" && s.providers[p.parent] != nil {
		p = s.providers[p.parent]
	}
	return p
}

// find answers the provider of the path's {uuid}.
func (s *Service) find(c call) (*provider, error) {
	p := s.providers[c.PathValue("uuid")]
	if p == nil {
		return nil, notFound("No resource provider with uuid %s found", c.PathValue("uuid"))
	}
	return p, nil
}

func (s *Service) serveProviders(mux *http.ServeMux) {
	const all, one = "/resource_providers", "/resource_providers/{uuid}"
	mux.HandleFunc("GET "+all, s.route("resource_providers:list", 0, 0, s.listProviders))
	mux.HandleFunc("POST "+all, s.route("resource_providers:create", 0, 0, s.createProvider))
	mux.HandleFunc("GET "+one, s.route("resource_providers:show", 0, 0, s.showProvider))
	mux.HandleFunc("PUT "+one, s.route("resource_providers:update", 0, 0, s.updateProvider))
	mux.HandleFunc("DELETE "+one, s.route("resource_providers:delete", 0, 0, s.deleteProvider))
	mux.HandleFunc("GET "+one+"/aggregates", s.route("resource_providers:aggregates:list", 1, http.StatusNotFound, s.showAggregates))
	mux.HandleFunc("PUT "+one+"/aggregates", s.route("resource_providers:aggregates:update", 1, http.StatusNotFound, s.putAggregates))
}

func (s *Service) render(c call, p *provider) map[string]any {
	url := s.path(p)
	links := []any{map[string]string{"rel": "self", "href": url}}
	for _, rel := range []struct {
		name  string
		since int
	}{{"inventories", 0}, {"usages", 0}, {"aggregates", 1}, {"traits", 6}, {"allocations", 11}} {
		if c.since(rel.since) {
			links = append(links, map[string]string{"rel": rel.name, "href": url + "/" + rel.name})
		}
	}
	d := map[string]any{"uuid": p.uuid, "name": p.name, "generation": p.generation, "links": links}
	if c.since(14) {
		d["parent_provider_uuid"] = orNull(p.parent)
		d["root_provider_uuid"] = s.root(p).uuid
	}
	return d
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// path is a provider's URL as a path with the service's mount point, as Placement writes its links.
func (s *Service) path(p *provider) string {
	return "/" + s.kit.Service + "/resource_providers/" + p.uuid
}

func (s *Service) listProviders(c call) (answer, error) {
	query := c.URL.Query()
	for key := range query {
		if !slices.Contains([]string{"name", "uuid", "member_of", "resources", "in_tree", "required"}, key) {
			return answer{}, badRequest("Invalid query string parameters: Additional properties are not allowed ('%s' was unexpected)", key)
		}
	}
	f, err := s.parseFilter(query)
	if err != nil {
		return answer{}, err
	}
	found := []any{}
	for _, id := range s.order {
		p := s.providers[id]
		if query.Has("name") && p.name != query.Get("name") || query.Has("uuid") && p.uuid != query.Get("uuid") || !s.fits(p, f) {
			continue
		}
		found = append(found, s.render(c, p))
	}
	return answer{status: http.StatusOK, body: map[string]any{"resource_providers": found}}, nil
}

func (s *Service) createProvider(c call) (answer, error) {
	var body struct {
		Name   *string `json:"name"`
		UUID   string  `json:"uuid"`
		Parent *string `json:"parent_provider_uuid"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Name == nil || *body.Name == "" {
		return answer{}, badRequest("JSON does not validate: 'name' is a required property")
	}
	if body.UUID == "" {
		body.UUID = s.kit.NewID()
	}
	id, err := uuid.Parse(body.UUID)
	if err != nil {
		return answer{}, badRequest("JSON does not validate: '%s' is not a 'uuid'", body.UUID)
	}
	p := &provider{uuid: id.String(), name: *body.Name}
	if body.Parent != nil {
		if s.providers[*body.Parent] == nil {
			return answer{}, badRequest(`Unable to create resource provider "%s", %s: Object action create failed because: parent provider UUID does not exist.`, p.name, p.uuid)
		}
		p.parent = *body.Parent
	}
	if err := s.add(p); err != nil {
		return answer{}, err
	}
	a := answer{status: http.StatusCreated, location: "/resource_providers/" + p.uuid}
	if c.since(20) {
		a.status, a.body = http.StatusOK, s.render(c, p)
	}
	return a, nil
}

// add keeps a new provider; name and uuid must be free.
func (s *Service) add(p *provider) error {
	if s.providers[p.uuid] != nil {
		return fail(http.StatusConflict, codeDuplicateName, "Conflicting resource provider uuid: %s already exists.", p.uuid)
	}
	if s.byName(p.name) != nil {
		return fail(http.StatusConflict, codeDuplicateName, "Conflicting resource provider name: %s already exists.", p.name)
	}
	p.inventories, p.used, p.traits = map[string]wire.Inventory{}, map[string]int64{}, map[string]bool{}
	p.updated = s.kit.Clock()
	s.providers[p.uuid] = p
	s.order = append(s.order, p.uuid)
	return nil
}

func (s *Service) byName(name string) *provider {
	for _, p := range s.providers {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (s *Service) showProvider(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.render(c, p), modified: p.updated}, nil
}

func (s *Service) updateProvider(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Name   *string `json:"name"`
		Parent *string `json:"parent_provider_uuid"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Name == nil {
		return answer{}, badRequest("JSON does not validate: 'name' is a required property")
	}
	if other := s.byName(*body.Name); other != nil && other != p {
		return answer{}, fail(http.StatusConflict, codeDuplicateName, "Conflicting resource provider %s already exists.", *body.Name)
	}
	if body.Parent != nil && s.providers[*body.Parent] == nil {
		return answer{}, badRequest("Unable to save resource provider %s: Object action create failed because: parent provider UUID does not exist.", p.uuid)
	}
	p.name, p.updated = *body.Name, s.kit.Clock()
	if body.Parent != nil {
		p.parent = *body.Parent
	}
	return answer{status: http.StatusOK, body: s.render(c, p), modified: p.updated}, nil
}

func (s *Service) deleteProvider(c call) (answer, error) {
	p := s.providers[c.PathValue("uuid")]
	if p == nil {
		return answer{}, notFound("No resource provider with uuid %s found for delete", c.PathValue("uuid"))
	}
	for _, child := range s.providers {
		if child.parent == p.uuid {
			return answer{}, fail(http.StatusConflict, codeCannotDelete,
				"Unable to delete parent resource provider %s: It has child resource providers.", p.uuid)
		}
	}
	for _, used := range p.used {
		if used > 0 {
			return answer{}, fail(http.StatusConflict, codeProviderInUse,
				"Unable to delete resource provider %s: Resource provider has allocations.", p.uuid)
		}
	}
	delete(s.providers, p.uuid)
	s.order = slices.DeleteFunc(s.order, func(id string) bool { return id == p.uuid })
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) aggregates(c call, p *provider) answer {
	body := map[string]any{"aggregates": append([]string{}, p.aggregates...)}
	if c.since(19) {
		body["resource_provider_generation"] = p.generation
	}
	return answer{status: http.StatusOK, body: body}
}

func (s *Service) showAggregates(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	return s.aggregates(c, p), nil
}

func (s *Service) putAggregates(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	if !c.since(19) {
		var list []string
		if err := c.decode(&list); err != nil {
			return answer{}, err
		}
		p.aggregates = list
		return s.aggregates(c, p), nil
	}
	var body struct {
		Aggregates []string `json:"aggregates"`
		Generation *int64   `json:"resource_provider_generation"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Generation == nil || body.Aggregates == nil {
		return answer{}, badRequest("JSON does not validate: 'resource_provider_generation' is a required property")
	}
	if *body.Generation != p.generation {
		return answer{}, generationChanged()
	}
	for _, id := range body.Aggregates {
		if uuid.Validate(id) != nil {
			return answer{}, badRequest("JSON does not validate: '%s' is not a 'uuid'", id)
		}
	}
	p.aggregates = body.Aggregates
	s.bump(p)
	return s.aggregates(c, p), nil
}

func generationChanged() error {
	return fail(http.StatusConflict, codeConcurrentUpdate,
		"Resource provider's generation already changed. Please update the generation and try again.")
}

// sorted answers the keys of a map in order.
func sorted[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }

func split(text string) []string { return strings.Split(text, ",") }
