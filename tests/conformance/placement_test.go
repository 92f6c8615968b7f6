package conformance

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

const placementLatest = "1.39"

func testPlacement(t *testing.T, target Target) {
	kiln := &placementUser{login(t, target, "kiln", "service")}
	for _, part := range []struct {
		name string
		test func(t *testing.T, p *placementUser)
	}{
		{"root and versions", placementVersions}, {"policy", placementPolicy}, {"providers", placementProviders},
		{"inventories", placementInventories}, {"claims", placementClaims}, {"capacity", placementCapacity},
		{"many consumers", placementMany}, {"usages", placementUsages}, {"traits", placementTraits},
		{"aggregates", placementAggregates}, {"classes", placementClasses}, {"candidates", placementCandidates},
		{"old microversions", placementOld},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, kiln) })
	}
}

// placementUser asks with a microversion.
type placementUser struct{ *session }

func (p *placementUser) ask(t *testing.T, method, path string, body any) *reply {
	t.Helper()
	return p.at(t, placementLatest, method, path, body)
}

func (p *placementUser) at(t *testing.T, version, method, path string, body any) *reply {
	t.Helper()
	return p.call(t, method, "placement", path, body, "OpenStack-API-Version", "placement "+version)
}

// provider makes a root provider that goes away with the test.
func (p *placementUser) provider(t *testing.T) (id, name string) {
	t.Helper()
	name = "conformance-" + uuid.NewString()
	id = p.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": name}).want(t, http.StatusOK).text("uuid")
	t.Cleanup(func() { p.ask(t, http.MethodDelete, "/resource_providers/"+id, nil) })
	return id, name
}

// stocked is a provider with 4 VCPU at ratio 2 and 1000 MB, of which 100 are reserved and 10 are the step.
func (p *placementUser) stocked(t *testing.T) string {
	t.Helper()
	id, _ := p.provider(t)
	p.ask(t, http.MethodPut, "/resource_providers/"+id+"/inventories", map[string]any{"resource_provider_generation": 0, "inventories": map[string]any{
		"VCPU":      map[string]any{"total": 4, "allocation_ratio": 2.0, "max_unit": 4},
		"MEMORY_MB": map[string]any{"total": 1000, "reserved": 100, "step_size": 10, "min_unit": 20},
	}}).want(t, http.StatusOK)
	return id
}

func (p *placementUser) consumer(t *testing.T) string {
	t.Helper()
	id := uuid.NewString()
	t.Cleanup(func() { p.ask(t, http.MethodDelete, "/allocations/"+id, nil) })
	return id
}

func claim(provider string, generation any, resources map[string]int) map[string]any {
	return map[string]any{"allocations": map[string]any{provider: map[string]any{"resources": resources}},
		"project_id": "conformance", "user_id": "somebody", "consumer_generation": generation, "consumer_type": "INSTANCE"}
}

// placementError checks Placement's error body.
func placementError(t *testing.T, r *reply, status int, code string) *reply {
	t.Helper()
	r.want(t, status)
	r.keys(t, "", "errors").keys(t, "errors.0", "code detail request_id status title").equal(t, "errors.0.status", status).equal(t, "errors.0.code", code)
	if !strings.HasPrefix(r.text("errors.0.request_id"), "req-") || r.text("errors.0.request_id") != r.header.Get("X-Openstack-Request-Id") {
		t.Errorf("%s: request id %q in the body, %q in the header", r.what, r.text("errors.0.request_id"), r.header.Get("X-Openstack-Request-Id"))
	}
	return r
}

