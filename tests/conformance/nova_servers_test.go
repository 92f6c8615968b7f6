package conformance

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Keys of a server: what everybody sees at 2.1, what came until 2.93, and what only an admin sees.
const (
	serverKeys = `id name status tenant_id user_id metadata hostId image flavor created updated addresses accessIPv4 accessIPv6 links
		OS-DCF:diskConfig progress OS-EXT-AZ:availability_zone config_drive key_name OS-SRV-USG:launched_at OS-SRV-USG:terminated_at
		OS-EXT-STS:task_state OS-EXT-STS:vm_state OS-EXT-STS:power_state os-extended-volumes:volumes_attached`
	newerServerKeys = ` locked locked_reason description tags trusted_image_certificates server_groups OS-EXT-SRV-ATTR:hostname`
	adminKeys       = ` OS-EXT-SRV-ATTR:host OS-EXT-SRV-ATTR:instance_name OS-EXT-SRV-ATTR:hypervisor_hostname`
	newerAdminKeys  = ` OS-EXT-SRV-ATTR:reservation_id OS-EXT-SRV-ATTR:launch_index OS-EXT-SRV-ATTR:kernel_id OS-EXT-SRV-ATTR:ramdisk_id
		OS-EXT-SRV-ATTR:root_device_name OS-EXT-SRV-ATTR:user_data host_status`
)

func (n *novaBench) refusals(t *testing.T) {
	for _, c := range []struct {
		what    string
		who     *session
		version string
		changes map[string]any
		status  int
		key     string
		message string // has to be in the answer's
	}{
		{"unknown field", n.admin, "2.93", map[string]any{"bogus": 1}, 400, "badRequest", "Additional properties are not allowed ('bogus' was unexpected)"},
		{"host below 2.74", n.admin, "2.73", map[string]any{"host": fakeHost}, 400, "badRequest", "Additional properties are not allowed ('host' was unexpected)"},
		{"no name", n.admin, "2.93", map[string]any{"name": nil}, 400, "badRequest", "'name' is a required property"},
		{"empty name", n.admin, "2.93", map[string]any{"name": ""}, 400, "badRequest", "Invalid input for field/attribute name. Value: . '' is too short"},
		{"no flavor", n.admin, "2.93", map[string]any{"flavorRef": nil}, 400, "badRequest", "'flavorRef' is a required property"},
		{"unknown flavor", n.admin, "2.93", map[string]any{"flavorRef": "nosuch"}, 400, "badRequest", "Flavor nosuch could not be found."},
		{"unknown image", n.admin, "2.93", map[string]any{"imageRef": "11111111-2222-3333-4444-555555555555"}, 400, "badRequest", "Can not find requested image"},
		{"malformed image", n.admin, "2.93", map[string]any{"imageRef": "zzz"}, 400, "badRequest", "'zzz' is not valid under any of the given schemas"},
		{"no image", n.admin, "2.93", map[string]any{"imageRef": nil}, 400, "badRequest", "Missing imageRef attribute"},
		{"no networks", n.admin, "2.93", map[string]any{"networks": nil}, 400, "badRequest", "'networks' is a required property"},
		{"unknown host", n.admin, "2.93", map[string]any{"host": "nosuch"}, 400, "badRequest", "Compute host nosuch could not be found."},
		{"unknown hypervisor", n.admin, "2.93", map[string]any{"hypervisor_hostname": "nosuch"}, 400, "badRequest", "Compute host nosuch could not be found."},
		{"two hosts", n.admin, "2.93", map[string]any{"host": fakeHost, "hypervisor_hostname": fakeHost3}, 400, "badRequest", "Compute host " + fakeHost + " could not be found."},
		{"host as member", n.member, "2.93", map[string]any{"host": fakeHost}, 403, "forbidden", "Policy doesn't allow compute:servers:create:requested_destination to be performed."},
		{"az:host as member", n.member, "2.93", map[string]any{"availability_zone": "nova:" + fakeHost}, 403, "forbidden", "Policy doesn't allow os_compute_api:servers:create:forced_host to be performed."},
		{"reader", n.reader, "2.93", nil, 403, "forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed."},
		{"unknown key", n.admin, "2.93", map[string]any{"key_name": "nokey"}, 400, "badRequest", "Invalid key_name provided."},
		{"unknown zone", n.admin, "2.93", map[string]any{"availability_zone": "zzz"}, 400, "badRequest", "The requested availability zone is not available"},
		{"metadata number", n.admin, "2.93", map[string]any{"metadata": map[string]any{"a": 1}}, 400, "badRequest", "Invalid input for field/attribute a. Value: 1. 1 is not of type 'string'"},
		{"config_drive", n.admin, "2.93", map[string]any{"config_drive": "x"}, 400, "badRequest", "'x' is not one of [True, 'True'"},
	} {
		r := c.who.post(t, "compute", "/servers", n.server(c.changes), atNova(c.version)...)
		if r.status != c.status || !strings.Contains(r.text(c.key+".message"), c.message) || r.number(c.key+".code") != int64(c.status) {
			t.Errorf("%s: status %d, want %d %q: %s", c.what, r.status, c.status, c.message, short(r.raw))
		}
	}
	n.admin.post(t, "compute", "/servers", map[string]any{"x": 1}, newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "'server' is a required property")
	n.admin.post(t, "compute", "/servers", "{bad", newestNova...).want(t, http.StatusBadRequest).equal(t, "badRequest.message", "Malformed request body")
}

