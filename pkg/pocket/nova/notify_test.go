package nova_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
)

// open are objects whose keys are the image's or the user's own.
var open = []string{"metadata", "image_meta", "extra_specs"}

// sameShape holds a notification against one of a real Nova: the same keys everywhere, and the same types but
// where one of the two is null.
func sameShape(t *testing.T, sample string, got map[string]any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + sample + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var envelope struct {
		Message string `json:"oslo.message"`
	}
	want := map[string]any{}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(envelope.Message), &want); err != nil {
		t.Fatal(err)
	}
	for _, m := range []map[string]any{want, got} { // of the request's context pkg/pocket/wire sends what Kiln reads
		maps.DeleteFunc(m, func(key string, _ any) bool { return strings.HasPrefix(key, "_context_") })
	}
	compareShape(t, sample, want, got)
	for _, key := range []string{"event_type", "priority"} {
		if want[key] != got[key] {
			t.Errorf("%s: %s is %v, want %v", sample, key, got[key], want[key])
		}
	}
}

func compareShape(t *testing.T, path string, want, got any) {
	t.Helper()
	recorded, isObject := want.(map[string]any)
	if want == nil || got == nil {
		return
	}
	if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
		t.Errorf("%s is %T, recorded %T", path, got, want)
		return
	}
	if !isObject {
		return
	}
	own, _ := got.(map[string]any)
	if a, b := slices.Sorted(maps.Keys(recorded)), slices.Sorted(maps.Keys(own)); !slices.Equal(a, b) {
		t.Errorf("%s: keys\n %v\nrecorded\n %v", path, b, a)
	}
	for key, value := range recorded {
		switch {
		case slices.Contains(open, key):
		case key == "nova_object.name" || key == "nova_object.version" || key == "nova_object.namespace":
			if value != own[key] {
				t.Errorf("%s.%s is %v, recorded %v", path, key, own[key], value)
			}
		default:
			compareShape(t, path+"."+key, value, own[key])
		}
	}
}

// TestNotifications: a server's life is told in the shapes of a real Nova, versioned and not.
func TestNotifications(t *testing.T) {
	l := newLab(t, nova.Deps{}, "fake")
	image := l.image("raw", []byte("a disk"))
	id := fmt.Sprint(l.boot(image, "node1", "ACTIVE")["id"])
	l.remove(id)
	l.eventually("instance.delete.end", func() bool { return len(l.notes("versioned_notifications.info", "instance.delete.end")) == 1 })
	for _, event := range []string{"instance.create.start", "instance.create.end", "instance.shutdown.end", "instance.delete.end"} {
		list := l.notes("versioned_notifications.info", event)
		if len(list) != 1 {
			t.Fatalf("%d of %s, want 1", len(list), event)
		}
		sameShape(t, "nova-versioned_notifications.info-"+event, list[0])
	}
	updates := l.notes("versioned_notifications.info", "instance.update")
	var changes []string
	for _, update := range updates {
		change := transition(update)
		changes = append(changes, change)
		switch change {
		case "building>active":
			sameShape(t, "nova-versioned_notifications.info-instance.update-building-to-active", update)
		case "active>deleted":
			sameShape(t, "nova-versioned_notifications.info-instance.update-active-to-deleted", update)
		}
	}
	for _, change := range []string{"building>active", "active>deleted"} {
		if !slices.Contains(changes, change) {
			t.Errorf("no instance.update %s among %v", change, changes)
		}
	}
	for _, event := range []string{"compute.instance.create.end", "compute.instance.update", "compute.instance.delete.end"} {
		list := l.notes("notifications.info", event)
		if len(list) == 0 {
			t.Fatalf("no %s", event)
		}
		sameShape(t, "nova-notifications.info-"+event, list[0])
	}
	if n := l.downloads(image); n != 0 {
		t.Errorf("the fake driver downloaded %d times", n)
	}
}

// transition is "old>new" of an instance.update.
func transition(update map[string]any) string {
	payload, _ := update["payload"].(map[string]any)
	data, _ := payload["nova_object.data"].(map[string]any)
	state, _ := data["state_update"].(map[string]any)
	inner, _ := state["nova_object.data"].(map[string]any)
	return fmt.Sprintf("%v>%v", inner["old_state"], inner["state"])
}