func placementVersions(t *testing.T, p *placementUser) {
	r := p.get(t, "placement", "/", "X-Auth-Token", "").want(t, http.StatusOK)
	r.keys(t, "versions.0", "id max_version min_version status links").equal(t, "versions.0.min_version", "1.0").equal(t, "versions.0.id", "v1.0")
	r.equal(t, "versions.0.max_version", placementLatest)
	r = p.ask(t, http.MethodGet, "/resource_providers", nil).want(t, http.StatusOK)
	r.wantHeader(t, "Openstack-Api-Version", "placement "+placementLatest).wantHeader(t, "Cache-Control", "no-cache").wantHeader(t, "Last-Modified", "")
	p.get(t, "placement", "/resource_providers").want(t, http.StatusOK).wantHeader(t, "Openstack-Api-Version", "placement 1.0")
	p.at(t, "latest", http.MethodGet, "/resource_providers", nil).want(t, http.StatusOK).wantHeader(t, "Openstack-Api-Version", "placement "+placementLatest)
	r = p.at(t, "1.99", http.MethodGet, "/resource_providers", nil).want(t, http.StatusNotAcceptable)
	r.equal(t, "errors.0.max_version", placementLatest).equal(t, "errors.0.min_version", "1.0").contains(t, "errors.0.detail", "Unacceptable version header: 1.99")
	p.at(t, "one", http.MethodGet, "/resource_providers", nil).want(t, http.StatusBadRequest).contains(t, "errors.0.detail", "invalid version string: one")
	placementError(t, p.ask(t, http.MethodGet, "/nothing", nil), http.StatusNotFound, "placement.undefined_code")
	for accept, want := range map[string]string{"": "application/json", "*/*": "application/json", "application/json, */*": "text/html; charset=UTF-8"} {
		p.get(t, "placement", "/resource_providers/none", "Accept", accept).want(t, http.StatusNotFound).wantHeader(t, "Content-Type", want)
	}
}

