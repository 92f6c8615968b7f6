package placement

import (
	"math"
	"net/http"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// record is an inventory in a request: what is left out gets Placement's defaults.
type record struct {
	Total    *int64   `json:"total"`
	Reserved *int64   `json:"reserved"`
	MinUnit  *int64   `json:"min_unit"`
	MaxUnit  *int64   `json:"max_unit"`
	StepSize *int64   `json:"step_size"`
	Ratio    *float64 `json:"allocation_ratio"`
}

type singleRecord struct {
	record
	Class      string `json:"resource_class"`
	Generation *int64 `json:"resource_provider_generation"`
}

func (r record) complete() (wire.Inventory, error) {
	i := wire.Inventory{MinUnit: 1, MaxUnit: math.MaxInt32, StepSize: 1, AllocationRatio: 1}
	if r.Total == nil {
		return i, badRequest("JSON does not validate: 'total' is a required property")
	}
	for _, field := range []struct {
		from    *int64
		to      *int64
		minimum int64
	}{{r.Total, &i.Total, 1}, {r.Reserved, &i.Reserved, 0}, {r.MinUnit, &i.MinUnit, 1}, {r.MaxUnit, &i.MaxUnit, 1}, {r.StepSize, &i.StepSize, 1}} {
		if field.from == nil {
			continue
		}
		if *field.from < field.minimum {
			return i, badRequest("JSON does not validate: %d is less than the minimum of %d", *field.from, field.minimum)
		}
		if *field.from > math.MaxInt32 {
			return i, badRequest("JSON does not validate: %d is greater than the maximum of %d", *field.from, math.MaxInt32)
		}
		*field.to = *field.from
	}
	if r.Ratio != nil {
		i.AllocationRatio = *r.Ratio
	}
	return i, nil
}

func (s *Service) serveInventories(mux *http.ServeMux) {
	const all, one = "/resource_providers/{uuid}/inventories", "/resource_providers/{uuid}/inventories/{class}"
	rule := func(verb string) string { return "resource_providers:inventories:" + verb }
	mux.HandleFunc("GET "+all, s.route(rule("list"), 0, 0, s.listInventories))
	mux.HandleFunc("PUT "+all, s.route(rule("update"), 0, 0, s.putInventories))
	mux.HandleFunc("POST "+all, s.route(rule("create"), 0, 0, s.createInventory))
	mux.HandleFunc("DELETE "+all, s.route(rule("delete"), 5, http.StatusMethodNotAllowed, s.deleteInventories))
	mux.HandleFunc("GET "+one, s.route(rule("show"), 0, 0, s.showInventory))
	mux.HandleFunc("PUT "+one, s.route(rule("update"), 0, 0, s.putInventory))
	mux.HandleFunc("DELETE "+one, s.route(rule("delete"), 0, 0, s.deleteInventory))
}

func inventoriesOf(p *provider) answer {
	return answer{status: http.StatusOK, modified: p.updated, body: map[string]any{
		"resource_provider_generation": p.generation, "inventories": p.inventories,
	}}
}

func oneInventory(p *provider, class string, status int) answer {
	i := p.inventories[class]
	body := map[string]any{"total": i.Total, "reserved": i.Reserved, "min_unit": i.MinUnit, "max_unit": i.MaxUnit,
		"step_size": i.StepSize, "allocation_ratio": i.AllocationRatio}
	if p.generation != 0 { // Placement leaves out a generation of 0
		body["resource_provider_generation"] = p.generation
	}
	return answer{status: status, body: body, modified: p.updated}
}

func (s *Service) listInventories(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, notFound("No resource provider with uuid %s found : No resource provider with uuid %s found",
			c.PathValue("uuid"), c.PathValue("uuid"))
	}
	return inventoriesOf(p), nil
}

func (s *Service) showInventory(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	class := c.PathValue("class")
	if _, has := p.inventories[class]; !has {
		return answer{}, notFound("No inventory of class %s for %s", class, p.uuid)
	}
	return oneInventory(p, class, http.StatusOK), nil
}

