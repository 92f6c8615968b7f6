package placement

import (
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// holdings is what somebody holds: provider uuid to class to amount.
type holdings map[string]map[string]int64

// consumer is somebody with allocations; without any it goes away (but see leaveBehind).
type consumer struct {
	uuid, project, user string
	kind                string // consumer type; "" where none was ever given
	generation          int64
	holds               holdings
	created             time.Time
}

// wish is the allocations part of a request for one consumer.
type wish struct {
	Allocations map[string]struct {
		Resources  map[string]int64 `json:"resources"`
		Generation any              `json:"generation,omitempty"` // GET shows it, PUT ignores it
	} `json:"allocations"`
	ProjectID  string              `json:"project_id"`
	UserID     string              `json:"user_id"`
	Generation generation          `json:"consumer_generation"`
	Type       *string             `json:"consumer_type"`
	Mappings   map[string][]string `json:"mappings"`
}

func (s *Service) serveAllocations(mux *http.ServeMux) {
	mux.HandleFunc("GET /allocations/{consumer}", s.route("allocations:list", 0, 0, s.showAllocations))
	mux.HandleFunc("PUT /allocations/{consumer}", s.route("allocations:update", 12, http.StatusNotFound, s.putAllocations))
	mux.HandleFunc("DELETE /allocations/{consumer}", s.route("allocations:delete", 0, 0, s.deleteAllocations))
	mux.HandleFunc("POST /allocations", s.route("allocations:manage", 13, http.StatusNotFound, s.postAllocations))
	mux.HandleFunc("GET /resource_providers/{uuid}/allocations", s.route("resource_providers:allocations:list", 0, 0, s.listAllocations))
	mux.HandleFunc("GET /resource_providers/{uuid}/usages", s.route("resource_providers:usages", 0, 0, s.showUsages))
	mux.HandleFunc("GET /usages", s.route("usages", 9, http.StatusNotFound, s.totalUsages))
	mux.HandleFunc("GET /allocation_candidates", s.route("allocation_candidates:list", 10, http.StatusNotFound, s.listCandidates))
}

func (s *Service) showAllocations(c call) (answer, error) {
	list := map[string]any{}
	body := map[string]any{"allocations": list}
	who := s.consumers[c.PathValue("consumer")]
	if who == nil || len(who.holds) == 0 {
		return answer{status: http.StatusOK, body: body}, nil
	}
	for id, resources := range who.holds {
		list[id] = map[string]any{"generation": s.providers[id].generation, "resources": resources}
	}
	if c.since(12) {
		body["project_id"], body["user_id"] = who.project, who.user
	}
	if c.since(28) {
		body["consumer_generation"] = who.generation
	}
	if c.since(38) {
		body["consumer_type"] = typeName(who.kind)
	}
	return answer{status: http.StatusOK, body: body, modified: who.created}, nil
}

// typeName: consumers that were made below 1.38 have no type and count as unknown.
func typeName(kind string) string {
	if kind == "" {
		return "unknown"
	}
	return kind
}

func (s *Service) putAllocations(c call) (answer, error) {
	id, err := uuid.Parse(c.PathValue("consumer"))
	if err != nil {
		return answer{}, badRequest("Malformed consumer_uuid: %s", c.PathValue("consumer"))
	}
	var w wish
	if err := c.decode(&w); err != nil {
		return answer{}, err
	}
	if w.Allocations == nil || len(w.Allocations) == 0 && !c.since(28) {
		return answer{}, badRequest("JSON does not validate: 'allocations' is a required property")
	}
	if err := s.replace(c, map[string]wish{id.String(): w}); err != nil {
		var e *apiError
		if errors.As(err, &e) && e.status == http.StatusNotFound {
			return answer{}, badRequest("Unable to allocate inventory for consumer %s: %s", id, e.detail)
		}
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) postAllocations(c call) (answer, error) {
	var wishes map[string]wish
	if err := c.decode(&wishes); err != nil {
		return answer{}, err
	}
	if len(wishes) == 0 {
		return answer{}, badRequest("JSON does not validate: {} does not have enough properties")
	}
	for id, w := range wishes {
		if uuid.Validate(id) != nil || w.Allocations == nil {
			return answer{}, badRequest("JSON does not validate: '%s' does not match any of the regexes", id)
		}
	}
	if err := s.replace(c, wishes); err != nil {
		var e *apiError
		if errors.As(err, &e) && e.status == http.StatusNotFound {
			return answer{}, badRequest("Unable to allocate inventory %s", e.detail)
		}
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// replace sets the allocations of all named consumers, or of none.
func (s *Service) replace(c call, wishes map[string]wish) error {
	target := map[string]holdings{}
	for _, id := range sorted(wishes) {
		w := wishes[id]
		if err := w.check(c); err != nil {
			return err
		}
		if err := s.checkGeneration(c, id, w.Generation); err != nil {
			return err
		}
		holds := holdings{}
		for provider, part := range w.Allocations {
			if s.providers[provider] == nil {
				s.leaveBehind(id)
				return badRequest("Allocation for resource provider '%s' that does not exist.", provider)
			}
			holds[provider] = part.Resources
		}
		target[id] = holds
	}
	if err := s.checkAll(target); err != nil {
		return err
	}
	touched := map[string]bool{}
	for id, holds := range target {
		s.set(id, holds, wishes[id], touched)
	}
	for id := range touched {
		s.bump(s.providers[id])
	}
	return nil
}

// leaveBehind keeps a consumer without allocations, as Placement does when a claim names an unknown provider: the next
// claim with consumer_generation null then gets 409, "expected 0 but got None".
func (s *Service) leaveBehind(id string) {
	if s.consumers[id] == nil {
		s.consumers[id] = &consumer{uuid: id, created: s.kit.Clock()}
	}
}

func (w wish) check(c call) error {
	switch {
	case w.ProjectID == "":
		return badRequest("JSON does not validate: 'project_id' is a required property")
	case w.UserID == "":
		return badRequest("JSON does not validate: 'user_id' is a required property")
	case c.since(28) && !w.Generation.given:
		return badRequest("JSON does not validate: 'consumer_generation' is a required property")
	case !c.since(28) && w.Generation.given:
		return badRequest("JSON does not validate: Additional properties are not allowed ('consumer_generation' was unexpected)")
	case c.since(38) && (w.Type == nil || *w.Type == ""):
		return badRequest("JSON does not validate: 'consumer_type' is a required property")
	case !c.since(38) && w.Type != nil:
		return badRequest("JSON does not validate: Additional properties are not allowed ('consumer_type' was unexpected)")
	case w.Type != nil && !typePattern.MatchString(*w.Type):
		return badRequest("JSON does not validate: '%s' does not match '^[A-Z0-9_]+$'", *w.Type)
	}
	for _, part := range w.Allocations {
		if len(part.Resources) == 0 {
			return badRequest("JSON does not validate: {} does not have enough properties")
		}
		for _, amount := range part.Resources {
			if amount < 1 {
				return badRequest("JSON does not validate: %d is less than the minimum of 1", amount)
			}
		}
	}
	return nil
}

func (s *Service) checkGeneration(c call, id string, given generation) error {
	if !c.since(28) {
		return nil
	}
	who := s.consumers[id]
	switch {
	case who == nil && given.value != nil:
		return fail(http.StatusConflict, codeConcurrentUpdate, "consumer generation conflict - expected null but got %d", *given.value)
	case who != nil && (given.value == nil || *given.value != who.generation):
		return fail(http.StatusConflict, codeConcurrentUpdate, "consumer generation conflict - expected %d but got %s", who.generation, given)
	}
	return nil
}

// checkAll holds the wishes against the inventories, as if what the consumers hold now were gone.
func (s *Service) checkAll(target map[string]holdings) error {
	asked := map[string]map[string]int64{} // provider, class
	sum := func(provider, class string, amount int64) {
		if asked[provider] == nil {
			asked[provider] = map[string]int64{}
		}
		asked[provider][class] += amount
	}
	for id := range target {
		if who := s.consumers[id]; who != nil {
			for provider, resources := range who.holds {
				for class, amount := range resources {
					sum(provider, class, -amount)
				}
			}
		}
	}
	for _, id := range sorted(target) {
		for provider, resources := range target[id] {
			p := s.providers[provider]
			for _, class := range sorted(resources) {
				amount := resources[class]
				if !s.knownClass(class) {
					return notFound("No such resource class %s.", class)
				}
				i, has := p.inventories[class]
				if !has {
					return fail(http.StatusConflict, codeDefault,
						"Unable to allocate inventory: Inventory for '%s' on resource provider '%s' invalid.", class, provider)
				}
				if amount < i.MinUnit || amount > i.MaxUnit || amount%i.StepSize != 0 {
					return fail(http.StatusConflict, codeDefault, "Unable to allocate inventory: Unable to create allocation for '%s' on "+
						"resource provider '%s'. The requested amount would violate inventory constraints.", class, provider)
				}
				sum(provider, class, amount)
				if p.used[class]+asked[provider][class] > capacity(i) {
					return fail(http.StatusConflict, codeDefault, "Unable to allocate inventory: Unable to create allocation for '%s' on "+
						"resource provider '%s'. The requested amount would exceed the capacity.", class, provider)
				}
			}
		}
	}
	return nil
}

// set writes one consumer's allocations; touched collects the providers whose generation is to grow.
func (s *Service) set(id string, holds holdings, w wish, touched map[string]bool) {
	who := s.consumers[id]
	if who == nil {
		who = &consumer{uuid: id, holds: holdings{}, created: s.kit.Clock()}
	}
	for provider := range holds {
		touched[provider] = true
	}
	if len(holds) == 0 {
		for provider := range who.holds {
			touched[provider] = true
		}
	}
	s.unhold(who)
	if len(holds) == 0 {
		delete(s.consumers, id)
		return
	}
	for provider, resources := range holds {
		for class, amount := range resources {
			s.providers[provider].used[class] += amount
		}
	}
	who.holds, who.project, who.user = holds, w.ProjectID, w.UserID
	if w.Type != nil {
		who.kind = *w.Type
	}
	who.generation++
	s.consumers[id] = who
}

func (s *Service) unhold(who *consumer) {
	for provider, resources := range who.holds {
		for class, amount := range resources {
			s.providers[provider].used[class] -= amount
		}
	}
	who.holds = nil
}

// deleteAllocations leaves the providers' generations alone, as Placement does.
func (s *Service) deleteAllocations(c call) (answer, error) {
	id := c.PathValue("consumer")
	who := s.consumers[id]
	if who == nil || len(who.holds) == 0 {
		return answer{}, notFound("No allocations for consumer '%s'", id)
	}
	s.unhold(who)
	delete(s.consumers, id)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) listAllocations(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, notFound("Resource provider '%s' not found: %s", c.PathValue("uuid"), err)
	}
	list := map[string]any{}
	for id, who := range s.consumers {
		if resources := who.holds[p.uuid]; len(resources) > 0 {
			entry := map[string]any{"resources": resources}
			if c.since(28) {
				entry["consumer_generation"] = who.generation
			}
			list[id] = entry
		}
	}
	return answer{status: http.StatusOK, body: map[string]any{"allocations": list, "resource_provider_generation": p.generation}}, nil
}

func (s *Service) showUsages(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, notFound("No resource provider with uuid %s found: %s", c.PathValue("uuid"), err)
	}
	usages := map[string]int64{}
	for class := range p.inventories {
		usages[class] = p.used[class]
	}
	return answer{status: http.StatusOK, body: map[string]any{"resource_provider_generation": p.generation, "usages": usages}}, nil
}

func (s *Service) totalUsages(c call) (answer, error) {
	query := c.URL.Query()
	if !query.Has("project_id") {
		return answer{}, badRequest("Invalid query string parameters: 'project_id' is a required property")
	}
	flat, byType := map[string]int64{}, map[string]map[string]int64{}
	for _, who := range s.consumers {
		if len(who.holds) == 0 || who.project != query.Get("project_id") || query.Has("user_id") && who.user != query.Get("user_id") {
			continue
		}
		kind := typeName(who.kind)
		switch want := query.Get("consumer_type"); {
		case want == "all":
			kind = "all"
		case want != "" && want != kind:
			continue
		}
		if byType[kind] == nil {
			byType[kind] = map[string]int64{}
		}
		byType[kind]["consumer_count"]++
		for _, resources := range who.holds {
			for class, amount := range resources {
				flat[class] += amount
				byType[kind][class] += amount
			}
		}
	}
	if c.since(38) {
		return answer{status: http.StatusOK, body: map[string]any{"usages": byType}}, nil
	}
	return answer{status: http.StatusOK, body: map[string]any{"usages": flat}}, nil
}

var _ wire.Placement = (*Service)(nil)