func placementPolicy(t *testing.T, p *placementUser) {
	member := &placementUser{login(t, p.target, "demo", "demo")}
	placementError(t, member.ask(t, http.MethodGet, "/resource_providers", nil), http.StatusForbidden, "placement.undefined_code").
		contains(t, "errors.0.detail", "Policy does not allow placement:resource_providers:list to be performed.")
	placementError(t, member.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": "x"}), http.StatusForbidden, "placement.undefined_code")
	r := member.get(t, "placement", "/resource_providers", "X-Auth-Token", "").want(t, http.StatusUnauthorized)
	r.wantHeader(t, "WWW-Authenticate", `Keystone uri="`+p.target.AuthURL+`"`).keys(t, "error", "code message title").equal(t, "error.title", "Unauthorized")
	member.get(t, "placement", "/resource_providers", "X-Auth-Token", "gAAAAABforged").want(t, http.StatusUnauthorized)
}

func placementProviders(t *testing.T, p *placementUser) {
	id, name := p.provider(t)
	r := p.ask(t, http.MethodGet, "/resource_providers/"+id, nil).want(t, http.StatusOK)
	r.keys(t, "", "uuid name generation links parent_provider_uuid root_provider_uuid").equal(t, "generation", 0)
	r.equal(t, "root_provider_uuid", id).equal(t, "parent_provider_uuid", nil)
	if rels := sortedValues(r.list("links"), "rel"); !slices.Equal(rels, []string{"aggregates", "allocations", "inventories", "self", "traits", "usages"}) {
		t.Errorf("links: %v", rels)
	}
	for _, query := range []string{"?name=" + name, "?uuid=" + id, "?in_tree=" + id} {
		p.ask(t, http.MethodGet, "/resource_providers"+query, nil).want(t, http.StatusOK).equal(t, "resource_providers.0.uuid", id).equal(t, "resource_providers.1", nil)
	}
	placementError(t, p.ask(t, http.MethodGet, "/resource_providers?colour=red", nil), http.StatusBadRequest, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": name}), http.StatusConflict, "placement.duplicate_name").
		contains(t, "errors.0.detail", "Conflicting resource provider name: "+name+" already exists.")
	placementError(t, p.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": name + "x", "uuid": id}), http.StatusConflict, "placement.duplicate_name").
		contains(t, "errors.0.detail", "Conflicting resource provider uuid: "+id+" already exists.")
	placementError(t, p.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": "x", "colour": "red"}), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "JSON does not validate")
	placementError(t, p.ask(t, http.MethodPost, "/resource_providers", "{"), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "Malformed JSON")
	placementError(t, p.ask(t, http.MethodGet, "/resource_providers/"+uuid.NewString(), nil), http.StatusNotFound, "placement.undefined_code").
		contains(t, "errors.0.detail", "No resource provider with uuid ")

	child := p.ask(t, http.MethodPost, "/resource_providers", map[string]any{"name": name + "-child", "parent_provider_uuid": id}).want(t, http.StatusOK)
	child.equal(t, "parent_provider_uuid", id).equal(t, "root_provider_uuid", id)
	placementError(t, p.ask(t, http.MethodDelete, "/resource_providers/"+id, nil), http.StatusConflict, "placement.resource_provider.cannot_delete_parent")
	p.ask(t, http.MethodDelete, "/resource_providers/"+child.text("uuid"), nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodPut, "/resource_providers/"+id, map[string]any{"name": name + "-new"}).want(t, http.StatusOK).equal(t, "name", name+"-new").equal(t, "generation", 0)
	p.ask(t, http.MethodDelete, "/resource_providers/"+id, nil).want(t, http.StatusNoContent)
	placementError(t, p.ask(t, http.MethodDelete, "/resource_providers/"+id, nil), http.StatusNotFound, "placement.undefined_code")
}

func placementInventories(t *testing.T, p *placementUser) {
	id, _ := p.provider(t)
	all := "/resource_providers/" + id + "/inventories"
	r := p.ask(t, http.MethodPut, all, map[string]any{"resource_provider_generation": 0, "inventories": map[string]any{"VCPU": map[string]any{"total": 4}}}).want(t, http.StatusOK)
	r.keys(t, "", "resource_provider_generation inventories").equal(t, "resource_provider_generation", 1)
	r.equal(t, "inventories.VCPU", map[string]any{"total": 4, "reserved": 0, "min_unit": 1, "max_unit": 2147483647, "step_size": 1, "allocation_ratio": 1.0})
	placementError(t, p.ask(t, http.MethodPut, all, map[string]any{"resource_provider_generation": 0, "inventories": map[string]any{}}), http.StatusConflict, "placement.concurrent_update").
		contains(t, "errors.0.detail", "resource provider generation conflict")
	r = p.ask(t, http.MethodPost, all, map[string]any{"resource_class": "DISK_GB", "total": 10}).want(t, http.StatusCreated)
	r.equal(t, "resource_provider_generation", 2).equal(t, "total", 10)
	if !strings.HasSuffix(r.header.Get("Location"), all+"/DISK_GB") {
		t.Errorf("Location: %s", r.header.Get("Location"))
	}
	placementError(t, p.ask(t, http.MethodPost, all, map[string]any{"resource_class": "DISK_GB", "total": 10}), http.StatusConflict, "placement.concurrent_update")
	placementError(t, p.ask(t, http.MethodPost, all, map[string]any{"resource_class": "CUSTOM_NONE_SUCH", "total": 10}), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "No such resource class CUSTOM_NONE_SUCH.")
	p.ask(t, http.MethodPut, all+"/DISK_GB", map[string]any{"resource_provider_generation": 2, "total": 20, "reserved": 20}).want(t, http.StatusOK).
		equal(t, "resource_provider_generation", 3).equal(t, "reserved", 20)
	placementError(t, p.ask(t, http.MethodPut, all+"/DISK_GB", map[string]any{"resource_provider_generation": 3, "total": 20, "reserved": 21}), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "The reserved value is greater than total.")
	placementError(t, p.ask(t, http.MethodPut, all+"/MEMORY_MB", map[string]any{"resource_provider_generation": 3, "total": 20}), http.StatusBadRequest, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodPut, all, map[string]any{"resource_provider_generation": 3, "inventories": map[string]any{"VCPU": map[string]any{"total": 0}}}), http.StatusBadRequest, "placement.undefined_code")
	p.ask(t, http.MethodGet, all+"/VCPU", nil).want(t, http.StatusOK).equal(t, "resource_provider_generation", 3).equal(t, "total", 4)
	placementError(t, p.ask(t, http.MethodGet, all+"/MEMORY_MB", nil), http.StatusNotFound, "placement.undefined_code").
		contains(t, "errors.0.detail", "No inventory of class MEMORY_MB for "+id)
	p.ask(t, http.MethodDelete, all+"/DISK_GB", nil).want(t, http.StatusNoContent)
	placementError(t, p.ask(t, http.MethodDelete, all+"/DISK_GB", nil), http.StatusNotFound, "placement.undefined_code")
	p.ask(t, http.MethodDelete, all, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, all, nil).want(t, http.StatusOK).equal(t, "inventories", map[string]any{}).equal(t, "resource_provider_generation", 5)
}

func placementClaims(t *testing.T, p *placementUser) {
	id, who := p.stocked(t), p.consumer(t)
	path := "/allocations/" + who
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"allocations": map[string]any{}})
	p.ask(t, http.MethodPut, path, claim(id, nil, map[string]int{"VCPU": 2, "MEMORY_MB": 100})).want(t, http.StatusNoContent)
	r := p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK)
	r.keys(t, "", "allocations project_id user_id consumer_generation consumer_type").equal(t, "consumer_generation", 1).equal(t, "consumer_type", "INSTANCE")
	r.equal(t, "allocations."+id, map[string]any{"generation": 2, "resources": map[string]int{"VCPU": 2, "MEMORY_MB": 100}})

	// Who thinks that the consumer is new, or has seen another generation, is told to look again.
	placementError(t, p.ask(t, http.MethodPut, path, claim(id, nil, map[string]int{"VCPU": 1})), http.StatusConflict, "placement.concurrent_update").
		contains(t, "errors.0.detail", "consumer generation conflict - expected 1 but got None")
	placementError(t, p.ask(t, http.MethodPut, path, claim(id, 7, map[string]int{"VCPU": 1})), http.StatusConflict, "placement.concurrent_update").
		contains(t, "errors.0.detail", "consumer generation conflict - expected 1 but got 7")
	placementError(t, p.ask(t, http.MethodPut, "/allocations/"+uuid.NewString(), claim(id, 1, map[string]int{"VCPU": 1})), http.StatusConflict, "placement.concurrent_update").
		contains(t, "errors.0.detail", "consumer generation conflict - expected null but got 1")
	p.ask(t, http.MethodPut, path, claim(id, 1, map[string]int{"VCPU": 3})).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "consumer_generation", 2).equal(t, "allocations."+id+".resources", map[string]int{"VCPU": 3})

	placementError(t, p.ask(t, http.MethodDelete, "/resource_providers/"+id, nil), http.StatusConflict, "placement.resource_provider.inuse")
	placementError(t, p.ask(t, http.MethodPut, "/resource_providers/"+id+"/inventories", map[string]any{"resource_provider_generation": 3, "inventories": map[string]any{}}), http.StatusConflict, "placement.inventory.inuse").
		contains(t, "errors.0.detail", "Inventory for 'VCPU' on resource provider '"+id+"' in use.")
	placementError(t, p.ask(t, http.MethodDelete, "/resource_providers/"+id+"/inventories/VCPU", nil), http.StatusConflict, "placement.concurrent_update")
	r = p.ask(t, http.MethodGet, "/resource_providers/"+id+"/allocations", nil).want(t, http.StatusOK)
	r.equal(t, "", map[string]any{"resource_provider_generation": 3, "allocations": map[string]any{who: map[string]any{"consumer_generation": 2, "resources": map[string]int{"VCPU": 3}}}})

	empty := claim(id, 2, nil)
	empty["allocations"] = map[string]any{}
	p.ask(t, http.MethodPut, path, empty).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"allocations": map[string]any{}})
	p.ask(t, http.MethodPut, path, claim(id, nil, map[string]int{"VCPU": 1})).want(t, http.StatusNoContent)
	before := p.ask(t, http.MethodGet, "/resource_providers/"+id, nil).number("generation")
	p.ask(t, http.MethodDelete, path, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, "/resource_providers/"+id, nil).equal(t, "generation", before)
	placementError(t, p.ask(t, http.MethodDelete, path, nil), http.StatusNotFound, "placement.undefined_code").
		contains(t, "errors.0.detail", "No allocations for consumer '"+who+"'")
}

