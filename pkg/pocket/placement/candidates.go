package placement

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// filter is what a query asks of a provider.
type filter struct {
	resources map[string]int64
	anyOf     [][]string // of each list one trait at least
	forbidden []string   // traits
	memberOf  [][]string // of each list one aggregate at least
	notIn     []string   // aggregates
	inTree    string
}

// parseFilter reads resources, required, member_of and in_tree.
func (s *Service) parseFilter(query url.Values) (filter, error) {
	f := filter{inTree: query.Get("in_tree"), resources: map[string]int64{}}
	if query.Has("resources") {
		for _, part := range split(query.Get("resources")) {
			class, text, _ := strings.Cut(part, ":")
			amount, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return f, badRequest("Badly formed resources parameter. Expected resources query string parameter in form: "+
					`?resources=VCPU:2,MEMORY_MB:1024. Got: Extra characters "%s"`, part)
			}
			if amount < 1 {
				return f, badRequest("Requested resource %s requires amount >= 1.", class)
			}
			if !s.knownClass(class) {
				return f, badRequest("Invalid resource class in resources parameter: No such resource class %s.", class)
			}
			f.resources[class] = amount
		}
	}
	for _, required := range append(slices.Clone(query["required"]), query["root_required"]...) {
		if list, isAny := strings.CutPrefix(required, "in:"); isAny {
			f.anyOf = append(f.anyOf, split(list))
			continue
		}
		for _, trait := range split(required) {
			if name, forbidden := strings.CutPrefix(trait, "!"); forbidden {
				f.forbidden = append(f.forbidden, name)
			} else {
				f.anyOf = append(f.anyOf, []string{trait})
			}
		}
	}
	for _, trait := range append(slices.Concat(f.anyOf...), f.forbidden...) {
		if !s.knownTrait(trait) {
			return f, badRequest("No such trait(s): %s.", trait)
		}
	}
	for _, member := range query["member_of"] {
		member, negative := strings.CutPrefix(member, "!")
		member = strings.TrimPrefix(member, "in:")
		if negative {
			f.notIn = append(f.notIn, split(member)...)
		} else {
			f.memberOf = append(f.memberOf, split(member))
		}
	}
	return f, nil
}

func (s *Service) fits(p *provider, f filter) bool {
	if f.inTree != "" {
		tree := s.providers[f.inTree]
		if tree == nil || s.root(tree) != s.root(p) {
			return false
		}
	}
	for class, amount := range f.resources {
		i, has := p.inventories[class]
		if !has || p.free(class) < amount || amount < i.MinUnit || amount > i.MaxUnit || amount%i.StepSize != 0 {
			return false
		}
	}
	for _, list := range f.anyOf {
		if !slices.ContainsFunc(list, func(t string) bool { return p.traits[t] }) {
			return false
		}
	}
	for _, list := range f.memberOf {
		if !slices.ContainsFunc(list, func(a string) bool { return slices.Contains(p.aggregates, a) }) {
			return false
		}
	}
	return !slices.ContainsFunc(f.forbidden, func(t string) bool { return p.traits[t] }) &&
		!slices.ContainsFunc(f.notIn, func(a string) bool { return slices.Contains(p.aggregates, a) })
}

// listCandidates answers the providers that fit alone. Kiln's nodes have no children and share nothing, so
// combinations of providers are not needed.
func (s *Service) listCandidates(c call) (answer, error) {
	query := c.URL.Query()
	for key := range query {
		if !slices.Contains([]string{"resources", "required", "root_required", "member_of", "in_tree", "limit", "group_policy"}, key) {
			return answer{}, fail(http.StatusBadRequest, codeBadValue,
				"Invalid query string parameters: '%s' does not match any of the regexes", key)
		}
	}
	if !query.Has("resources") {
		return answer{}, badRequest("All request groups must specify resources.")
	}
	limit := -1
	if query.Has("limit") {
		n, err := strconv.Atoi(query.Get("limit"))
		if err != nil || n < 1 {
			return answer{}, badRequest("Invalid query string parameters: '%s' does not match '^[1-9][0-9]*$'", query.Get("limit"))
		}
		limit = n
	}
	f, err := s.parseFilter(query)
	if err != nil {
		return answer{}, err
	}
	requests, summaries := []any{}, map[string]any{}
	for _, id := range s.order {
		p := s.providers[id]
		if len(requests) == limit || !s.fits(p, f) {
			continue
		}
		requests = append(requests, candidate(c, p, f.resources))
		summaries[id] = s.summary(c, p, f.resources)
	}
	return answer{status: http.StatusOK, body: map[string]any{"allocation_requests": requests, "provider_summaries": summaries}}, nil
}

func candidate(c call, p *provider, resources map[string]int64) map[string]any {
	if !c.since(12) {
		return map[string]any{"allocations": []any{map[string]any{
			"resource_provider": map[string]string{"uuid": p.uuid}, "resources": resources,
		}}}
	}
	d := map[string]any{"allocations": map[string]any{p.uuid: map[string]any{"resources": resources}}}
	if c.since(34) {
		d["mappings"] = map[string]any{"": []string{p.uuid}}
	}
	return d
}

func (s *Service) summary(c call, p *provider, asked map[string]int64) map[string]any {
	resources := map[string]any{}
	for class, i := range p.inventories {
		if _, wanted := asked[class]; wanted || c.since(27) {
			resources[class] = map[string]any{"capacity": capacity(i), "used": p.used[class]}
		}
	}
	d := map[string]any{"resources": resources}
	if c.since(17) {
		d["traits"] = append([]string{}, sorted(p.traits)...)
	}
	if c.since(29) {
		d["parent_provider_uuid"], d["root_provider_uuid"] = orNull(p.parent), s.root(p).uuid
	}
	return d
}
