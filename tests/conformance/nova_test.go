package conformance

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The compute hosts with a fake driver that both clouds have.
const (
	fakeHost  = "fake1.kiln.test"
	fakeHost3 = "fake3.kiln.test"
)

var newestNova = []string{"OpenStack-API-Version", "compute 2.93"}

func atNova(version string) []string { return []string{"OpenStack-API-Version", "compute " + version} }

// testNova is Nova's part of the suite.
func testNova(t *testing.T, target Target) {
	n := &novaBench{
		admin: login(t, target, "admin", "admin"), member: login(t, target, "demo", "demo"), reader: login(t, target, "demo-reader", "demo"),
	}
	n.image = n.newImage(t)
	list := n.admin.get(t, "compute", "/flavors", newestNova...).want(t, http.StatusOK)
	for i, name := range values(list.list("flavors"), "name") {
		if name == "kiln.tiny" {
			n.tiny = values(list.list("flavors"), "id")[i]
		}
	}
	if n.tiny == "" {
		t.Fatal("no flavor kiln.tiny")
	}
	for name, test := range map[string]func(*testing.T){
		"versions": n.versions, "flavors": n.flavors, "refused creations": n.refusals, "life of a server": n.life, "lists": n.lists,
		"metadata": n.metadata, "actions": n.actions, "no valid host": n.noHost, "projects": n.projects, "hypervisors": n.hypervisors,
		"services": n.services, "aggregates": n.aggregates, "precache": n.precache, "allocation": n.allocation, "gophercloud": n.gophercloud,
	} {
		t.Run(name, test)
	}
}

// novaBench is what the tests share.
type novaBench struct {
	admin, member, reader *session
	image, tiny           string
}

// unique names a thing so that what a killed run left behind is not in the way.
func unique(kind string) string { return "kiln-conformance-" + kind + "-" + uuid.NewString()[:8] }

// newImage makes a small public raw image.
func (n *novaBench) newImage(t *testing.T) string {
	t.Helper()
	made := n.admin.post(t, "image", "/v2/images", map[string]any{
		"name": "kiln-conformance-nova", "disk_format": "raw", "container_format": "bare", "visibility": "public",
	}).want(t, http.StatusCreated)
	id := made.text("id")
	t.Cleanup(func() { n.admin.delete(t, "image", "/v2/images/"+id) })
	n.admin.put(t, "image", "/v2/images/"+id+"/file", make([]byte, 65536)).want(t, http.StatusNoContent)
	return id
}

// server is a body for POST /servers; changes with nil take a field away.
func (n *novaBench) server(changes map[string]any) map[string]any {
	body := map[string]any{"name": "kiln-conformance", "imageRef": n.image, "flavorRef": n.tiny, "networks": "none"}
	for key, value := range changes {
		if value == nil {
			delete(body, key)
		} else {
			body[key] = value
		}
	}
	return map[string]any{"server": body}
}

// boot creates a server, waits for a status, and removes it at the end of the test.
func (n *novaBench) boot(t *testing.T, who *session, status string, changes map[string]any) *reply {
	t.Helper()
	made := who.post(t, "compute", "/servers", n.server(changes), newestNova...).want(t, http.StatusAccepted)
	id := made.text("server.id")
	t.Cleanup(func() { n.remove(t, id) })
	return n.until(t, id, status)
}

// until waits for a status with nothing under way.
func (n *novaBench) until(t *testing.T, id, status string) *reply {
	t.Helper()
	var shown *reply
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		shown = n.admin.get(t, "compute", "/servers/"+id, newestNova...).want(t, http.StatusOK)
		if status == "ERROR" && at(shown.body, "server.fault") == nil {
			continue // a busy Nova writes the fault a moment after the state
		}
		if shown.text("server.status") == status && at(shown.body, "server.OS-EXT-STS:task_state") == nil {
			return shown
		}
	}
	t.Fatalf("server %s never became %s: %s", id, status, short(shown.raw))
	return nil
}

// remove deletes a server and waits until it is gone.
func (n *novaBench) remove(t *testing.T, id string) {
	t.Helper()
	n.admin.delete(t, "compute", "/servers/"+id, newestNova...)
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if n.admin.get(t, "compute", "/servers/"+id).status == http.StatusNotFound {
			return
		}
	}
	t.Errorf("server %s was never gone", id)
}