func placementCapacity(t *testing.T, p *placementUser) {
	id, who := p.stocked(t), p.consumer(t)
	path := "/allocations/" + who
	for name, c := range map[string]struct {
		resources map[string]int
		detail    string
	}{
		"over max_unit":     {map[string]int{"VCPU": 5}, "The requested amount would violate inventory constraints."},
		"under min_unit":    {map[string]int{"MEMORY_MB": 10}, "The requested amount would violate inventory constraints."},
		"between two steps": {map[string]int{"MEMORY_MB": 105}, "The requested amount would violate inventory constraints."},
		"into the reserve":  {map[string]int{"MEMORY_MB": 910}, "The requested amount would exceed the capacity."},
		"no such inventory": {map[string]int{"DISK_GB": 1}, "Inventory for 'DISK_GB' on resource provider '" + id + "' invalid."},
	} {
		t.Run(name, func(t *testing.T) {
			placementError(t, p.ask(t, http.MethodPut, path, claim(id, nil, c.resources)), http.StatusConflict, "placement.undefined_code").
				contains(t, "errors.0.detail", c.detail)
		})
	}
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"allocations": map[string]any{}})
	// 4 VCPU at ratio 2 are 8: two consumers with 4, and no third with 1.
	for range 2 {
		p.ask(t, http.MethodPut, "/allocations/"+p.consumer(t), claim(id, nil, map[string]int{"VCPU": 4})).want(t, http.StatusNoContent)
	}
	placementError(t, p.ask(t, http.MethodPut, path, claim(id, nil, map[string]int{"VCPU": 1})), http.StatusConflict, "placement.undefined_code").
		contains(t, "errors.0.detail", "Unable to create allocation for 'VCPU' on resource provider '"+id+"'. The requested amount would exceed the capacity.")

	for name, change := range map[string]func(map[string]any){
		"unknown provider": func(c map[string]any) {
			c["allocations"] = map[string]any{uuid.NewString(): map[string]any{"resources": map[string]int{"VCPU": 1}}}
		},
		"unknown class": func(c map[string]any) {
			c["allocations"] = map[string]any{id: map[string]any{"resources": map[string]int{"CUSTOM_NONE_SUCH": 1}}}
		},
		"nothing asked": func(c map[string]any) {
			c["allocations"] = map[string]any{id: map[string]any{"resources": map[string]int{}}}
		},
		"amount of 0": func(c map[string]any) {
			c["allocations"] = map[string]any{id: map[string]any{"resources": map[string]int{"VCPU": 0}}}
		},
		"no generation":  func(c map[string]any) { delete(c, "consumer_generation") },
		"no type":        func(c map[string]any) { delete(c, "consumer_type") },
		"type in small":  func(c map[string]any) { c["consumer_type"] = "instance" },
		"no project":     func(c map[string]any) { delete(c, "project_id") },
		"no allocations": func(c map[string]any) { delete(c, "allocations") },
		"unknown key":    func(c map[string]any) { c["colour"] = "red" },
	} {
		t.Run(name, func(t *testing.T) {
			c := claim(id, nil, map[string]int{"VCPU": 1})
			change(c)
			placementError(t, p.ask(t, http.MethodPut, "/allocations/"+uuid.NewString(), c), http.StatusBadRequest, "placement.undefined_code")
		})
	}
	// A claim on an unknown provider leaves a consumer of generation 0 behind, and null is wrong from then on.
	lost, leaked := uuid.NewString(), "/allocations/"+p.consumer(t)
	placementError(t, p.ask(t, http.MethodPut, leaked, claim(lost, nil, map[string]int{"VCPU": 1})), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "Allocation for resource provider '"+lost+"' that does not exist.")
	placementError(t, p.ask(t, http.MethodPut, leaked, claim(id, nil, map[string]int{"MEMORY_MB": 20})), http.StatusConflict, "placement.concurrent_update").
		contains(t, "errors.0.detail", "expected 0 but got None")
	p.ask(t, http.MethodGet, leaked, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"allocations": map[string]any{}})
	p.ask(t, http.MethodPut, leaked, claim(id, 0, map[string]int{"MEMORY_MB": 20})).want(t, http.StatusNoContent)
	placementError(t, p.ask(t, http.MethodPut, "/allocations/not-a-uuid", claim(id, nil, map[string]int{"VCPU": 1})), http.StatusBadRequest, "placement.undefined_code")
}

