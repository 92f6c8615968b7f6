package solve

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// memory keeps what was solved over one set of lists: many images of a cloud have the same packages, and apt's answer
// depends on nothing but the lists, the package state and the policy. It goes with its lists.
type memory struct {
	mu    sync.Mutex
	plans map[[sha256.Size]byte]upgrade.Plan
}

// maxRemembered bounds it: a plan is some 100 KB.
const maxRemembered = 256

// once answers what was solved for an equal question, or solves it. Two that ask at the same time may both solve.
func (m *memory) once(q upgrade.Question, solve func() (upgrade.Plan, error)) (upgrade.Plan, error) {
	key := keyOf(q)
	m.mu.Lock()
	p, known := m.plans[key]
	m.mu.Unlock()
	if known {
		return p, nil
	}
	p, err := solve()
	if err != nil {
		return p, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.plans == nil || len(m.plans) >= maxRemembered {
		m.plans = map[[sha256.Size]byte]upgrade.Plan{}
	}
	m.plans[key] = p
	return p, nil
}

// keyOf names all of a question that its answer depends on; each part with its length.
func keyOf(q upgrade.Question) (key [sha256.Size]byte) {
	h := sha256.New()
	part := func(h hash.Hash, b []byte) {
		h.Write(fmt.Appendf(nil, "%d %t\n", len(b), b == nil))
		h.Write(b)
	}
	part(h, fmt.Appendf(nil, "%s %s %+v %+v %+v", q.Release, q.Architecture, q.Policy, q.Suites, q.Repositories))
	part(h, q.State.Status)
	part(h, q.State.Foreign)
	part(h, q.State.Extended)
	for _, name := range slices.Sorted(maps.Keys(q.State.Preferences)) {
		part(h, []byte(name))
		part(h, q.State.Preferences[name])
	}
	if r := q.State.RPM; r != nil {
		part(h, []byte(r.Path))
		part(h, r.Database)
		part(h, r.Log)
		part(h, r.Owner)
		part(h, r.OSRelease)
		for _, name := range slices.Sorted(maps.Keys(r.Modules)) {
			part(h, []byte(name))
			part(h, r.Modules[name])
		}
	}
	h.Sum(key[:0])
	return key
}