func (n *novaBench) versions(t *testing.T) {
	root := strings.TrimSuffix(n.admin.catalog["compute"], "/v2.1")
	nobody := &session{catalog: map[string]string{"root": root, "compute": n.admin.catalog["compute"]}}
	nobody.get(t, "root", "/").want(t, http.StatusOK).
		equal(t, "versions.0.id", "v2.0").equal(t, "versions.1.id", "v2.1").equal(t, "versions.1.version", "2.93").
		equal(t, "versions.1.min_version", "2.1").equal(t, "versions.1.status", "CURRENT").
		keys(t, "versions.1", "id status version min_version updated links")
	nobody.get(t, "compute", "/").want(t, http.StatusOK).keys(t, "version", "id status version min_version updated links media-types").
		wantHeader(t, "OpenStack-API-Version", "compute 2.1")

	nobody.get(t, "compute", "/servers").want(t, http.StatusUnauthorized).wantHeader(t, "WWW-Authenticate", "").equal(t, "error.code", 401)
	for version, wanted := range map[string]string{"2.1": "2.1", "2.93": "2.93", "latest": "2.93"} {
		n.admin.get(t, "compute", "/flavors", atNova(version)...).want(t, http.StatusOK).
			wantHeader(t, "OpenStack-API-Version", "compute "+wanted).wantHeader(t, "X-OpenStack-Nova-API-Version", wanted)
	}
	n.admin.get(t, "compute", "/flavors", "X-OpenStack-Nova-API-Version", "2.61").want(t, http.StatusOK).
		wantHeader(t, "OpenStack-API-Version", "compute 2.61")
	n.admin.get(t, "compute", "/flavors").want(t, http.StatusOK).wantHeader(t, "OpenStack-API-Version", "compute 2.1").
		wantHeader(t, "X-Openstack-Request-Id", "").wantHeader(t, "X-Compute-Request-Id", "")
	for _, version := range []string{"2.94", "3.0"} {
		n.admin.get(t, "compute", "/flavors", atNova(version)...).want(t, http.StatusNotAcceptable).
			equal(t, "computeFault.message", "Version "+version+" is not supported by the API. Minimum is 2.1 and maximum is 2.93.").
			wantHeader(t, "OpenStack-API-Version", "compute "+version)
	}
	for _, version := range []string{"abc", "2"} {
		n.admin.get(t, "compute", "/flavors", atNova(version)...).want(t, http.StatusBadRequest).
			equal(t, "badRequest.message", "API Version String "+version+" is of invalid format. Must be of format MajorNum.MinorNum.")
	}
	n.admin.get(t, "compute", "/nosuch").want(t, http.StatusNotFound).keys(t, "", "message code title")
	n.admin.get(t, "compute", "/nosuch", "Accept", "").want(t, http.StatusNotFound).wantHeader(t, "Content-Type", "text/plain; charset=UTF-8")
	n.admin.get(t, "compute", "/"+n.admin.projectID+"/flavors").want(t, http.StatusOK)
}

func (n *novaBench) flavors(t *testing.T) {
	old := "id name ram disk swap OS-FLV-EXT-DATA:ephemeral OS-FLV-DISABLED:disabled vcpus os-flavor-access:is_public rxtx_factor links"
	n.admin.get(t, "compute", "/flavors/"+n.tiny).want(t, http.StatusOK).keys(t, "flavor", old).
		equal(t, "flavor.swap", "").equal(t, "flavor.ram", 128).equal(t, "flavor.vcpus", 1).equal(t, "flavor.disk", 1)
	n.admin.get(t, "compute", "/flavors/"+n.tiny, newestNova...).want(t, http.StatusOK).keys(t, "flavor", old+" description extra_specs").
		equal(t, "flavor.swap", 0)
	n.admin.get(t, "compute", "/flavors", newestNova...).want(t, http.StatusOK).keys(t, "flavors.0", "id name links description")
	n.admin.get(t, "compute", "/flavors/nosuch", newestNova...).want(t, http.StatusNotFound).
		equal(t, "itemNotFound.message", "Flavor nosuch could not be found.")

	name := unique("flavor")
	wish := map[string]any{"name": name, "vcpus": 1, "ram": 64, "disk": 1}
	n.member.post(t, "compute", "/flavors", map[string]any{"flavor": wish}, newestNova...).want(t, http.StatusForbidden).
		equal(t, "forbidden.message", "Policy doesn't allow os_compute_api:os-flavor-manage:create to be performed.")
	made := n.admin.post(t, "compute", "/flavors", map[string]any{"flavor": wish}, newestNova...).want(t, http.StatusOK).
		keys(t, "flavor", old+" description extra_specs")
	path := "/flavors/" + made.text("flavor.id")
	n.admin.post(t, "compute", "/flavors", map[string]any{"flavor": wish}, newestNova...).want(t, http.StatusConflict).
		equal(t, "conflictingRequest.message", "Flavor with name "+name+" already exists.")
	n.admin.post(t, "compute", "/flavors", map[string]any{}, newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "'flavor' is a required property")
	n.admin.delete(t, "compute", path, newestNova...).want(t, http.StatusAccepted)
	n.admin.delete(t, "compute", path, newestNova...).want(t, http.StatusNotFound)
}