// placementMany: POST /allocations is all or nothing.
func placementMany(t *testing.T, p *placementUser) {
	id, one, two := p.stocked(t), p.consumer(t), p.consumer(t)
	both := func(a, b int, generation any) map[string]any {
		return map[string]any{one: claim(id, generation, map[string]int{"VCPU": a}), two: claim(id, generation, map[string]int{"VCPU": b})}
	}
	p.ask(t, http.MethodPost, "/allocations", both(4, 4, nil)).want(t, http.StatusNoContent)
	third := p.consumer(t)
	placementError(t, p.ask(t, http.MethodPost, "/allocations", map[string]any{third: claim(id, nil, map[string]int{"VCPU": 1})}), http.StatusConflict, "placement.undefined_code")
	move := both(4, 1, 1)
	delete(move, two)
	gone := claim(id, 1, nil)
	gone["allocations"] = map[string]any{}
	move[two], move[third] = gone, claim(id, nil, map[string]int{"VCPU": 4})
	p.ask(t, http.MethodPost, "/allocations", move).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, "/allocations/"+two, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"allocations": map[string]any{}})
	p.ask(t, http.MethodGet, "/resource_providers/"+id+"/usages", nil).want(t, http.StatusOK).equal(t, "usages.VCPU", 8)
	placementError(t, p.ask(t, http.MethodPost, "/allocations", map[string]any{}), http.StatusBadRequest, "placement.undefined_code")
}

