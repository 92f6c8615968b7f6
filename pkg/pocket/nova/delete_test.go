package nova_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/pocket/nova"
)

// TestDeleteTwiceDuringABuild: the build that is under way does not hide a delete, so that a second one does nothing.
func TestDeleteTwiceDuringABuild(t *testing.T) {
	l := newLab(t, nova.Deps{}, "fake")
	image := l.image("raw", []byte("a disk"))
	reached, goOn := make(chan struct{}), make(chan struct{})
	pause := func() {
		for _, c := range []chan struct{}{reached, goOn} {
			select {
			case c <- struct{}{}:
			case <-t.Context().Done():
			}
		}
	}
	var deleted atomic.Bool
	l.mu.Lock()
	l.hold = func(n note) {
		switch event := n.message["event_type"]; {
		case n.key != "versioned_notifications.info":
		case event == "instance.create.start":
			pause()
		case event == "instance.update" && deleted.CompareAndSwap(true, false): // the build goes on to the node
			pause()
		}
	}
	l.mu.Unlock()
	id := l.create(image, "node1")
	<-reached
	l.call(http.MethodDelete, l.compute("/servers/"+id), nil, http.StatusNoContent)
	deleted.Store(true)
	<-goOn
	<-reached
	_, shown := l.call(http.MethodGet, l.compute("/servers/"+id), nil, http.StatusOK)
	if server, _ := shown["server"].(map[string]any); server["OS-EXT-STS:task_state"] != "deleting" {
		t.Errorf("task_state is %v after the delete", server["OS-EXT-STS:task_state"])
	}
	l.call(http.MethodDelete, l.compute("/servers/"+id), nil, http.StatusNoContent)
	<-goOn
	l.eventually("the server is gone", func() bool { return l.holds(id) == "map[]" })
	if err := l.Close(); err != nil { // waits for what still runs
		t.Fatal(err)
	}
	for _, event := range []string{"instance.delete.start", "instance.delete.end"} {
		if list := l.notes("versioned_notifications.info", event); len(list) != 1 {
			t.Errorf("%d of %s, want 1", len(list), event)
		}
	}
}
