package placement_test

import (
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/placement"
)

func node(name, cluster string, free int64) placement.Node {
	return placement.Node{
		Name: name, Cluster: cluster, NovaHost: name, ZunHost: name, Up: true,
		Capacity: placement.Resources{VCPUs: 8, MemoryMB: 8192, DiskGB: 100},
		Foreign:  placement.Resources{VCPUs: 8 - free},
	}
}

func TestChooseLikesTheCopy(t *testing.T) {
	nodes := []placement.Node{node("a1", "a", 8), node("b1", "b", 4), node("b2", "b", 2)}
	ask := placement.Ask{Kind: placement.VM, Resources: placement.Resources{VCPUs: 1, MemoryMB: 512, DiskGB: 4}}
	for _, c := range []struct {
		name string
		set  func(a *placement.Ask)
		want string
	}{
		{"most room", func(*placement.Ask) {}, "a1 b1 b2"},
		{"planted", func(a *placement.Ask) { a.Planted = map[string]bool{"b2": true} }, "b2 a1 b1"},
		{"cluster has a copy", func(a *placement.Ask) { a.Near = map[string]bool{"b": true} }, "b1 b2 a1"},
		{"asked cluster", func(a *placement.Ask) { a.Cluster = "b" }, "b1 b2"},
		{"asked node", func(a *placement.Ask) { a.Node = "b2" }, "b2"},
		{"refused before", func(a *placement.Ask) { a.Avoid = []string{"a1"} }, "b1 b2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask
			c.set(&a)
			got, err := placement.Choose(nodes, a)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, n := range got {
				names = append(names, n.Name)
			}
			if strings.Join(names, " ") != c.want {
				t.Errorf("got %v, want %s", names, c.want)
			}
		})
	}
}

func TestChooseExplainsRefusals(t *testing.T) {
	down, off, vmOnly := node("d", "", 8), node("o", "", 8), node("v", "", 8)
	down.Up, off.Disabled, vmOnly.ZunHost = false, true, ""
	_, err := placement.Choose([]placement.Node{down, off, vmOnly, node("full", "", 0)},
		placement.Ask{Kind: placement.Container, Resources: placement.Resources{VCPUs: 1}})
	if err == nil {
		t.Fatal("a node was chosen")
	}
	for _, want := range []string{"the node is down (1)", "the node is disabled (1)", "no manager for this kind runs there (1)", "not enough free vCPUs, RAM or disk (1)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %s", want, err)
		}
	}
	if _, err := placement.Choose(nil, placement.Ask{}); err == nil || !strings.Contains(err.Error(), "Kiln knows no node") {
		t.Errorf("error %v", err)
	}
}