func placementUsages(t *testing.T, p *placementUser) {
	id, who, cache := p.stocked(t), p.consumer(t), p.consumer(t)
	project := "conformance-" + uuid.NewString()
	for consumer, kind := range map[string]string{who: "INSTANCE", cache: "IMAGE_CACHE"} {
		c := claim(id, nil, map[string]int{"VCPU": 1})
		c["project_id"], c["consumer_type"] = project, kind
		p.ask(t, http.MethodPut, "/allocations/"+consumer, c).want(t, http.StatusNoContent)
	}
	p.ask(t, http.MethodGet, "/resource_providers/"+id+"/usages", nil).want(t, http.StatusOK).
		equal(t, "", map[string]any{"resource_provider_generation": 3, "usages": map[string]int{"VCPU": 2, "MEMORY_MB": 0}})
	p.ask(t, http.MethodGet, "/usages?project_id="+project, nil).want(t, http.StatusOK).equal(t, "usages", map[string]any{
		"INSTANCE": map[string]int{"VCPU": 1, "consumer_count": 1}, "IMAGE_CACHE": map[string]int{"VCPU": 1, "consumer_count": 1}})
	p.ask(t, http.MethodGet, "/usages?project_id="+project+"&consumer_type=IMAGE_CACHE", nil).want(t, http.StatusOK).
		equal(t, "usages", map[string]any{"IMAGE_CACHE": map[string]int{"VCPU": 1, "consumer_count": 1}})
	p.ask(t, http.MethodGet, "/usages?project_id="+project+"&consumer_type=all", nil).want(t, http.StatusOK).
		equal(t, "usages", map[string]any{"all": map[string]int{"VCPU": 2, "consumer_count": 2}})
	p.at(t, "1.37", http.MethodGet, "/usages?project_id="+project, nil).want(t, http.StatusOK).equal(t, "usages", map[string]int{"VCPU": 2})
	placementError(t, p.ask(t, http.MethodGet, "/usages", nil), http.StatusBadRequest, "placement.undefined_code")
}