func (n *novaBench) life(t *testing.T) {
	made := n.admin.post(t, "compute", "/servers", n.server(map[string]any{"host": fakeHost, "metadata": map[string]string{"kiln": "k-1"}}), newestNova...).
		want(t, http.StatusAccepted).keys(t, "server", "id links OS-DCF:diskConfig security_groups adminPass").wantHeader(t, "Location", "")
	id := made.text("server.id")
	t.Cleanup(func() { n.remove(t, id) })
	n.until(t, id, "ACTIVE").keys(t, "server", serverKeys+newerServerKeys+adminKeys+newerAdminKeys).
		keys(t, "server.flavor", "vcpus ram disk ephemeral swap original_name extra_specs").keys(t, "server.image", "id links").
		equal(t, "server.OS-EXT-SRV-ATTR:host", fakeHost).equal(t, "server.OS-EXT-SRV-ATTR:hypervisor_hostname", fakeHost).
		equal(t, "server.OS-EXT-STS:vm_state", "active").equal(t, "server.OS-EXT-STS:power_state", 1).equal(t, "server.OS-EXT-AZ:availability_zone", "nova").
		equal(t, "server.metadata", map[string]string{"kiln": "k-1"}).equal(t, "server.addresses", map[string]string{}).
		equal(t, "server.image.id", n.image).equal(t, "server.flavor.original_name", "kiln.tiny").equal(t, "server.OS-DCF:diskConfig", "MANUAL").
		equal(t, "server.OS-EXT-SRV-ATTR:root_device_name", "/dev/sda").equal(t, "server.OS-EXT-SRV-ATTR:hostname", "kiln-conformance").
		equal(t, "server.OS-EXT-SRV-ATTR:kernel_id", "").equal(t, "server.host_status", "UP").equal(t, "server.progress", 0).
		equal(t, "server.tenant_id", n.admin.projectID).equal(t, "server.user_id", n.admin.userID).equal(t, "server.config_drive", "").
		contains(t, "server.OS-EXT-SRV-ATTR:reservation_id", "r-").contains(t, "server.OS-EXT-SRV-ATTR:instance_name", "instance-0000")
	n.admin.get(t, "compute", "/servers/"+id).want(t, http.StatusOK).keys(t, "server", serverKeys+adminKeys).keys(t, "server.flavor", "id links")
	n.admin.put(t, "compute", "/servers/"+id, map[string]any{"server": map[string]any{"name": "renamed"}}, newestNova...).want(t, http.StatusOK).
		equal(t, "server.name", "renamed")
	n.admin.delete(t, "compute", "/servers/"+id, newestNova...).want(t, http.StatusNoContent)
	n.remove(t, id)
	n.admin.get(t, "compute", "/servers/"+id, newestNova...).want(t, http.StatusNotFound).
		equal(t, "itemNotFound.message", "Instance "+id+" could not be found.").equal(t, "itemNotFound.code", 404)
	n.admin.delete(t, "compute", "/servers/"+id, newestNova...).want(t, http.StatusNotFound)
}

