package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Ask is what a node is chosen for.
type Ask struct {
	Kind      Kind
	Resources Resources
	Cluster   string   // "" any
	Node      string   // "" any
	Avoid     []string // nodes that refused this workload already
	// Planted names the nodes whose own image cache has the image; Near the clusters whose store has it.
	Planted map[string]bool
	Near    map[string]bool
}

// Filter says why a node cannot take the workload, "" where it can.
type Filter struct {
	Name   string
	Reject func(n Node, a Ask) string
}

// Weight says how much a node is liked, from 0 to 1; its share of the sum is Factor.
type Weight struct {
	Name   string
	Factor float64
	Score  func(n Node, a Ask) float64
}

// Filters are the rules that a node must pass, in order of their cost.
func Filters() []Filter {
	return []Filter{
		{"up", func(n Node, _ Ask) string { return when(!n.Up, "the node is down") }},
		{"enabled", func(n Node, _ Ask) string { return when(n.Disabled, "the node is disabled") }},
		{"named", func(n Node, a Ask) string {
			return when(a.Node != "" && a.Node != n.Name, "another node was asked for")
		}},
		{"cluster", func(n Node, a Ask) string {
			return when(a.Cluster != "" && a.Cluster != n.Cluster, "the node is not in the cluster")
		}},
		{"refused", func(n Node, a Ask) string {
			return when(slices.Contains(a.Avoid, n.Name), "the node refused the workload")
		}},
		{"manager", func(n Node, a Ask) string {
			return when(a.Kind == VM && n.NovaHost == "" || a.Kind == Container && n.ZunHost == "", "no manager for this kind runs there")
		}},
		{"capacity", func(n Node, a Ask) string {
			return when(!a.Resources.Fits(n.Free()), "not enough free vCPUs, RAM or disk")
		}},
	}
}

// Weights are the wishes: a copy near by counts more than an even load.
func Weights() []Weight {
	return []Weight{
		{"copy", 2, func(n Node, a Ask) float64 {
			switch {
			case a.Planted[n.Name]:
				return 1
			case a.Near[n.Cluster]:
				return 0.5
			}
			return 0
		}},
		{"free", 1, func(n Node, _ Ask) float64 {
			free := n.Free()
			return (share(free.VCPUs, n.Capacity.VCPUs) + share(free.MemoryMB, n.Capacity.MemoryMB)) / 2
		}},
	}
}

// Free is what the node has left for new claims.
func (n Node) Free() Resources { return n.Capacity.Sub(n.Foreign).Sub(n.Held) }

func when(bad bool, reason string) string {
	if bad {
		return reason
	}
	return ""
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Choose ranks the nodes that can take the workload, best first. Where there is none, the error is
// errs.Conflict and says how many nodes each rule refused.
func Choose(nodes []Node, a Ask) ([]Node, error) {
	var fit []Node
	refused := map[string]int{}
	for _, n := range nodes {
		if reason := reject(n, a); reason != "" {
			refused[reason]++
			continue
		}
		fit = append(fit, n)
	}
	if len(fit) == 0 {
		return nil, errs.New(errs.Conflict, "kiln.placement.no_node", "no node can take the workload: %s", tally(refused))
	}
	slices.SortStableFunc(fit, func(x, y Node) int {
		if c := cmp.Compare(score(y, a), score(x, a)); c != 0 {
			return c
		}
		return strings.Compare(x.Name, y.Name)
	})
	return fit, nil
}

func reject(n Node, a Ask) string {
	for _, f := range Filters() {
		if reason := f.Reject(n, a); reason != "" {
			return reason
		}
	}
	return ""
}

func score(n Node, a Ask) float64 {
	var sum float64
	for _, w := range Weights() {
		sum += w.Factor * w.Score(n, a)
	}
	return sum
}

func tally(refused map[string]int) string {
	if len(refused) == 0 {
		return "Kiln knows no node"
	}
	var out []string
	for reason, count := range refused {
		out = append(out, fmt.Sprintf("%s (%d)", reason, count))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