func placementTraits(t *testing.T, p *placementUser) {
	id, _ := p.provider(t)
	trait := "CUSTOM_" + strings.ToUpper(strings.ReplaceAll(uuid.NewString(), "-", "_"))
	t.Cleanup(func() { p.ask(t, http.MethodDelete, "/traits/"+trait, nil) })
	path := "/resource_providers/" + id + "/traits"
	placementError(t, p.ask(t, http.MethodPut, path, map[string]any{"resource_provider_generation": 0, "traits": []string{trait}}), http.StatusBadRequest, "placement.undefined_code").
		contains(t, "errors.0.detail", "No such trait "+trait)
	p.ask(t, http.MethodPut, "/traits/"+trait, nil).want(t, http.StatusCreated)
	p.ask(t, http.MethodPut, "/traits/"+trait, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, "/traits/"+trait, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, "/traits?name=in:"+trait+",COMPUTE_STATUS_DISABLED", nil).want(t, http.StatusOK)
	p.ask(t, http.MethodGet, "/traits?name=startswith:"+trait, nil).want(t, http.StatusOK).equal(t, "traits", []string{trait})
	r := p.ask(t, http.MethodPut, path, map[string]any{"resource_provider_generation": 0, "traits": []string{trait}}).want(t, http.StatusOK)
	r.equal(t, "", map[string]any{"traits": []string{trait}, "resource_provider_generation": 1})
	p.ask(t, http.MethodPut, path, map[string]any{"resource_provider_generation": 1, "traits": []string{trait}}).want(t, http.StatusOK).
		equal(t, "resource_provider_generation", 1)
	placementError(t, p.ask(t, http.MethodPut, path, map[string]any{"resource_provider_generation": 0, "traits": []string{}}), http.StatusConflict, "placement.concurrent_update")
	p.ask(t, http.MethodGet, "/resource_providers?required="+trait, nil).want(t, http.StatusOK).equal(t, "resource_providers.0.uuid", id)
	placementError(t, p.ask(t, http.MethodDelete, "/traits/"+trait, nil), http.StatusConflict, "placement.undefined_code")
	p.ask(t, http.MethodDelete, path, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"traits": []string{}, "resource_provider_generation": 2})
	placementError(t, p.ask(t, http.MethodPut, "/traits/NOT_CUSTOM", nil), http.StatusBadRequest, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodGet, "/traits/CUSTOM_NONE_SUCH", nil), http.StatusNotFound, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodDelete, "/traits/COMPUTE_STATUS_DISABLED", nil), http.StatusBadRequest, "placement.undefined_code")
}

func placementAggregates(t *testing.T, p *placementUser) {
	id, _ := p.provider(t)
	path, group := "/resource_providers/"+id+"/aggregates", uuid.NewString()
	p.ask(t, http.MethodGet, path, nil).want(t, http.StatusOK).equal(t, "", map[string]any{"aggregates": []string{}, "resource_provider_generation": 0})
	p.ask(t, http.MethodPut, path, map[string]any{"aggregates": []string{group}, "resource_provider_generation": 0}).want(t, http.StatusOK).
		equal(t, "", map[string]any{"aggregates": []string{group}, "resource_provider_generation": 1})
	placementError(t, p.ask(t, http.MethodPut, path, map[string]any{"aggregates": []string{group}, "resource_provider_generation": 0}), http.StatusConflict, "placement.concurrent_update")
	for _, query := range []string{"?member_of=" + group, "?member_of=in:" + group + "," + uuid.NewString()} {
		p.ask(t, http.MethodGet, "/resource_providers"+query, nil).want(t, http.StatusOK).equal(t, "resource_providers.0.uuid", id).equal(t, "resource_providers.1", nil)
	}
}

func placementClasses(t *testing.T, p *placementUser) {
	class := "CUSTOM_" + strings.ToUpper(strings.ReplaceAll(uuid.NewString(), "-", "_"))
	t.Cleanup(func() { p.ask(t, http.MethodDelete, "/resource_classes/"+class, nil) })
	p.ask(t, http.MethodPut, "/resource_classes/"+class, nil).want(t, http.StatusCreated)
	p.ask(t, http.MethodPut, "/resource_classes/"+class, nil).want(t, http.StatusNoContent)
	p.ask(t, http.MethodGet, "/resource_classes/"+class, nil).want(t, http.StatusOK).keys(t, "", "name links").equal(t, "name", class)
	if names := values(p.ask(t, http.MethodGet, "/resource_classes", nil).want(t, http.StatusOK).list("resource_classes"), "name"); !slices.Contains(names, "VCPU") || !slices.Contains(names, class) {
		t.Errorf("classes: %v", names)
	}
	placementError(t, p.ask(t, http.MethodPut, "/resource_classes/NOT_CUSTOM", nil), http.StatusBadRequest, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodGet, "/resource_classes/CUSTOM_NONE_SUCH", nil), http.StatusNotFound, "placement.undefined_code")
	placementError(t, p.ask(t, http.MethodDelete, "/resource_classes/VCPU", nil), http.StatusBadRequest, "placement.undefined_code")
	p.ask(t, http.MethodDelete, "/resource_classes/"+class, nil).want(t, http.StatusNoContent)
}