func (n *novaBench) hypervisors(t *testing.T) {
	base := "id hypervisor_hostname state status hypervisor_type hypervisor_version host_ip service"
	capacity := " vcpus memory_mb local_gb vcpus_used memory_mb_used local_gb_used free_ram_mb free_disk_gb current_workload running_vms disk_available_least cpu_info"
	find := "/os-hypervisors/detail?hypervisor_hostname_pattern=" + fakeHost
	n.admin.get(t, "compute", find, newestNova...).want(t, http.StatusOK).keys(t, "hypervisors.0", base+" uptime").
		keys(t, "hypervisors.0.service", "id host disabled_reason").equal(t, "hypervisors.0.hypervisor_type", "fake").
		equal(t, "hypervisors.0.state", "up").equal(t, "hypervisors.0.status", "enabled").equal(t, "hypervisors.0.uptime", nil)
	n.admin.get(t, "compute", find, atNova("2.87")...).want(t, http.StatusOK).keys(t, "hypervisors.0", base+capacity)
	n.admin.get(t, "compute", find+"&with_servers=true", newestNova...).want(t, http.StatusOK).keys(t, "hypervisors.0", base+" uptime servers")
	old := n.admin.get(t, "compute", "/os-hypervisors/detail").want(t, http.StatusOK).keys(t, "hypervisors.0", base+capacity)
	if old.number("hypervisors.0.id") == 0 {
		t.Errorf("below 2.53 an id is a number: %s", short(old.raw))
	}
	listed := n.admin.get(t, "compute", "/os-hypervisors", newestNova...).want(t, http.StatusOK).keys(t, "hypervisors.0", "id hypervisor_hostname state status")
	one := n.admin.get(t, "compute", "/os-hypervisors/"+listed.text("hypervisors.0.id"), newestNova...).want(t, http.StatusOK)
	one.equal(t, "hypervisor.hypervisor_hostname", listed.text("hypervisors.0.hypervisor_hostname"))
	providers := n.admin.get(t, "placement", "/resource_providers?name="+fakeHost).want(t, http.StatusOK)
	found := n.admin.get(t, "compute", find, newestNova...)
	if providers.text("resource_providers.0.uuid") != found.text("hypervisors.0.id") {
		t.Errorf("the hypervisor %s is not the provider %s", found.text("hypervisors.0.id"), providers.text("resource_providers.0.uuid"))
	}
	n.admin.get(t, "compute", "/os-hypervisors/00000000-0000-0000-0000-000000000000", newestNova...).want(t, http.StatusNotFound).
		equal(t, "itemNotFound.message", "Hypervisor with ID '00000000-0000-0000-0000-000000000000' could not be found.")
	n.admin.get(t, "compute", "/os-hypervisors?hypervisor_hostname_pattern=zzz", newestNova...).want(t, http.StatusNotFound)
	n.member.get(t, "compute", "/os-hypervisors/detail", newestNova...).want(t, http.StatusForbidden).
		equal(t, "forbidden.message", "Policy doesn't allow os_compute_api:os-hypervisors:list-detail to be performed.")
	n.admin.get(t, "compute", "/limits", newestNova...).want(t, http.StatusOK).
		keys(t, "limits.absolute", `maxTotalInstances maxTotalCores maxTotalRAMSize maxServerMeta maxTotalKeypairs maxServerGroups
			maxServerGroupMembers totalRAMUsed totalCoresUsed totalInstancesUsed totalServerGroupsUsed`)
}

func (n *novaBench) services(t *testing.T) {
	listed := n.admin.get(t, "compute", "/os-services?binary=nova-compute&host="+fakeHost3, newestNova...).want(t, http.StatusOK).
		keys(t, "services.0", "id binary host zone status state updated_at disabled_reason forced_down").equal(t, "services.0.zone", "nova")
	n.admin.get(t, "compute", "/os-services?binary=nova-conductor", newestNova...).want(t, http.StatusOK).equal(t, "services.0.zone", "internal")
	n.admin.get(t, "compute", "/os-services").want(t, http.StatusOK).keys(t, "services.0", "id binary host zone status state updated_at disabled_reason")
	path := "/os-services/" + listed.text("services.0.id")
	t.Cleanup(func() { n.admin.put(t, "compute", path, map[string]any{"status": "enabled"}, newestNova...) })
	n.admin.put(t, "compute", path, map[string]any{"status": "disabled", "disabled_reason": "test"}, newestNova...).want(t, http.StatusOK).
		equal(t, "service.status", "disabled").equal(t, "service.disabled_reason", "test").equal(t, "service.host", fakeHost3)
	failed := n.boot(t, n.admin, "ERROR", map[string]any{"host": fakeHost3})
	failed.equal(t, "server.fault.message", "No valid host was found. ")
	n.admin.put(t, "compute", path, map[string]any{"status": "bogus"}, newestNova...).want(t, http.StatusBadRequest)
	n.admin.put(t, "compute", path, map[string]any{"status": "enabled"}, newestNova...).want(t, http.StatusOK).equal(t, "service.disabled_reason", nil)
	n.member.put(t, "compute", path, map[string]any{"status": "enabled"}, newestNova...).want(t, http.StatusForbidden)
	n.admin.put(t, "compute", "/os-services/11111111-2222-3333-4444-555555555555", map[string]any{"status": "enabled"}, newestNova...).
		want(t, http.StatusNotFound).equal(t, "itemNotFound.message", "Service 11111111-2222-3333-4444-555555555555 could not be found.")
}