func (n *novaBench) lists(t *testing.T) {
	first := n.boot(t, n.admin, "ACTIVE", map[string]any{"name": "kiln-list-a", "host": fakeHost}).text("server.id")
	second := n.boot(t, n.admin, "ACTIVE", map[string]any{"name": "kiln-list-b", "host": fakeHost3}).text("server.id")
	ids := func(query string) []string {
		t.Helper()
		r := n.admin.get(t, "compute", "/servers"+query, newestNova...).want(t, http.StatusOK).keys(t, "servers.0", "id name links")
		return values(r.list("servers"), "id")
	}
	for query, want := range map[string][]string{
		"?name=kiln-list": {second, first}, "?name=kiln-list-a": {first}, "?all_tenants=1&host=" + fakeHost3 + "&name=kiln-list": {second},
		"?name=kiln-list&limit=1": {second}, "?name=kiln-list&marker=" + second: {first}, "?name=kiln-list&status=ACTIVE": {second, first},
		"?name=^kiln-list-b$": {second},
	} {
		if got := ids(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	n.admin.get(t, "compute", "/servers/detail?name=kiln-list&limit=1", newestNova...).want(t, http.StatusOK).
		keys(t, "servers.0", strings.Replace(serverKeys+newerServerKeys+adminKeys+newerAdminKeys, "server_groups", "", 1)).
		equal(t, "servers_links.0.rel", "next").contains(t, "servers_links.0.href", "marker="+second).contains(t, "servers_links.0.href", "limit=1")
	n.admin.get(t, "compute", "/servers?limit=0", newestNova...).want(t, http.StatusOK).equal(t, "servers", []string{})
	for query, message := range map[string]string{
		"?limit=x": "'x' does not match '^[0-9]*$'", "?marker=zzz": "marker [zzz] not found", "?status=bogus": "Invalid status value",
		"?bogus=1": "'bogus' does not match any of the regexes: '^_'",
	} {
		n.admin.get(t, "compute", "/servers"+query, newestNova...).want(t, http.StatusBadRequest).contains(t, "badRequest.message", message)
	}
}

func (n *novaBench) metadata(t *testing.T) {
	path := "/servers/" + n.boot(t, n.admin, "ACTIVE", map[string]any{"metadata": map[string]string{"a": "1"}}).text("server.id") + "/metadata"
	items := func(pairs map[string]any) map[string]any { return map[string]any{"metadata": pairs} }
	n.admin.get(t, "compute", path, newestNova...).want(t, http.StatusOK).equal(t, "metadata", map[string]string{"a": "1"})
	n.admin.post(t, "compute", path, items(map[string]any{"b": "2"}), newestNova...).want(t, http.StatusOK).
		equal(t, "metadata", map[string]string{"a": "1", "b": "2"})
	n.admin.put(t, "compute", path, items(map[string]any{"c": "3"}), newestNova...).want(t, http.StatusOK).equal(t, "metadata", map[string]string{"c": "3"})
	n.admin.post(t, "compute", path, items(map[string]any{"x": 1}), newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Invalid input for field/attribute x. Value: 1. 1 is not of type 'string'")
	n.admin.put(t, "compute", path+"/q", map[string]any{"meta": map[string]string{"q": "2"}}, newestNova...).want(t, http.StatusOK).
		equal(t, "meta", map[string]string{"q": "2"})
	n.admin.put(t, "compute", path+"/q", map[string]any{"meta": map[string]string{"r": "2"}}, newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Request body and URI mismatch")
	n.admin.get(t, "compute", path+"/q", newestNova...).want(t, http.StatusOK).equal(t, "meta", map[string]string{"q": "2"})
	n.admin.delete(t, "compute", path+"/q", newestNova...).want(t, http.StatusNoContent)
	n.admin.delete(t, "compute", path+"/q", newestNova...).want(t, http.StatusNotFound).equal(t, "itemNotFound.message", "Metadata item was not found")
	n.reader.put(t, "compute", path, items(map[string]any{"c": "3"}), newestNova...).want(t, http.StatusNotFound)
}

func (n *novaBench) actions(t *testing.T) {
	id := n.boot(t, n.admin, "ACTIVE", map[string]any{"host": fakeHost}).text("server.id")
	act := func(body any) *reply {
		t.Helper()
		return n.admin.post(t, "compute", "/servers/"+id+"/action", body, newestNova...)
	}
	act(map[string]any{"os-getConsoleOutput": map[string]any{}}).want(t, http.StatusOK).equal(t, "output", "FAKE CONSOLE OUTPUT\nANOTHER\nLAST LINE")
	act(map[string]any{"os-getConsoleOutput": map[string]any{"length": 1}}).want(t, http.StatusOK).equal(t, "output", "LAST LINE")
	act(map[string]any{"bogus": nil}).want(t, http.StatusBadRequest).equal(t, "badRequest.message", "There is no such action: bogus")
	act(map[string]any{}).want(t, http.StatusBadRequest).equal(t, "badRequest.message", "Malformed request body")
	act(map[string]any{"reboot": map[string]string{"type": "x"}}).want(t, http.StatusBadRequest).contains(t, "badRequest.message", "'x' is not one of ['HARD'")
	act(map[string]any{"os-start": nil}).want(t, http.StatusConflict).
		equal(t, "conflictingRequest.message", "Cannot 'start' instance "+id+" while it is in vm_state active")
	act(map[string]any{"os-stop": nil}).want(t, http.StatusAccepted)
	stopped := n.until(t, id, "SHUTOFF").equal(t, "server.OS-EXT-STS:power_state", 4).equal(t, "server.OS-EXT-STS:vm_state", "stopped")
	if at(stopped.body, "server.progress") != nil {
		t.Errorf("a stopped server shows progress: %s", short(stopped.raw))
	}
	act(map[string]any{"os-start": nil}).want(t, http.StatusAccepted)
	n.until(t, id, "ACTIVE")
	act(map[string]any{"reboot": map[string]string{"type": "HARD"}}).want(t, http.StatusAccepted)
	n.until(t, id, "ACTIVE")
}

func (n *novaBench) noHost(t *testing.T) {
	made := n.admin.post(t, "compute", "/flavors", map[string]any{"flavor": map[string]any{
		"name": unique("huge"), "vcpus": 5000, "ram": 64, "disk": 1,
	}}, newestNova...).want(t, http.StatusOK)
	huge := made.text("flavor.id")
	t.Cleanup(func() { n.admin.delete(t, "compute", "/flavors/"+huge, newestNova...) })
	failed := n.boot(t, n.member, "ERROR", map[string]any{"flavorRef": huge})
	id := failed.text("server.id")
	failed.equal(t, "server.fault.message", "No valid host was found. ").equal(t, "server.fault.code", 500).keys(t, "server.fault", "code created message details").
		equal(t, "server.OS-EXT-SRV-ATTR:host", nil).equal(t, "server.OS-EXT-STS:vm_state", "error").equal(t, "server.hostId", "").
		equal(t, "server.OS-EXT-STS:power_state", 0).equal(t, "server.OS-EXT-AZ:availability_zone", "nova")
	n.member.get(t, "compute", "/servers/"+id, newestNova...).want(t, http.StatusOK).keys(t, "server.fault", "code created message")
	if held := n.admin.get(t, "placement", "/allocations/"+id).want(t, http.StatusOK); render(at(held.body, "allocations")) != "{}" {
		t.Errorf("a server without a host holds %s", held.raw)
	}
	for _, action := range []map[string]any{{"os-getConsoleOutput": map[string]any{}}, {"os-stop": nil}} {
		n.admin.post(t, "compute", "/servers/"+id+"/action", action, newestNova...).want(t, http.StatusConflict).
			equal(t, "conflictingRequest.message", "Instance "+id+" is not ready")
	}
}

func (n *novaBench) projects(t *testing.T) {
	own := n.boot(t, n.member, "ACTIVE", nil).text("server.id")
	other := n.boot(t, n.admin, "ACTIVE", nil).text("server.id")
	n.member.get(t, "compute", "/servers/"+own, newestNova...).want(t, http.StatusOK).keys(t, "server", serverKeys+newerServerKeys)
	n.reader.get(t, "compute", "/servers/"+own, newestNova...).want(t, http.StatusOK)
	n.member.get(t, "compute", "/servers/"+other, newestNova...).want(t, http.StatusNotFound)
	n.member.delete(t, "compute", "/servers/"+other, newestNova...).want(t, http.StatusNotFound)
	n.reader.delete(t, "compute", "/servers/"+own, newestNova...).want(t, http.StatusForbidden).
		equal(t, "forbidden.message", "Policy doesn't allow os_compute_api:servers:delete to be performed.")
	listed := values(n.member.get(t, "compute", "/servers", newestNova...).want(t, http.StatusOK).list("servers"), "id")
	if !slices.Contains(listed, own) || slices.Contains(listed, other) {
		t.Errorf("a member lists %v; own %s, another project's %s", listed, own, other)
	}
	n.member.get(t, "compute", "/servers?all_tenants=1", newestNova...).want(t, http.StatusForbidden).
		equal(t, "forbidden.message", "Policy doesn't allow os_compute_api:servers:index:get_all_tenants to be performed.")
}

// allocation: the claim lies on the host's provider under the server's id, and goes with the server.
func (n *novaBench) allocation(t *testing.T) {
	id := n.boot(t, n.admin, "ACTIVE", map[string]any{"host": fakeHost}).text("server.id")
	provider := n.admin.get(t, "placement", "/resource_providers?name="+fakeHost).want(t, http.StatusOK).text("resource_providers.0.uuid")
	held := n.admin.get(t, "placement", "/allocations/"+id, "OpenStack-API-Version", "placement 1.38").want(t, http.StatusOK)
	held.equal(t, "allocations."+provider+".resources", map[string]int{"DISK_GB": 1, "MEMORY_MB": 128, "VCPU": 1}).
		equal(t, "project_id", n.admin.projectID).equal(t, "user_id", n.admin.userID).equal(t, "consumer_type", "unknown")
	n.remove(t, id)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left := n.admin.get(t, "placement", "/allocations/"+id).want(t, http.StatusOK)
		if render(at(left.body, "allocations")) == "{}" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the deleted server still holds %s", left.raw)
		}
	}
}