func placementCandidates(t *testing.T, p *placementUser) {
	id, group := p.stocked(t), uuid.NewString()
	p.ask(t, http.MethodPut, "/resource_providers/"+id+"/aggregates", map[string]any{"aggregates": []string{group}, "resource_provider_generation": 1}).want(t, http.StatusOK)
	ask := func(query string) *reply {
		return p.ask(t, http.MethodGet, "/allocation_candidates?member_of="+group+"&"+query, nil)
	}
	r := ask("resources=VCPU:2,MEMORY_MB:100").want(t, http.StatusOK)
	r.keys(t, "", "allocation_requests provider_summaries")
	r.equal(t, "allocation_requests", []any{map[string]any{"mappings": map[string]any{"": []string{id}},
		"allocations": map[string]any{id: map[string]any{"resources": map[string]int{"VCPU": 2, "MEMORY_MB": 100}}}}})
	r.equal(t, "provider_summaries."+id, map[string]any{"traits": []string{}, "parent_provider_uuid": nil, "root_provider_uuid": id,
		"resources": map[string]any{"VCPU": map[string]int{"capacity": 8, "used": 0}, "MEMORY_MB": map[string]int{"capacity": 900, "used": 0}}})
	nothing := map[string]any{"allocation_requests": []any{}, "provider_summaries": map[string]any{}}
	for _, query := range []string{"resources=VCPU:5", "resources=MEMORY_MB:910", "resources=VCPU:1&required=COMPUTE_STATUS_DISABLED", "resources=DISK_GB:1"} {
		ask(query).want(t, http.StatusOK).equal(t, "", nothing)
	}
	ask("resources=VCPU:1&required=!COMPUTE_STATUS_DISABLED&limit=1&in_tree="+id).want(t, http.StatusOK).keys(t, "provider_summaries", id)
	for _, query := range []string{"resources=NONE:1", "resources=VCPU:none", "resources=VCPU:0", "resources=VCPU:1&required=NO_SUCH_TRAIT", "resources=VCPU:1&limit=0", "colour=red", "limit=1"} {
		placementError(t, ask(query), http.StatusBadRequest, at(ask(query).body, "errors.0.code").(string))
	}
	who := p.consumer(t)
	p.ask(t, http.MethodPut, "/allocations/"+who, claim(id, nil, map[string]int{"VCPU": 4})).want(t, http.StatusNoContent)
	ask("resources=VCPU:4").want(t, http.StatusOK).equal(t, "provider_summaries."+id+".resources.VCPU.used", 4)
}

func placementOld(t *testing.T, p *placementUser) {
	id, who := p.stocked(t), p.consumer(t)
	old := claim(id, nil, map[string]int{"VCPU": 1})
	delete(old, "consumer_generation")
	delete(old, "consumer_type")
	p.at(t, "1.12", http.MethodPut, "/allocations/"+who, old).want(t, http.StatusNoContent)
	p.at(t, "1.12", http.MethodGet, "/allocations/"+who, nil).want(t, http.StatusOK).keys(t, "", "allocations project_id user_id")
	p.ask(t, http.MethodGet, "/allocations/"+who, nil).want(t, http.StatusOK).equal(t, "consumer_type", "unknown")
	r := p.at(t, "1.22", http.MethodGet, "/resource_providers/"+uuid.NewString(), nil).want(t, http.StatusNotFound)
	r.keys(t, "errors.0", "detail request_id status title")
	p.at(t, "1.4", http.MethodDelete, "/resource_providers/"+id+"/inventories", nil).want(t, http.StatusMethodNotAllowed)
	p.at(t, "1.5", http.MethodGet, "/traits", nil).want(t, http.StatusNotFound)
	r = p.at(t, "1.19", http.MethodPost, "/resource_providers", map[string]any{"name": "conformance-" + uuid.NewString()}).want(t, http.StatusCreated)
	if len(r.raw) != 0 {
		t.Errorf("below 1.20 there is no body: %s", r.raw)
	}
	_, made, _ := strings.Cut(r.header.Get("Location"), "/resource_providers/")
	p.ask(t, http.MethodDelete, "/resource_providers/"+made, nil).want(t, http.StatusNoContent)
	p.at(t, "1.13", http.MethodGet, "/resource_providers/"+id, nil).want(t, http.StatusOK).keys(t, "", "uuid name generation links")
}
