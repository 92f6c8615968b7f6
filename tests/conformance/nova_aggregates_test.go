package conformance

import (
	"fmt"
	"net/http"
	"testing"
)

// newAggregate makes an aggregate that is gone at the end of the test, and answers its path.
func (n *novaBench) newAggregate(t *testing.T, name string) string {
	t.Helper()
	made := n.admin.post(t, "compute", "/os-aggregates", map[string]any{"aggregate": map[string]any{"name": name}}, newestNova...).
		want(t, http.StatusOK).keys(t, "aggregate", "id uuid name created_at updated_at deleted_at deleted availability_zone")
	path := fmt.Sprintf("/os-aggregates/%d", made.number("aggregate.id"))
	t.Cleanup(func() {
		for _, host := range []string{fakeHost, fakeHost3} {
			n.admin.post(t, "compute", path+"/action", map[string]any{"remove_host": map[string]string{"host": host}}, newestNova...)
		}
		n.admin.delete(t, "compute", path, newestNova...)
	})
	return path
}

func (n *novaBench) aggregates(t *testing.T) {
	first, second := unique("a"), unique("b")
	path := n.newAggregate(t, first)
	id := path[len("/os-aggregates/"):]
	act := func(action string, body map[string]any) *reply {
		t.Helper()
		return n.admin.post(t, "compute", path+"/action", map[string]any{action: body}, newestNova...)
	}
	n.admin.post(t, "compute", "/os-aggregates", map[string]any{"aggregate": map[string]any{"name": first}}, newestNova...).
		want(t, http.StatusConflict).equal(t, "conflictingRequest.message", "Aggregate "+first+" already exists.")
	n.admin.post(t, "compute", "/os-aggregates", map[string]any{}, newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "'aggregate' is a required property")
	n.admin.get(t, "compute", path, newestNova...).want(t, http.StatusOK).
		keys(t, "aggregate", "id uuid name hosts metadata created_at updated_at deleted_at deleted availability_zone").
		equal(t, "aggregate.hosts", []string{}).equal(t, "aggregate.metadata", map[string]string{}).equal(t, "aggregate.availability_zone", nil)
	n.admin.get(t, "compute", path).want(t, http.StatusOK).keys(t, "aggregate", "id name hosts metadata created_at updated_at deleted_at deleted availability_zone")
	n.admin.put(t, "compute", path, map[string]any{"aggregate": map[string]any{"name": second}}, newestNova...).want(t, http.StatusOK).
		equal(t, "aggregate.name", second)
	act("add_host", map[string]any{"host": "nosuch"}).want(t, http.StatusNotFound).equal(t, "itemNotFound.message", "Compute host nosuch could not be found.")
	act("add_host", map[string]any{"host": fakeHost}).want(t, http.StatusOK).equal(t, "aggregate.hosts", []string{fakeHost})
	act("add_host", map[string]any{"host": fakeHost}).want(t, http.StatusConflict).
		equal(t, "conflictingRequest.message", "Aggregate "+id+" already has host "+fakeHost+".")
	act("remove_host", map[string]any{"host": fakeHost3}).want(t, http.StatusNotFound).
		equal(t, "itemNotFound.message", "Cannot remove host "+fakeHost3+" in aggregate "+id)
	act("set_metadata", map[string]any{"metadata": map[string]any{"k": "v"}}).want(t, http.StatusOK).equal(t, "aggregate.metadata", map[string]string{"k": "v"})
	act("set_metadata", map[string]any{"metadata": map[string]any{"k": nil}}).want(t, http.StatusOK).equal(t, "aggregate.metadata", map[string]string{})
	act("bogus", map[string]any{}).want(t, http.StatusBadRequest).equal(t, "badRequest.message", "There is no such action: bogus")
	n.admin.delete(t, "compute", path, newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Cannot remove host from aggregate "+id+". Reason: Host aggregate is not empty.")
	act("remove_host", map[string]any{"host": fakeHost}).want(t, http.StatusOK).equal(t, "aggregate.hosts", []string{})
	n.admin.delete(t, "compute", path, newestNova...).want(t, http.StatusOK)
	n.admin.get(t, "compute", path, newestNova...).want(t, http.StatusNotFound).equal(t, "itemNotFound.message", "Aggregate "+id+" could not be found.")
	n.admin.get(t, "compute", "/os-aggregates/abc", newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Invalid input received: id must be an integer")
	n.member.get(t, "compute", "/os-aggregates", newestNova...).want(t, http.StatusForbidden)
}

func (n *novaBench) precache(t *testing.T) {
	path := n.newAggregate(t, unique("cache")) + "/images"
	wish := func(ids ...string) map[string]any {
		list := []map[string]string{}
		for _, id := range ids {
			list = append(list, map[string]string{"id": id})
		}
		return map[string]any{"cache": list}
	}
	n.admin.post(t, "compute", path, wish(n.image), newestNova...).want(t, http.StatusAccepted)
	n.admin.post(t, "compute", path, wish(n.image), atNova("2.80")...).want(t, http.StatusNotFound)
	n.admin.post(t, "compute", path, wish("11111111-2222-3333-4444-555555555555"), newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Image 11111111-2222-3333-4444-555555555555 could not be found.")
	n.admin.post(t, "compute", path, wish(n.image, n.image), newestNova...).want(t, http.StatusBadRequest).
		equal(t, "badRequest.message", "Duplicate images in request")
	n.admin.post(t, "compute", path, wish(), newestNova...).want(t, http.StatusBadRequest).contains(t, "badRequest.message", "[] is too short")
	n.admin.post(t, "compute", path, map[string]any{}, newestNova...).want(t, http.StatusBadRequest).equal(t, "badRequest.message", "'cache' is a required property")
	n.member.post(t, "compute", path, wish(n.image), newestNova...).want(t, http.StatusForbidden).
		equal(t, "forbidden.message", "Policy doesn't allow compute:aggregates:images to be performed.")
	n.admin.post(t, "compute", "/os-aggregates/999999/images", wish(n.image), newestNova...).want(t, http.StatusNotFound)
}