func (s *Service) putInventories(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Generation  *int64             `json:"resource_provider_generation"`
		Inventories *map[string]record `json:"inventories"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Generation == nil {
		return answer{}, badRequest("JSON does not validate: 'resource_provider_generation' is a required property")
	}
	if body.Inventories == nil {
		return answer{}, badRequest("JSON does not validate: 'inventories' is a required property")
	}
	if *body.Generation != p.generation {
		return answer{}, generationConflict()
	}
	wanted := map[string]wire.Inventory{}
	for class, r := range *body.Inventories {
		i, err := r.complete()
		if err != nil {
			return answer{}, err
		}
		if !s.knownClass(class) {
			return answer{}, badRequest("Unknown resource class in inventory for resource provider %s: No such resource class %s.", p.uuid, class)
		}
		if err := c.checkCapacity(p, class, i, "update"); err != nil {
			return answer{}, err
		}
		wanted[class] = i
	}
	return s.replaceInventories(p, wanted)
}

func (s *Service) replaceInventories(p *provider, wanted map[string]wire.Inventory) (answer, error) {
	var inUse []string
	for _, class := range sorted(p.inventories) {
		if _, stays := wanted[class]; !stays && p.used[class] > 0 {
			inUse = append(inUse, class)
		}
	}
	if len(inUse) > 0 {
		return answer{}, fail(http.StatusConflict, codeInventoryInUse,
			"update conflict: Inventory for '%s' on resource provider '%s' in use.", strings.Join(inUse, ", "), p.uuid)
	}
	p.inventories = wanted
	s.bump(p)
	return inventoriesOf(p), nil
}

func generationConflict() error {
	return fail(http.StatusConflict, codeConcurrentUpdate, "resource provider generation conflict")
}

func (c call) checkCapacity(p *provider, class string, i wire.Inventory, verb string) error {
	left := capacity(i)
	if left < 0 || left == 0 && !c.since(26) {
		than := "greater than total"
		if !c.since(26) {
			than = "greater than or equal to total"
		}
		return badRequest("Unable to %s inventory for resource provider %s: Invalid inventory for '%s' on resource provider '%s'. The reserved value is %s.",
			verb, p.uuid, class, p.uuid, than)
	}
	return nil
}

func (s *Service) createInventory(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	class, i, err := c.readSingle(p, false)
	if err != nil {
		return answer{}, err
	}
	if !s.knownClass(class) {
		return answer{}, badRequest("Unable to create inventory for resource provider %s: No such resource class %s.", p.uuid, class)
	}
	if _, has := p.inventories[class]; has {
		return answer{}, fail(http.StatusConflict, codeConcurrentUpdate, "Update conflict: duplicate inventory of class %s", class)
	}
	p.inventories[class] = i
	s.bump(p)
	a := oneInventory(p, class, http.StatusCreated)
	a.location = "/resource_providers/" + p.uuid + "/inventories/" + class
	return a, nil
}

func (c call) readSingle(p *provider, update bool) (string, wire.Inventory, error) {
	var body singleRecord
	if err := c.decode(&body); err != nil {
		return "", wire.Inventory{}, err
	}
	class, verb := body.Class, "create"
	switch {
	case update && body.Generation == nil:
		return "", wire.Inventory{}, badRequest("JSON does not validate: 'resource_provider_generation' is a required property")
	case !update && body.Class == "":
		return "", wire.Inventory{}, badRequest("JSON does not validate: 'resource_class' is a required property")
	case update:
		class, verb = c.PathValue("class"), "update"
	}
	i, err := body.complete()
	if err != nil {
		return "", wire.Inventory{}, err
	}
	if update && *body.Generation != p.generation {
		return "", wire.Inventory{}, generationConflict()
	}
	return class, i, c.checkCapacity(p, class, i, verb)
}

func (s *Service) putInventory(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	class, i, err := c.readSingle(p, true)
	if err != nil {
		return answer{}, err
	}
	if _, has := p.inventories[class]; !has {
		return answer{}, badRequest("No inventory record with resource class for resource provider %s: No inventory of class %s found.", p.uuid, class)
	}
	p.inventories[class] = i
	s.bump(p)
	return oneInventory(p, class, http.StatusOK), nil
}

func (s *Service) deleteInventory(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	class := c.PathValue("class")
	if _, has := p.inventories[class]; !has {
		return answer{}, notFound("No inventory of class %s found for delete: No inventory of class %s found.", class, class)
	}
	if p.used[class] > 0 {
		return answer{}, fail(http.StatusConflict, codeConcurrentUpdate,
			"Unable to delete inventory of class %s: Inventory for '%s' on resource provider '%s' in use.", class, class, p.uuid)
	}
	delete(p.inventories, class)
	s.bump(p)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) deleteInventories(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	if _, err := s.replaceInventories(p, map[string]wire.Inventory{}); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}
